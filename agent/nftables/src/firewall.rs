//! The adapter: what is in force, and how it becomes what it should be.

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};
use tracing::{info, warn};
use ucloud_agent_core::{Firewall, HostError, firewall::Rules};

use crate::{
    monitor::monitor,
    nft::{self, NftError},
    present::Present,
    render::{RuleSet, render},
};

/// Filters by nftables.
#[derive(Debug)]
pub struct Nftables {
    /// Whoever writes holds it.
    applied: Mutex<Option<Applied>>,
    changes: watch::Sender<u64>,
    monitor: JoinHandle<()>,
}

/// What this adapter has written.
#[derive(Debug)]
struct Applied {
    rules: RuleSet,
    /// What nft listed right afterwards.
    listed: Present,
    /// The count of changes at which the tables were last known to be so.
    seen: u64,
}

impl Nftables {
    /// Begins to listen for changes. What an earlier agent left in force stays until the first
    /// [`Firewall::enforce`]. Runs in a tokio runtime.
    pub fn start() -> Self {
        let (changes, _) = watch::channel(0);
        Self { applied: Mutex::default(), monitor: tokio::spawn(monitor(changes.clone())), changes }
    }

    /// Whether the tables are as this adapter has left them.
    async fn is_intact(&self, applied: &mut Applied) -> Result<bool, NftError> {
        let now = *self.changes.borrow();
        if applied.seen == now {
            return Ok(true);
        }
        let intact = Present::read().await? == applied.listed;
        if intact {
            applied.seen = now;
        } else {
            warn!("somebody has changed the packet filter of ucloud by hand: it is put right");
        }
        Ok(intact)
    }

    async fn write(&self, rules: RuleSet) -> Result<Applied, NftError> {
        let before = Present::read().await?;
        let seen = *self.changes.borrow();
        if let Err(error) = nft::apply(&rules.script(&before)).await {
            // What is kept of an older version may not fit
            warn!(
                error = &error as &dyn std::error::Error,
                "the packet filter is written anew: connections are forgotten"
            );
            nft::apply(&rules.script_anew()).await?;
        }
        info!("the packet filter has changed");
        Ok(Applied { listed: Present::read().await?, rules, seen })
    }
}

impl Drop for Nftables {
    /// Ends the listening. The rules stay in force.
    fn drop(&mut self) {
        self.monitor.abort();
    }
}

#[async_trait]
impl Firewall for Nftables {
    async fn enforce(&self, rules: &Rules) -> Result<(), HostError> {
        let wanted = render(rules);
        let mut applied = self.applied.lock().await;
        let failed = |error: NftError| {
            HostError::retryable("FirewallFailed", format!("the packet filter is not in force: {error}"))
                .caused_by(error)
        };
        if let Some(applied) = applied.as_mut().filter(|applied| applied.rules == wanted)
            && self.is_intact(applied).await.map_err(failed)?
        {
            return Ok(());
        }
        // Whatever comes of it, it is not known to be in force until it is
        *applied = None;
        *applied = Some(self.write(wanted).await.map_err(failed)?);
        Ok(())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
