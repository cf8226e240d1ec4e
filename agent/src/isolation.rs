//! The rules for what guests send, receive and reach: in force before a guest starts, and kept so.

use std::{collections::BTreeSet, sync::Arc};

use tokio::sync::Mutex;
use tracing::warn;
use ucloud_agent_core::{
    HostError,
    firewall::Rules,
    hypervisor::DomainInterface,
    isolation::{self, Inputs},
    network, reason,
    vm::Desired,
};
use ucloud_types::{Network, SecurityGroup};

use crate::{limit::limited, shared::Shared};

/// The rules of the host.
#[derive(Default)]
pub struct Isolation {
    /// Held from the first look at what the rules follow from until they are in force: rules that follow from less never
    /// replace those that follow from more.
    enforcing: Mutex<()>,
}

impl Isolation {
    /// Makes sure that these interfaces, which are about to get their taps, are guarded.
    pub async fn ensure(&self, shared: &Shared, interfaces: &[DomainInterface]) -> Result<(), HostError> {
        let rules = self.enforce(shared).await?;
        let guarded: BTreeSet<&str> = rules.ports.iter().map(|port| port.tap.as_str()).collect();
        match interfaces.iter().find(|interface| !guarded.contains(interface.tap.as_str())) {
            None => Ok(()),
            Some(interface) => Err(HostError::retryable(
                reason::NETWORK_NOT_READY,
                format!("interface {} cannot be guarded: its network has no prefix yet", interface.name),
            )),
        }
    }

    /// Puts the rules in force that follow from what is known now.
    async fn enforce(&self, shared: &Shared) -> Result<Rules, HostError> {
        let _enforcing = self.enforcing.lock().await;
        let rules = rules(shared).await?;
        limited(shared.config.timing.step, "put the packet filter in force", shared.machine.firewall.enforce(&rules))
            .await?;
        Ok(rules)
    }
}

async fn rules(shared: &Shared) -> Result<Rules, HostError> {
    let limit = shared.config.timing.step;
    let net = &shared.machine.net;
    let domains = limited(limit, "list its domains", shared.machine.hypervisor.domains()).await?;
    let devices = limited(limit, "list its networks", net.networks()).await?;
    let underlay = limited(limit, "list its addresses", net.underlay_addresses()).await?;
    let host = shared.config.host.as_str();
    let vms: Vec<_> = shared.caches.vms.all().iter().filter_map(|vm| Desired::of(vm, host).ok()).collect();
    let networks = network::concerning(&shared.caches.networks.all(), &vms, host, &devices);
    let groups = shared.caches.groups.all();
    let networks: Vec<&Network> = networks.iter().map(AsRef::as_ref).collect();
    let groups: Vec<&SecurityGroup> = groups.iter().map(AsRef::as_ref).collect();
    let learnt = |network: &str, mac| net.learnt(network, mac);
    Ok(isolation::rules(&Inputs {
        host,
        vms: &vms,
        domains: &domains,
        networks: &networks,
        devices: &devices,
        groups: &groups,
        learnt: &learnt,
        underlay: &underlay,
    }))
}

/// Keeps the rules as they should be, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let mut vms = shared.caches.vms.changes();
    let mut networks = shared.caches.networks.changes();
    let mut groups = shared.caches.groups.changes();
    let mut domains = shared.machine.hypervisor.changes();
    let mut devices = shared.machine.net.changes();
    let mut rules = shared.machine.firewall.changes();
    let mut failures = 0;
    loop {
        let retry = match shared.isolation.enforce(&shared).await {
            Ok(_) => {
                failures = 0;
                None
            }
            Err(error) => {
                failures += 1;
                let reason = error.reason;
                warn!(
                    failures,
                    reason,
                    error = &error as &dyn std::error::Error,
                    "guests may not be guarded as they should"
                );
                Some(shared.config.timing.retry(failures))
            }
        };
        let pause = async {
            match retry {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let alive = tokio::select! {
            changed = vms.changed() => changed.is_ok(),
            changed = networks.changed() => changed.is_ok(),
            changed = groups.changed() => changed.is_ok(),
            changed = domains.changed() => changed.is_ok(),
            changed = devices.changed() => changed.is_ok(),
            changed = rules.changed() => changed.is_ok(),
            () = pause => true,
        };
        if !alive {
            return;
        }
    }
}
