//! What the agent does again and again, besides VMs: whenever something has changed, and with growing pauses where it failed.

use futures::future::select_all;
use tokio::{sync::watch, time::Instant};
use tracing::warn;
use ucloud_agent_core::HostError;

use crate::{api::ApiError, config::Timing};

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
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
