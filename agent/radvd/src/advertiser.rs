//! The adapter: [`RouterAdvertiser`] by one radvd process.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinHandle;
use ucloud_agent_core::{HostError, RouterAdvertiser, net::Advertisement};

use crate::{
    keeper::Keeper,
    paths::Config,
    render::{Rendered, render},
};

/// Advertises routers by one radvd process.
///
/// What cannot be advertised is left out, and said in a terminal error after everything else is advertised.
#[derive(Debug)]
pub struct Radvd {
    keeper: Arc<Keeper>,
    supervision: JoinHandle<()>,
}

impl Radvd {
    /// Begins to supervise. What an earlier agent left running goes on, and is looked for at the first
    /// [`RouterAdvertiser::advertise`]. Runs in a tokio runtime.
    pub fn new(config: Config) -> Self {
        let keeper = Arc::new(Keeper::new(config));
        Self { supervision: tokio::spawn(keeper.clone().supervise()), keeper }
    }
}

impl Drop for Radvd {
    /// Ends the supervision. radvd goes on.
    fn drop(&mut self) {
        self.supervision.abort();
    }
}

#[async_trait]
impl RouterAdvertiser for Radvd {
    async fn advertise(&self, advertisements: &[Advertisement], handed_over: &[String]) -> Result<(), HostError> {
        let Rendered { text, left_out } = render(advertisements);
        self.keeper.ensure(text.as_deref(), handed_over).await.map_err(|error| {
            let failed = HostError::retryable("RadvdFailed", format!("radvd does not advertise as it should: {error}"));
            match error.into_cause() {
                Some(cause) => failed.caused_by(cause),
                None => failed,
            }
        })?;
        if left_out.is_empty() {
            return Ok(());
        }
        let left_out = left_out.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Err(HostError::terminal("InvalidAdvertisement", format!("not all of it can be advertised: {left_out}")))
    }
}
