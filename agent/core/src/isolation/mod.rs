//! What the guests of this host may send and receive, and what they reach of it.
//!
//! Every tap of the host has a rule before it exists: its name follows from the VM. What has no rule is closed. Three
//! things decide what a guest may send: the type of its network, `portSecurity`, and which addresses are whose
//! ([`owners`]). What it may receive, and which connections it may begin, is decided by its security groups
//! ([`groups`]).

pub mod groups;
mod owners;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ucloud_types::{Ipv6Prefix, MacAddr, Network, SecurityGroup, network::Ipam};

use crate::{
    firewall::{DeviceName, Guard, LocalGateway, NetworkAddresses, Port, Rules},
    hypervisor::{Domain, DomainInterface, DomainState},
    net::{NetworkDevices, bridge_name, tap_name},
    network,
    vm::{Desired, WantedInterface},
};

/// All that the rules of a host follow from. The lists must be complete.
pub struct Inputs<'a> {
    /// The host's name.
    pub host: &'a str,
    /// The VMs that are bound to it.
    pub vms: &'a [Desired],
    /// Its domains, by the hypervisor's own answer.
    pub domains: &'a [Domain],
    /// The networks that the host has something to do with ([`network::concerning`]).
    pub networks: &'a [&'a Network],
    /// The networks that have devices on it.
    pub devices: &'a [NetworkDevices],
    /// All security groups.
    pub groups: &'a [&'a SecurityGroup],
    /// The addresses that the interface with this MAC was seen to use in the network with this UID.
    pub learnt: &'a dyn Fn(&str, MacAddr) -> Vec<Ipv6Addr>,
    /// The host's addresses in the underlay.
    pub underlay: &'a [IpAddr],
}

/// An interface that has, or is about to have, a tap on this host.
struct Attached<'a> {
    tap: String,
    mac: MacAddr,
    wanted: &'a WantedInterface,
    namespace: &'a str,
    network: &'a Network,
}

/// The rules of the host.
pub fn rules(inputs: &Inputs<'_>) -> Rules {
    let attached = attached(inputs);
    let mut ports: Vec<Port> = attached.iter().filter_map(|interface| port(interface, inputs)).collect();
    ports.extend(strangers(inputs));
    ports.sort_unstable_by(|a, b| a.tap.cmp(&b.tap));
    let networks = networks(&attached, &ports, inputs);
    let groups = groups::addresses(&ports, inputs.groups);
    let mut protected: Vec<_> = inputs.underlay.iter().filter_map(|address| around(*address)).collect();
    protected.sort_unstable();
    protected.dedup();
    Rules { ports, networks, groups, gateways: gateways(inputs), protected }
}

/// The interfaces of VMs that are bound to this host, as they are while the domain is up, else as they are wanted. One
/// that runs and is not wanted any more is left out, and so closed.
fn attached<'a>(inputs: &Inputs<'a>) -> Vec<Attached<'a>> {
    let up: BTreeMap<&str, &DomainInterface> = inputs
        .domains
        .iter()
        .filter(|domain| !matches!(domain.state, DomainState::Off(_)))
        .flat_map(|domain| &domain.spec.interfaces)
        .map(|interface| (interface.tap.as_str(), interface))
        .collect();
    let by_name: BTreeMap<_, &Network> = inputs
        .networks
        .iter()
        .map(|network| ((network.metadata.namespace.as_deref(), network.metadata.name.as_deref()), *network))
        .collect();
    let by_bridge: BTreeMap<_, &Network> = inputs
        .networks
        .iter()
        .filter_map(|network| Some((bridge_name(network.metadata.uid.as_deref()?), *network)))
        .collect();
    let all = inputs.vms.iter().flat_map(|vm| vm.interfaces.iter().map(move |wanted| (vm, wanted)));
    all.filter_map(|(vm, wanted)| {
        let tap = tap_name(&vm.uid, &wanted.name);
        let (mac, network) = match up.get(tap.as_str()) {
            Some(is) => (is.mac, *by_bridge.get(&is.bridge)?),
            None => (wanted.mac, *by_name.get(&(Some(vm.namespace.as_str()), Some(wanted.network.as_str())))?),
        };
        Some(Attached { tap, mac, wanted, namespace: &vm.namespace, network })
    })
    .collect()
}

/// The port of an interface. None while its network has no prefix that it should have: nothing can be checked then.
fn port(interface: &Attached<'_>, inputs: &Inputs<'_>) -> Option<Port> {
    let Attached { tap, mac, wanted, namespace, network } = interface;
    let ipam = network.spec.effective_ipam();
    let guard = match (ipam, wanted.port_security) {
        (Ipam::None, true) => Guard::Mac,
        (Ipam::None, false) => Guard::Nothing,
        (_, false) => Guard::Router,
        (_, true) => {
            network.status.as_ref()?.prefix?;
            Guard::Addresses { bridge: bridge(network)?, recorded_only: recorded_only(wanted, ipam) }
        }
    };
    let groups = groups::of(&wanted.security_groups, namespace, inputs.groups);
    Some(Port { tap: DeviceName::new(tap)?, mac: *mac, guard, groups })
}

/// In a network of type Manual, an interface with declared addresses uses those alone.
fn recorded_only(wanted: &WantedInterface, ipam: Ipam) -> bool {
    ipam == Ipam::Manual && !wanted.addresses.is_empty()
}

/// The domains that run without a VM that is known: an API server that has lost its objects must not cut them off.
fn strangers(inputs: &Inputs<'_>) -> Vec<Port> {
    let known: BTreeSet<&str> = inputs.vms.iter().map(|vm| vm.uid.as_str()).collect();
    let unknown = inputs.domains.iter().filter(|domain| !known.contains(domain.spec.uid.as_str()));
    unknown
        .flat_map(|domain| &domain.spec.interfaces)
        .filter_map(|interface| {
            let tap = DeviceName::new(&interface.tap)?;
            Some(Port { tap, mac: interface.mac, guard: Guard::MacAndRouter, groups: None })
        })
        .collect()
}

/// Who owns which address, in the networks that some port is checked against.
fn networks(attached: &[Attached<'_>], ports: &[Port], inputs: &Inputs<'_>) -> Vec<NetworkAddresses> {
    let checked: BTreeSet<&DeviceName> = ports
        .iter()
        .filter_map(|port| if let Guard::Addresses { bridge, .. } = &port.guard { Some(bridge) } else { None })
        .collect();
    let mut here: BTreeMap<DeviceName, Vec<&Attached<'_>>> = BTreeMap::new();
    for interface in attached {
        if let Some(bridge) = bridge(interface.network).filter(|bridge| checked.contains(bridge)) {
            here.entry(bridge).or_default().push(interface);
        }
    }
    here.into_iter()
        .filter_map(|(bridge, interfaces)| {
            let network = interfaces.first()?.network;
            let status = network.status.as_ref()?;
            let prefix = status.prefix?;
            let owners = owners::owners(&interfaces, network, prefix, inputs.learnt);
            Some(NetworkAddresses { bridge, prefix, gateway: status.gateway, owners })
        })
        .collect()
}

fn gateways(inputs: &Inputs<'_>) -> Vec<LocalGateway> {
    let routed: BTreeSet<&str> =
        inputs.devices.iter().filter(|devices| devices.routes).map(|devices| devices.uid.as_str()).collect();
    let mut gateways: Vec<_> = inputs
        .networks
        .iter()
        .filter_map(|network| {
            let uid = network.metadata.uid.as_deref()?;
            let gateway = network::request(network, inputs.host, routed.contains(uid))?.gateway?;
            Some(LocalGateway { bridge: bridge(network)?, address: gateway.address })
        })
        .collect();
    gateways.sort_unstable_by(|a, b| a.bridge.cmp(&b.bridge));
    gateways
}

fn bridge(network: &Network) -> Option<DeviceName> {
    DeviceName::new(&bridge_name(network.metadata.uid.as_deref()?))
}

/// The network that an address of the underlay is in: a /64. (IPv4 is not routed for guests at all.)
fn around(address: IpAddr) -> Option<Ipv6Prefix> {
    match address {
        IpAddr::V6(address) => Ipv6Prefix::containing(address, 64),
        IpAddr::V4(_) => None,
    }
}
