//! What only a look at the host tells: the hypervisor, addresses, the room in pools, and what belongs to nobody.

use std::net::IpAddr;

use ucloud_agent_core::{HostError, hypervisor::HypervisorFacts, orphan::Looked};
use ucloud_types::{Quantity, host::HostPool};

use crate::{limit::limited, orphans, shared::Shared, vm::pools};

const GIB: u64 = 1 << 30;

/// What a look at the host told.
pub struct Survey {
    /// What the hypervisor is.
    pub facts: Result<HypervisorFacts, HostError>,
    /// The host's addresses in the underlay.
    pub addresses: Result<Vec<IpAddr>, HostError>,
    /// The pools.
    pub pools: Vec<HostPool>,
    /// What belongs to nobody.
    pub orphans: Looked,
}

/// Looks at the host.
pub async fn survey(shared: &Shared) -> Survey {
    let limit = shared.config.timing.step;
    let machine = &shared.machine;
    let facts = limited(limit, "say what its hypervisor is", machine.hypervisor.facts()).await;
    let mut addresses = limited(limit, "list its addresses", machine.net.underlay_addresses()).await;
    if let Ok(addresses) = &mut addresses {
        addresses.sort_unstable();
        addresses.dedup();
    }
    let mut usages = Vec::new();
    for pool in pools(shared) {
        let usage = limited(limit, "measure a pool", machine.store.usage(&pool)).await;
        usages.push(match usage {
            Ok(usage) => HostPool {
                name: pool.name.clone(),
                capacity: usage.capacity,
                available: Quantity::from_bytes(usage.available.bytes() / GIB * GIB),
                surveyed: false,
                error: None,
            },
            Err(error) => HostPool {
                name: pool.name.clone(),
                capacity: Quantity::default(),
                available: Quantity::default(),
                surveyed: false,
                error: Some(error.message),
            },
        });
    }
    Survey { facts, addresses, pools: usages, orphans: orphans::look(shared).await }
}
