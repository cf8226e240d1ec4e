//! The simulated packet filter.

use async_trait::async_trait;
use tokio::sync::watch;
use ucloud_agent_core::{Firewall, HostError, firewall::Rules};

use crate::{Method, SimHost};

#[async_trait]
impl Firewall for SimHost {
    async fn enforce(&self, rules: &Rules) -> Result<(), HostError> {
        self.call(Method::Enforce, async || {
            self.state().rules = rules.clone();
            Ok(())
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.rules_changed.subscribe()
    }
}

impl SimHost {
    /// The rules in force.
    pub fn rules(&self) -> Rules {
        self.state().rules.clone()
    }

    /// Somebody takes all rules away.
    pub fn flush_rules(&self) {
        self.state().rules = Rules::default();
        self.rules_changed.send_modify(|count| *count += 1);
    }
}
