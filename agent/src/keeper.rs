//! What the agent does again and again, besides VMs: whenever something has changed, and with growing pauses where it failed.

use std::time::Duration;

use futures::future::select_all;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tracing::warn;
use ucloud_agent_core::HostError;

use crate::{api::ApiError, config::Timing};

/// The shortest time between the beginnings of two rounds that report what changes fast, such as progress.
const PAUSE: Duration = Duration::from_secs(1);
/// The same where the second has something to report that somebody waits for.
const SOON: Duration = Duration::from_millis(100);

/// Why something is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The host could not do what it was asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The API server could not be asked or told.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// Does `round` now and whenever one of `changes` tells of something, until one of them has ended. `failed` is what is said of
/// a round that fails.
pub async fn keep<F>(
    timing: &Timing,
    mut changes: Vec<watch::Receiver<u64>>,
    failed: &str,
    mut round: impl FnMut() -> F,
) where
    F: Future<Output = Result<(), Failure>>,
{
    let mut failures = 0;
    loop {
        let retry = match round().await {
            Ok(()) => {
                failures = 0;
                None
            }
            Err(error) => {
                failures += 1;
                warn!(failures, error = &error as &dyn std::error::Error, "{failed}");
                Some(Instant::now() + timing.retry(failures))
            }
        };
        let changed = select_all(changes.iter_mut().map(|change| Box::pin(change.changed())));
        let alive = tokio::select! {
            (changed, ..) = changed => changed.is_ok(),
            () = until(retry) => true,
        };
        if !alive {
            return;
        }
    }
}

/// Returns at this time; never, if there is none.
pub async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Returns when it is time for the round after the one that began at `begun`: what comes meanwhile is reported with it, all at
/// once. It comes sooner when `awaited` is told of something that somebody waits for.
pub async fn pause(begun: Instant, awaited: &Notify) {
    tokio::select! {
        () = sleep_until(begun + PAUSE) => {}
        () = awaited.notified() => sleep_until(begun + SOON).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_somebody_waits_for_is_reported_soon() {
        let (awaited, begun) = (Notify::new(), Instant::now());
        pause(begun, &awaited).await;
        assert_eq!(begun.elapsed(), PAUSE);

        let begun = Instant::now();
        awaited.notify_one();
        pause(begun, &awaited).await;
        assert_eq!(begun.elapsed(), SOON);

        // A round that took longer is followed by the next at once, whoever waits
        awaited.notify_one();
        pause(begun, &awaited).await;
        assert_eq!(begun.elapsed(), SOON);
        pause(begun, &awaited).await;
        assert_eq!(begun.elapsed(), PAUSE, "it was told once");
    }
}
