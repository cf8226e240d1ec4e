//! The host's part of the networks: devices, learnt addresses, router advertisements.

use std::{hash::Hasher as _, net::Ipv6Addr};

use async_trait::async_trait;
use fnv::FnvHasher;
use tokio::sync::watch;
use ucloud_types::{Ipv6Prefix, MacAddr, Vni};

use crate::HostError;

/// A router's link-local address in every network. It is the same on whichever host is the router, so that
/// the default route of guests outlives a change of routers.
pub const ROUTER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Makes the devices of networks: a VXLAN and a bridge for each.
#[async_trait]
pub trait Net: Send + Sync + 'static {
    /// The networks for which there are devices, found by the devices themselves.
    async fn networks(&self) -> Result<Vec<NetworkDevices>, HostError>;

    /// Makes the devices of a network, or repairs them, and begins to learn addresses on its bridge.
    ///
    /// A host that gets the gateway tells the guests so, as they know another one behind its address (RFC 4861,
    /// section 7.2.6). One that gives it up asks who has it now, so that the next router tells them once more: whichever
    /// of the two comes last, guests have found the one that routes.
    async fn ensure_network(&self, request: &NetworkRequest) -> Result<NetworkDevices, HostError>;

    /// Removes the devices of a network.
    async fn remove_network(&self, network_uid: &str) -> Result<(), HostError>;

    /// Puts taps that are there back on their bridges, whoever took them away, and sees to it that the host has no address on
    /// them.
    async fn ensure_taps(&self, taps: &[Tap]) -> Result<(), HostError>;

    /// The addresses that the interface with this MAC was seen to use on this network, sorted; link-local ones
    /// are left out. They are learnt from neighbour discovery, duplicate address detection included.
    fn learnt(&self, network_uid: &str, mac: MacAddr) -> Vec<Ipv6Addr>;

    /// Asks the network whether the interface with this MAC uses this address (an agent that starts has missed
    /// what was said before). The answer, if one comes, is learnt like any other.
    async fn solicit(&self, network_uid: &str, address: Ipv6Addr) -> Result<(), HostError>;

    /// The host's addresses in the underlay.
    async fn underlay_addresses(&self) -> Result<Vec<std::net::IpAddr>, HostError>;

    /// Changes its value whenever an address was learnt or a device of ours appeared, changed or vanished.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The devices that a network needs on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRequest {
    /// The Network's UID.
    pub uid: String,
    /// Its VNI.
    pub vni: Vni,
    /// The MTU of its guests; what the underlay leaves where there is none.
    pub mtu: Option<u32>,
    /// The gateway's address and prefix, on the network's router alone. Elsewhere the host has no address in
    /// the network, not even a link-local one.
    pub gateway: Option<Gateway>,
    /// Whether another host advertises itself as the router. One that is new to the network asks for that, on behalf of the
    /// guests whose asking is over: the router may have advertised just before, and may not do so by itself for long.
    pub advertised: bool,
}

/// Where a VM's tap belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tap {
    /// The tap.
    pub name: String,
    /// The bridge of its network.
    pub bridge: String,
}

/// A gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub address: Ipv6Addr,
    /// The network's prefix.
    pub prefix: Ipv6Prefix,
}

/// The devices of a network, as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDevices {
    /// The Network's UID.
    pub uid: String,
    /// Its VNI.
    pub vni: Vni,
    /// The name of the bridge.
    pub bridge: String,
    /// The MTU of the bridge, and so of the guests.
    pub mtu: u32,
    /// Whether the bridge is a router's: it has the gateway, and forwards.
    pub routes: bool,
}

/// Advertises routers to guests.
#[async_trait]
pub trait RouterAdvertiser: Send + Sync + 'static {
    /// Advertises exactly these from now on. Nothing is written or restarted when nothing changed.
    ///
    /// Guests on a bridge on which was advertised before, and is not any more, are told that there is no router: by a
    /// last advertisement with a lifetime of zero, for which the bridge must still have the router's address. Not so on
    /// the bridges in `handed_over`: there another host advertises from the same address, and would be withdrawn too.
    async fn advertise(&self, advertisements: &[Advertisement], handed_over: &[String]) -> Result<(), HostError>;
}

/// What is advertised on a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The bridge.
    pub bridge: String,
    /// The prefix from which guests form their addresses.
    pub prefix: Ipv6Prefix,
    /// The MTU of the network.
    pub mtu: u32,
    /// Recursive resolvers (RFC 8106).
    pub dns_servers: Vec<Ipv6Addr>,
    /// Search domains (RFC 8106).
    pub dns_search: Vec<String>,
}

/// What the names of taps begin with, and a hyphen.
pub const TAP_PREFIX: &str = "uctp";
/// What the names of bridges begin with, and a hyphen.
pub const BRIDGE_PREFIX: &str = "ucbr";
/// What the names of VXLAN devices begin with, and a hyphen.
pub const VXLAN_PREFIX: &str = "ucvx";

/// The name of the tap device of a VM's interface. It is known before there is one.
pub fn tap_name(vm_uid: &str, interface: &str) -> String {
    device_name(TAP_PREFIX, vm_uid, interface)
}

/// The name of the bridge of a network.
pub fn bridge_name(network_uid: &str) -> String {
    device_name(BRIDGE_PREFIX, network_uid, "")
}

/// The name of a device (15 characters at most) that belongs to an object: a prefix, and the beginning of a
/// hexadecimal digest of the UID and what else tells it from others of the same object. The object's whole UID
/// is in the device's alias.
pub fn device_name(prefix: &str, uid: &str, part: &str) -> String {
    let mut hasher = FnvHasher::default();
    for piece in [uid.as_bytes(), &[0], part.as_bytes()] {
        hasher.write(piece);
    }
    let hash = hasher.finish();
    let mut name = format!("{prefix}-{hash:016x}");
    name.truncate(15);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_the_kernel_and_differ() {
        let uid = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";
        let name = device_name("uctp", uid, "eth0");
        assert_eq!(name.len(), 15);
        assert_ne!(name, device_name("uctp", uid, "eth1"));
        assert_eq!(name, device_name("uctp", uid, "eth0"));
    }
}
