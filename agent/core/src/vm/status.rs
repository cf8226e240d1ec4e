//! What is reported of a VM: its next status, computed from the last one.

use std::{collections::BTreeMap, net::Ipv6Addr};

use jiff::Timestamp;
use ucloud_types::{
    Quantity, VMStatus, condition,
    vm::{DiskStatus, InterfaceStatus},
};

use crate::hypervisor::{Domain, DomainState};

use super::{
    Desired, Observed, Plan, WantedSource,
    addresses::{Known, addresses},
};

/// What a report needs besides the plan.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// For each interface of the domain, the addresses that it was seen to use.
    pub addresses: BTreeMap<String, Vec<Ipv6Addr>>,
    /// For each interface in a network with router advertisements, the address that the guest forms by itself.
    pub computed: BTreeMap<String, Ipv6Addr>,
    /// Whether addresses that were reported earlier still count, though they were not seen again yet: an agent
    /// that has just started has missed what was said before.
    pub keep_addresses: bool,
    /// For each disk whose size the spec leaves open, the size of its image.
    pub image_sizes: BTreeMap<String, Quantity>,
    /// For each disk that is a volume, the name of its pool.
    pub volume_pools: BTreeMap<String, String>,
    /// How often the VM was started again, at least.
    pub restarts: u32,
}

/// The status to report. It equals `current` where there is nothing new. Without an observation, disks and
/// interfaces stay as they were reported.
pub fn next_status(
    current: &VMStatus,
    desired: &Desired,
    observed: Option<&Observed>,
    plan: &Plan,
    facts: &Facts,
    now: Timestamp,
) -> VMStatus {
    let mut next = current.clone();
    if plan.phase.is_some() {
        next.phase = plan.phase;
    }
    next.run_strategy = Some(desired.strategy);
    next.observed_generation = desired.generation;
    next.observed_power_request = plan.observed_power_request.max(current.observed_power_request);
    next.observed_restore = plan.ended_restore.map(|ended| ended.id).max(current.observed_restore);
    let restarts = current.restarts.unwrap_or(0).max(facts.restarts);
    next.restarts = (restarts > 0 || current.restarts.is_some()).then_some(restarts);
    if let Some(observed) = observed {
        next.disks = disks(current, desired, observed, plan, facts);
        next.interfaces = interfaces(current, desired, observed, facts);
    }
    for finding in &plan.findings {
        condition::set(&mut next.conditions, finding, desired.generation, now);
    }
    for type_ in &plan.cleared {
        condition::clear(&mut next.conditions, type_);
    }
    next
}

fn disks(current: &VMStatus, desired: &Desired, observed: &Observed, plan: &Plan, facts: &Facts) -> Vec<DiskStatus> {
    let restored = desired.restore.as_ref().filter(|_| plan.ended_restore.is_some_and(|ended| ended.done));
    // A disk of the VM's own that left the spec stays in the report as long as the VM is there: it is removed with the VM.
    // A volume stays as long as the domain has it.
    let has = |name: &str| observed.domain.as_ref().is_some_and(|d| d.spec.disks.iter().any(|d| d.name == name));
    let gone = current.disks.iter().filter(|disk| !desired.disks.iter().any(|wanted| wanted.name == disk.name));
    let gone = gone.filter(|disk| disk.volume.is_none() || has(&disk.name));
    let wanted = desired.disks.iter().enumerate().filter_map(|(index, wanted)| {
        let reported = current.disks.iter().find(|disk| disk.name == wanted.name);
        let made = observed.provisioned.as_ref();
        let made = made.and_then(|made| made.disks.iter().find(|(name, _)| *name == wanted.name));
        let state = observed.disk_states.get(index).copied().unwrap_or_default();
        let known = made.map(|(_, made)| made.disk.size).or(state.size);
        let (volume, pool, size) = match &wanted.source {
            WantedSource::Clone { pool, .. } => {
                let reported = reported.filter(|disk| disk.volume.is_none());
                let size = known.or_else(|| reported.map(|disk| disk.size)).or_else(|| {
                    let expected = || state.wanted_size.or_else(|| facts.image_sizes.get(&wanted.name).copied());
                    has(&wanted.name).then(expected).flatten()
                })?;
                (None, reported.map_or_else(|| pool.clone(), |disk| disk.pool.clone()), size)
            }
            WantedSource::Volume(name) => {
                if made.is_none() && !has(&wanted.name) {
                    return None;
                }
                (Some(name.clone()), facts.volume_pools.get(&wanted.name)?.clone(), known?)
            }
        };
        let own = volume.is_none().then(|| {
            let now = restored.and_then(|request| request.disks.iter().find(|disk| disk.name == wanted.name));
            now.map(|disk| disk.image_uid.clone()).or_else(|| reported.and_then(|disk| disk.restored.clone()))
        });
        Some(DiskStatus { name: wanted.name.clone(), pool, volume, size, restored: own.flatten() })
    });
    wanted.chain(gone.cloned()).collect()
}

fn interfaces(current: &VMStatus, desired: &Desired, observed: &Observed, facts: &Facts) -> Vec<InterfaceStatus> {
    let Some(Domain { spec, state }) = &observed.domain else {
        let wanted = desired.interfaces.iter();
        return wanted
            .map(|wanted| InterfaceStatus {
                name: wanted.name.clone(),
                network: wanted.network.clone(),
                mac: wanted.mac,
                addresses: addresses(&Known { declared: &wanted.addresses, ..Known::default() }),
            })
            .collect();
    };
    let interface = |is: &crate::hypervisor::DomainInterface| {
        let reported = current.interfaces.iter().find(|i| i.name == is.name && i.mac == is.mac);
        let wanted = desired.interfaces.iter().enumerate().find(|(_, wanted)| wanted.name == is.name);
        let attached = wanted.filter(|(index, _)| {
            let devices = observed.devices.as_ref().and_then(|all| all.get(*index)).and_then(Option::as_ref);
            devices.is_some_and(|devices| devices.bridge == is.bridge)
        });
        // An interface whose network was changed in the spec is still in the old one
        let network = attached
            .map(|(_, wanted)| wanted.network.clone())
            .or_else(|| reported.map(|i| i.network.clone()))
            .or_else(|| wanted.map(|(_, wanted)| wanted.network.clone()))?;
        let mut known = Known { declared: wanted.map_or(&[], |(_, wanted)| &wanted.addresses), ..Known::default() };
        if *state == DomainState::Running {
            known.learnt = facts.addresses.get(&is.name).map(Vec::as_slice).unwrap_or_default();
            known.believed = reported.filter(|_| facts.keep_addresses);
            known.computed = facts.computed.get(&is.name).copied();
        }
        Some(InterfaceStatus { name: is.name.clone(), network, mac: is.mac, addresses: addresses(&known) })
    };
    spec.interfaces.iter().filter_map(interface).collect()
}
