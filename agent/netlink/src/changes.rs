//! The counter behind [`Net::changes`](ucloud_agent_core::Net::changes).

use std::sync::Arc;

use tokio::sync::watch;

/// A value that changes whenever something was learnt or a device changed.
#[derive(Clone, Debug)]
pub(crate) struct Changes(Arc<watch::Sender<u64>>);

impl Changes {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    pub fn tick(&self) {
        self.0.send_modify(|count| *count = count.wrapping_add(1));
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }
}
