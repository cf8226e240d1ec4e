//! Waits for conditions. Time alone is never waited for.

use std::time::{Duration, Instant};

use anyhow::bail;

/// Looks until there is an answer. `look` gives the answer, or says what is still missing; an error of it ends
/// the wait at once. `limit` only keeps a failed test from hanging.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Result<T, String>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look()? {
            Ok(answer) => return Ok(answer),
            Err(missing) if Instant::now() >= deadline => bail!("{what}: not within {limit:?}: {missing}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
