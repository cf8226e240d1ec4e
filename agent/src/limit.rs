//! Calls to the host take a limited time.

use std::{future::Future, time::Duration};

use ucloud_agent_core::HostError;

/// What `call` answers, or that it took too long. Whatever it was doing may be interrupted: the next call completes it.
pub async fn limited<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, HostError>>,
) -> Result<T, HostError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer,
        Err(_) => Err(HostError::retryable(
            "Timeout",
            format!("the host did not {what} within {} s; it is tried again", limit.as_secs()),
        )),
    }
}
