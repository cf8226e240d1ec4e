//! What is to be seen of a VM on the host.

use std::collections::BTreeSet;

use jiff::Timestamp;
use ucloud_agent_core::{
    HostError,
    block_store::Pool,
    hypervisor::DomainState,
    image,
    isolation::groups,
    network, reason,
    vm::{Blocker, Desired, Facts, FoundDisk, Observed, WantedSource, network_blockers},
};
use ucloud_types::{Network, vm::VMPhase};

use crate::{limit::limited, shared::Shared};

use super::{addresses, disks};

/// Observes the VM. An error means that nothing is known of it: not that it is gone.
pub async fn observe(shared: &Shared, desired: &Desired, now: Timestamp) -> Result<(Observed, Facts), HostError> {
    let timing = &shared.config.timing;
    let machine = &shared.machine;
    let domain = limited(timing.step, "say whether the VM runs", machine.hypervisor.domain(&desired.uid)).await?;
    let state = domain.as_ref().map(|domain| domain.state);
    let ran = matches!(desired.phase, Some(VMPhase::Running | VMPhase::Stopping));
    let (memory, confirmed, restarts) = shared.memories.with(&desired.uid, |remembered| {
        if !matches!(state, Some(DomainState::Running | DomainState::Paused)) {
            remembered.core.shutdown = None;
        }
        let interfaces = || domain.iter().flat_map(|domain| &domain.spec.interfaces);
        remembered.core.unplugging.retain(|name, _| interfaces().any(|interface| interface.name == *name));
        let disk = |name: &String| domain.iter().flat_map(|domain| &domain.spec.disks).any(|disk| disk.name == *name);
        remembered.core.unplugging_disks.retain(|name, _| disk(name));
        remembered.core.grown.retain(|name, _| disk(name));
        remembered.core.crashes.observe(state, ran, &timing.pace, now);
        (remembered.core.clone(), remembered.confirmed == Some(desired.epoch), remembered.restarts)
    });

    // While a VM runs, or has a domain that is to go first, nothing is decided by its disks; a pool that does not answer must not
    // make it look broken, or keep it from stopping
    let runs = matches!(state, Some(DomainState::Running | DomainState::Paused));
    let idle = runs || (desired.deleting && domain.is_some());
    let found = if idle { Ok(Vec::new()) } else { find_disks(shared, desired).await };
    let found = match found {
        Err(error) if !desired.deleting => return Err(error),
        found => found,
    };
    let own_networks = if desired.deleting && domain.is_none() {
        shared.networks.kept_for(shared, desired).await
    } else {
        Ok(Vec::new())
    };
    let present = limited(timing.step, "list its networks", machine.net.networks()).await;
    let networks: Vec<_> = desired
        .interfaces
        .iter()
        .map(|interface| shared.caches.networks.get(Some(&desired.namespace), &interface.network))
        .collect();
    let devices = present.as_ref().ok().map(|present| {
        let of = |network: &Network| present.iter().find(|d| Some(&d.uid) == network.metadata.uid.as_ref()).cloned();
        networks.iter().map(|network| network.as_deref().and_then(of)).collect()
    });
    let networks: Vec<_> = networks.iter().map(Option::as_deref).collect();
    let held = shared.volumes.held(shared, desired);
    let own: Vec<_> = held.iter().map(|volume| volume.uid.clone()).chain([desired.uid.clone()]).collect();

    let mut facts = Facts { restarts, ..Facts::default() };
    if let (Some(domain), Ok(present)) = (&domain, &present) {
        facts.addresses = addresses::seen(shared, domain, present);
    }
    if let Some(domain) = &domain {
        facts.computed = addresses::computed(shared, desired, domain);
    }
    // Where the network could not be asked, what was reported stands
    facts.keep_addresses = present.is_err() || addresses::are_believed(shared, now);
    let network_blockers = network_blockers(desired, &networks);
    let (disk_blockers, disk_states) =
        disks::look(shared, desired, found.as_deref().unwrap_or_default(), &memory, &mut facts);
    let taken = shared.snapshots.hold(own.iter().map(String::as_str)).filter(|_| !runs);
    let taken = taken.map(|snapshot| {
        Blocker::new(reason::SNAPSHOT_BEING_TAKEN, format!("it waits until Snapshot {snapshot} was taken of its disks"))
    });
    let blockers = network_blockers.iter().chain(&disk_blockers).flatten().cloned();
    let observed = Observed {
        domain,
        blockers: blockers.chain(missing_groups(shared, desired)).chain(taken).collect(),
        network_blockers,
        disk_blockers,
        disk_states,
        volumes: held,
        disks: found.map(|found| found.into_iter().filter(|disk| disk.id.owner_uid == desired.uid).collect()),
        own_networks,
        devices,
        provisioned: None,
        confirmed,
        memory,
    };
    Ok((observed, facts))
}

/// The security groups that are named and missing.
fn missing_groups(shared: &Shared, desired: &Desired) -> Vec<Blocker> {
    let named: BTreeSet<_> = desired.interfaces.iter().flat_map(|interface| &interface.security_groups).collect();
    let missing = |name: &String| {
        groups::missing(shared.caches.groups.get(Some(&desired.namespace), name).as_deref(), &desired.namespace, name)
    };
    named.into_iter().filter_map(missing).collect()
}

/// The VM's disks, and the Volumes that it names. The disks of one that is being deleted are looked for in all pools; others
/// are where it names or has them, so that a pool that does not answer keeps nobody who has nothing in it.
async fn find_disks(shared: &Shared, desired: &Desired) -> Result<Vec<FoundDisk>, HostError> {
    let pools = pools(shared);
    let reported = desired.reported_disks.iter().find(|disk| !pools.iter().any(|pool| pool.name == disk.pool));
    if let Some(disk) = reported.filter(|_| desired.deleting) {
        return Err(HostError::retryable(
            reason::STORAGE_POOL_NOT_FOUND,
            format!(
                "disk {} is in StoragePool {}, which no longer exists: create it again, so that the disk can be removed",
                disk.name, disk.pool
            ),
        ));
    }
    let mut owners = vec![desired.uid.clone()];
    let mut own: BTreeSet<_> = desired.reported_disks.iter().map(|disk| disk.pool.clone()).collect();
    for disk in &desired.disks {
        match &disk.source {
            WantedSource::Clone { pool, .. } => drop(own.insert(pool.clone())),
            WantedSource::Volume(name) => {
                if let Some(volume) = shared.volumes.get(shared, &desired.namespace, name) {
                    own.insert(volume.spec.effective_pool().to_owned());
                    owners.extend(volume.metadata.uid.clone());
                }
            }
        }
    }
    let mut found = Vec::new();
    for pool in pools.into_iter().filter(|pool| desired.deleting || own.contains(&pool.name)) {
        let disks = limited(shared.config.timing.step, "list its disks", shared.machine.store.disks(&pool)).await?;
        let own = disks.into_iter().filter(|id| owners.contains(&id.owner_uid));
        found.extend(own.map(|id| FoundDisk { pool: pool.clone(), id }));
    }
    Ok(found)
}

/// All pools.
pub fn pools(shared: &Shared) -> Vec<Pool> {
    let mut pools: Vec<_> = shared.caches.pools.all().iter().filter_map(|pool| image::pool(pool)).collect();
    pools.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    pools
}

/// The network with this name in the VM's namespace, if the VM can be attached to it.
pub fn network(shared: &Shared, desired: &Desired, name: &str) -> Result<std::sync::Arc<Network>, HostError> {
    let found = shared.caches.networks.get(Some(&desired.namespace), name);
    network::ready(found.as_deref(), &desired.namespace, name)
        .map_err(|blocker| HostError::retryable(blocker.reason, blocker.message))?;
    found.ok_or_else(|| HostError::retryable(reason::NETWORK_NOT_FOUND, format!("Network {name} does not exist")))
}
