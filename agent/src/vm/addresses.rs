//! The addresses of running VMs: those that were seen, and how an agent that missed them asks for them.

use std::{collections::BTreeMap, net::Ipv6Addr, sync::Arc, time::Duration};

use jiff::Timestamp;
use tracing::debug;
use ucloud_agent_core::{
    hypervisor::{Domain, DomainInterface, DomainState},
    net::NetworkDevices,
    vm::{Desired, Facts},
};
use ucloud_types::{Network, VM, network::Ipam, vm::AddressSource};

use crate::{clock::timer, limit::limited, shared::Shared};

/// The pause after the first question for an address; it doubles from then on.
const ASK_FIRST: Duration = Duration::from_secs(2);
/// The longest such pause.
const ASK_MOST: Duration = Duration::from_mins(1);

/// For each interface of the domain, the addresses that it was seen to use.
pub fn seen(shared: &Shared, domain: &Domain, present: &[NetworkDevices]) -> BTreeMap<String, Vec<Ipv6Addr>> {
    let interfaces = domain.spec.interfaces.iter();
    interfaces
        .filter_map(|interface| {
            let devices = present.iter().find(|devices| devices.bridge == interface.bridge)?;
            Some((interface.name.clone(), shared.machine.net.learnt(&devices.uid, interface.mac)))
        })
        .collect()
}

/// For each interface of the domain in a network with router advertisements, the address that stateless
/// autoconfiguration gives it.
pub fn computed(shared: &Shared, desired: &Desired, domain: &Domain) -> BTreeMap<String, Ipv6Addr> {
    let interfaces = domain.spec.interfaces.iter();
    interfaces
        .filter_map(|interface| {
            let network = network_of(shared, desired, interface)?;
            Some((interface.name.clone(), formed(&network, interface)?))
        })
        .collect()
}

/// The network that the interface is to be in.
fn network_of(shared: &Shared, desired: &Desired, interface: &DomainInterface) -> Option<Arc<Network>> {
    let wanted = desired.interfaces.iter().find(|wanted| wanted.name == interface.name)?;
    shared.caches.networks.get(Some(&desired.namespace), &wanted.network)
}

/// The address that stateless autoconfiguration gives the interface in the network.
fn formed(network: &Network, interface: &DomainInterface) -> Option<Ipv6Addr> {
    let prefix = network.status.as_ref()?.prefix.filter(|_| network.spec.effective_ipam() == Ipam::Automatic)?;
    interface.mac.slaac(prefix)
}

/// How long reported addresses are still believed without having been seen.
fn belief_left(shared: &Shared, now: Timestamp) -> Option<Duration> {
    shared
        .config
        .timing
        .address_memory
        .checked_sub(timer(now.duration_since(shared.started)))
        .filter(|left| !left.is_zero())
}

/// Whether reported addresses are still believed without having been seen.
pub fn are_believed(shared: &Shared, now: Timestamp) -> bool {
    belief_left(shared, now).is_some()
}

/// Asks the networks for addresses of a running VM that should be there and were not seen. Tells when to look again.
pub async fn ask(
    shared: &Shared,
    vm: &VM,
    desired: &Desired,
    domain: Option<&Domain>,
    facts: &Facts,
    now: Timestamp,
) -> Option<Duration> {
    let domain = domain.filter(|domain| domain.state == DomainState::Running)?;
    let missing = missing(shared, vm, desired, domain, facts, now);
    let (at, times) = shared.memories.with(&desired.uid, |remembered| {
        if missing.is_empty() {
            remembered.asked = None;
            return None;
        }
        Some(*remembered.asked.get_or_insert((now, 0)))
    })?;
    let pause = ASK_FIRST.saturating_mul(1 << times.min(10)).min(ASK_MOST);
    let next = if at <= now {
        for (network, address) in &missing {
            let asked =
                limited(shared.config.timing.step, "ask for an address", shared.machine.net.solicit(network, *address));
            if let Err(error) = asked.await {
                debug!(vm = desired.name, %address, reason = error.reason, "cannot ask for an address: {error}");
            }
        }
        shared.memories.with(&desired.uid, |remembered| {
            remembered.asked = Some((now.saturating_add(pause).unwrap_or(now), times.saturating_add(1)));
        });
        pause
    } else {
        timer(at.duration_since(now))
    };
    Some(belief_left(shared, now).map_or(next, |left| left.min(next)))
}

/// The addresses that should be there and were not seen, each with the UID of its network: what stateless
/// autoconfiguration gives to an interface that has none, what is declared, and what was learnt and reported before.
fn missing(
    shared: &Shared,
    vm: &VM,
    desired: &Desired,
    domain: &Domain,
    facts: &Facts,
    now: Timestamp,
) -> Vec<(String, Ipv6Addr)> {
    let reported = vm.status.iter().flat_map(|status| &status.interfaces);
    let mut missing = Vec::new();
    for interface in &domain.spec.interfaces {
        let Some(network) = network_of(shared, desired, interface) else { continue };
        let Some(uid) = network.metadata.uid.clone() else { continue };
        let seen = facts.addresses.get(&interface.name).map(Vec::as_slice).unwrap_or_default();
        if seen.is_empty() {
            missing.extend(formed(&network, interface).map(|address| (uid.clone(), address)));
        }
        let declared = desired.interfaces.iter().filter(|wanted| wanted.name == interface.name);
        let declared = declared.flat_map(|wanted| &wanted.addresses).filter(|address| !seen.contains(address));
        missing.extend(declared.map(|address| (uid.clone(), *address)));
        if are_believed(shared, now) {
            let before = reported.clone().filter(|i| i.name == interface.name).flat_map(|i| &i.addresses);
            let before = before.filter(|known| known.source == AddressSource::Learnt).map(|known| known.address);
            missing.extend(before.filter(|address| !seen.contains(address)).map(|address| (uid.clone(), address)));
        }
    }
    missing.sort_unstable();
    missing.dedup();
    missing
}
