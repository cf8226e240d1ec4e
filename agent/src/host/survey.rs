//! What only a look at the host tells: the hypervisor, addresses, the room in pools, and what belongs to nobody.

use std::{collections::BTreeSet, net::IpAddr};

use ucloud_agent_core::{
    HostError, adopt,
    hypervisor::HypervisorFacts,
    vm::{Desired, FoundDisk},
};
use ucloud_types::{Quantity, host::HostPool};

use crate::{limit::limited, shared::Shared, vm::pools};

const GIB: u64 = 1 << 30;

/// What a look at the host told.
pub struct Survey {
    /// What the hypervisor is.
    pub facts: Result<HypervisorFacts, HostError>,
    /// The host's addresses in the underlay.
    pub addresses: Result<Vec<IpAddr>, HostError>,
    /// The pools.
    pub pools: Vec<HostPool>,
    /// What belongs to nobody. None where the host did not tell.
    pub orphans: Option<Vec<String>>,
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
    let mut disks = Some(Vec::new());
    let mut files = Some(Vec::new());
    for pool in pools(shared) {
        let usage = limited(limit, "measure a pool", machine.store.usage(&pool)).await;
        usages.push(match usage {
            Ok(usage) => HostPool {
                name: pool.name.clone(),
                capacity: usage.capacity,
                available: Quantity::from_bytes(usage.available.bytes() / GIB * GIB),
                error: None,
            },
            Err(error) => HostPool {
                name: pool.name.clone(),
                capacity: Quantity::default(),
                available: Quantity::default(),
                error: Some(error.message),
            },
        });
        match (limited(limit, "list its disks", machine.store.disks(&pool)).await, &mut disks) {
            (Ok(found), Some(disks)) => disks.extend(found.into_iter().map(|id| FoundDisk { pool: pool.clone(), id })),
            (Ok(_), None) => {}
            (Err(_), _) => disks = None,
        }
        match (limited(limit, "list its files", machine.files.files(&pool)).await, &mut files) {
            (Ok(found), Some(files)) => files.extend(found.into_keys().map(|uid| (pool.name.clone(), uid))),
            (Ok(_), None) => {}
            (Err(_), _) => files = None,
        }
    }
    let domains = limited(limit, "list its domains", machine.hypervisor.domains()).await.ok();
    let orphans = domains.zip(disks).zip(files).map(|((domains, disks), files)| {
        // What is wanted is read after what is there: a VM that came in between is no orphan
        let vms = shared.caches.vms.all();
        let vms: Vec<_> = vms.iter().filter_map(|vm| Desired::of(vm, &shared.config.host).ok()).collect();
        let known = shared.caches.files.all();
        let known: Vec<_> = known.iter().filter_map(|file| file.metadata.uid.as_deref()).collect();
        let volumes = shared.caches.volumes.all();
        let volumes: BTreeSet<_> = volumes.iter().filter_map(|volume| volume.metadata.uid.as_deref()).collect();
        let mut orphans = adopt::orphans(&domains, &disks, &vms, &volumes);
        orphans.extend(adopt::orphaned_files(&files, &known));
        orphans
    });
    Survey { facts, addresses, pools: usages, orphans }
}
