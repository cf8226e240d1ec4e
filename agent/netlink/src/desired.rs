//! What the devices of a network should look like on this host.

use std::net::IpAddr;

use ucloud_agent_core::{
    HostError,
    net::{NetworkRequest, ROUTER_LINK_LOCAL},
};
use ucloud_types::{MacAddr, Vni};

use crate::{
    link::{BridgeParameters, Link, VxlanParameters},
    names::DeviceNames,
    route::InterfaceAddress,
};

/// What VXLAN over IPv6 adds to each packet: an IPv6 header (40 bytes), UDP (8), VXLAN (8) and the inner
/// Ethernet header (14).
pub const VXLAN_OVERHEAD: u32 = 40 + 8 + 8 + 14;

/// IPv6 needs this MTU on every link (RFC 8200, section 5).
const IPV6_MIN_MTU: u32 = 1280;

/// The port that IANA assigned to VXLAN (RFC 7348); Linux has another by default.
const VXLAN_PORT: u16 = 4789;

/// The hop limit of outer packets. How far multicast goes is decided by the scope of its group (site-local,
/// `ff05::`), so that an underlay with routers between its hosts needs no other value.
const VXLAN_TTL: u8 = 64;

/// The devices of a network as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Desired {
    pub names: DeviceNames,
    pub vni: Vni,
    pub mtu: u32,
    /// The bridge's own address. It is fixed: left alone, a bridge takes that of one of its ports and changes it
    /// as guests come and go. It differs between hosts, or they would answer for each other in the network.
    pub mac: MacAddr,
    pub bridge: BridgeParameters,
    pub vxlan: VxlanParameters,
    /// The bridge's addresses: none except on a router.
    pub addresses: Vec<InterfaceAddress>,
}

impl Desired {
    /// What `request` asks for, over this underlay interface.
    pub fn new(request: &NetworkRequest, underlay: &Link) -> Result<Self, HostError> {
        let addresses = request.gateway.iter().flat_map(|gateway| {
            [
                InterfaceAddress { address: IpAddr::V6(ROUTER_LINK_LOCAL), length: 64 },
                InterfaceAddress { address: IpAddr::V6(gateway.address), length: gateway.prefix.length() },
            ]
        });
        Ok(Self {
            names: DeviceNames::of(&request.uid),
            vni: request.vni,
            mtu: fitting_mtu(request, underlay)?,
            mac: MacAddr::derive(&request.uid, &format!("bridge {:02x?}", underlay.mac)),
            // With snooping, one MLD query by a guest would keep the neighbour solicitations of others from
            // whoever has not joined a group in the bridge's view, this host's address learning included.
            bridge: BridgeParameters { stp: false, multicast_snooping: false, link_local_learning: false },
            vxlan: VxlanParameters {
                vni: request.vni.get(),
                group: Some(request.vni.multicast_group()),
                underlay: underlay.index,
                port: VXLAN_PORT,
                ttl: VXLAN_TTL,
                learning: true,
            },
            addresses: addresses.collect(),
        })
    }

    /// Whether this host is the network's router.
    pub fn routes(&self) -> bool {
        !self.addresses.is_empty()
    }
}

fn fitting_mtu(request: &NetworkRequest, underlay: &Link) -> Result<u32, HostError> {
    let (name, underlay_mtu) = (&underlay.name, underlay.mtu);
    let largest = underlay_mtu.saturating_sub(VXLAN_OVERHEAD);
    if largest < IPV6_MIN_MTU {
        return Err(HostError::retryable(
            "UnderlayMtuTooSmall",
            format!(
                "the underlay interface {name} has an MTU of {underlay_mtu}, which leaves {largest} to networks, and \
                 IPv6 needs {IPV6_MIN_MTU}; raise it to {} or more",
                IPV6_MIN_MTU + VXLAN_OVERHEAD
            ),
        ));
    }
    match request.mtu {
        Some(mtu) if mtu > largest => Err(HostError::terminal(
            "MtuTooLarge",
            format!(
                "network {} asks for an MTU of {mtu}, but the underlay interface {name} (MTU {underlay_mtu}) leaves \
                 {largest}; ask for {largest} or less, or raise the underlay's MTU to {}",
                request.uid,
                mtu.saturating_add(VXLAN_OVERHEAD)
            ),
        )),
        Some(mtu) if mtu < IPV6_MIN_MTU => Err(HostError::terminal(
            "MtuTooSmall",
            format!(
                "network {} asks for an MTU of {mtu}, but IPv6 needs {IPV6_MIN_MTU}; ask for {IPV6_MIN_MTU} to {largest}",
                request.uid
            ),
        )),
        requested => Ok(requested.unwrap_or(largest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(mtu: u32) -> Link {
        Link { index: 7, name: "eth0".into(), mac: vec![2, 0, 0, 0, 0, 1], mtu, up: true, ..Link::default() }
    }

    fn request(mtu: Option<u32>) -> NetworkRequest {
        NetworkRequest { uid: "a-network".into(), vni: Vni::new(100).unwrap(), mtu, gateway: None, advertised: false }
    }

    #[test]
    fn the_mtu_is_what_the_underlay_leaves_or_less() {
        assert_eq!(Desired::new(&request(None), &underlay(1500)).unwrap().mtu, 1430);
        assert_eq!(Desired::new(&request(Some(1430)), &underlay(1500)).unwrap().mtu, 1430);
        assert_eq!(Desired::new(&request(Some(1280)), &underlay(1500)).unwrap().mtu, 1280);
    }

    #[test]
    fn an_mtu_that_does_not_fit_says_what_does() {
        let error = Desired::new(&request(Some(1431)), &underlay(1500)).unwrap_err();
        assert!(error.terminal);
        assert_eq!(
            error.message,
            "network a-network asks for an MTU of 1431, but the underlay interface eth0 (MTU 1500) leaves 1430; ask \
             for 1430 or less, or raise the underlay's MTU to 1501"
        );
        assert!(Desired::new(&request(Some(1279)), &underlay(1500)).unwrap_err().terminal);
        let error = Desired::new(&request(None), &underlay(1349)).unwrap_err();
        assert_eq!((error.reason, error.terminal), ("UnderlayMtuTooSmall", false));
    }

    #[test]
    fn the_bridges_of_a_network_differ_between_hosts() {
        let here = Desired::new(&request(None), &underlay(1500)).unwrap();
        let there = Desired::new(&request(None), &Link { mac: vec![2, 0, 0, 0, 0, 2], ..underlay(1500) }).unwrap();
        assert_ne!(here.mac, there.mac);
        assert_eq!(here.mac, Desired::new(&request(None), &underlay(9000)).unwrap().mac);
        assert_eq!(here.names, there.names);
    }
}
