//! What has to change so that a network's devices are as they should be. Pure.
//!
//! Removal comes before addition, and a device is given its alias before anything else: from then on it is
//! found again by its network, whatever happens to the agent. A device carries traffic only after all of its
//! settings are in force, so no address ever appears on it, even for a moment, that should not be there.

use ucloud_agent_core::net::Tap;

use crate::{
    change::{LinkChange, Sysctl},
    desired::Desired,
    link::{Ipv6Settings, Kind, Link},
    names::is_network_device,
    route::InterfaceAddress,
};

/// A network's devices as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Observed {
    pub bridge: Option<Link>,
    pub vxlan: Option<Link>,
    /// The bridge's addresses.
    pub addresses: Vec<InterfaceAddress>,
}

/// A device has the name of one of ours, and is not: nobody but its owner may touch it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device {device} {problem}; rename or remove it")]
pub(crate) struct ForeignDevice {
    pub device: String,
    problem: &'static str,
}

/// The changes that lead from `observed` to `desired`, in their order. None when nothing has to change.
pub(crate) fn plan(observed: &Observed, desired: &Desired) -> Result<Vec<LinkChange>, ForeignDevice> {
    let names = &desired.names;
    let bridge = observed.bridge.as_ref();
    let bridge_parameters = match bridge {
        Some(link) => match link.kind {
            Kind::Bridge(parameters) => Some(own(link, &names.alias)?).map(|()| parameters),
            _ => return Err(ForeignDevice::new(link, "has the name of a network's bridge, but is none")),
        },
        None => None,
    };
    let vxlan_parameters = match &observed.vxlan {
        Some(link) => match link.kind {
            Kind::Vxlan(parameters) => Some(own(link, &names.alias)?).map(|()| parameters),
            _ => return Err(ForeignDevice::new(link, "has the name of a network's VXLAN, but is none")),
        },
        None => None,
    };

    let mut changes = Vec::new();
    // a VXLAN cannot change its VNI, group or underlay: it is made again
    let vxlan = observed.vxlan.as_ref().filter(|_| vxlan_parameters == Some(desired.vxlan));
    if let (Some(stale), None) = (&observed.vxlan, vxlan) {
        changes.push(LinkChange::Remove { device: stale.name.clone() });
    }
    for &address in observed.addresses.iter().filter(|address| !desired.addresses.contains(address)) {
        changes.push(LinkChange::RemoveAddress { device: names.bridge.clone(), address });
    }

    // With an MTU that IPv6 has no use for, a device has lost its settings. It would go on with the kernel's, and give
    // itself an address, as soon as its MTU is right.
    for link in [vxlan, bridge].into_iter().flatten().filter(|link| link.up && link.ipv6.is_none()) {
        changes.push(LinkChange::SetDown { device: link.name.clone() });
    }

    let mtu = desired.mtu;
    if vxlan.is_none() {
        changes.push(LinkChange::CreateVxlan { device: names.vxlan.clone(), parameters: desired.vxlan, mtu });
    }
    changes.extend(plan_identity(vxlan, &names.vxlan, desired));
    let mac = desired.mac;
    if bridge.is_none() {
        changes.push(LinkChange::CreateBridge { device: names.bridge.clone(), parameters: desired.bridge, mac, mtu });
    }
    changes.extend(plan_identity(bridge, &names.bridge, desired));
    if bridge.is_some_and(|bridge| bridge.mac != mac.octets()) {
        changes.push(LinkChange::SetMac { device: names.bridge.clone(), mac });
    }
    if bridge_parameters.is_some_and(|parameters| parameters != desired.bridge) {
        changes.push(LinkChange::SetBridge { device: names.bridge.clone(), parameters: desired.bridge });
    }

    changes.extend(plan_ipv6(vxlan, &names.vxlan, false));
    changes.extend(plan_ipv6(bridge, &names.bridge, desired.routes()));

    if vxlan.zip(bridge).is_none_or(|(vxlan, bridge)| vxlan.controller != Some(bridge.index)) {
        changes.push(LinkChange::Enslave { device: names.vxlan.clone(), bridge: names.bridge.clone() });
    }
    for (link, name) in [(vxlan, &names.vxlan), (bridge, &names.bridge)] {
        if !link.is_some_and(|link| link.up && link.ipv6.is_some()) {
            changes.push(LinkChange::SetUp { device: name.clone() });
        }
    }
    for &address in desired.addresses.iter().filter(|address| !observed.addresses.contains(address)) {
        changes.push(LinkChange::AddAddress { device: names.bridge.clone(), address });
    }
    Ok(changes)
}

/// The changes that put taps back on their bridges, where both are there, and take IPv6 from them: the kernel gives each
/// an address of the host's, which has none in a tenant's network.
pub(crate) fn plan_taps(links: &[Link], taps: &[Tap]) -> Vec<LinkChange> {
    let named = |name: &str| links.iter().find(|link| link.name == name);
    let mut changes = Vec::new();
    for tap in taps {
        let (Some(link), Some(bridge)) = (named(&tap.name), named(&tap.bridge)) else { continue };
        if link.ipv6.is_some_and(|ipv6| !ipv6.disabled) {
            changes.push(LinkChange::SetSysctl { device: tap.name.clone(), sysctl: Sysctl::DisableIpv6, on: true });
        }
        if link.controller != Some(bridge.index) {
            changes.push(LinkChange::Enslave { device: tap.name.clone(), bridge: tap.bridge.clone() });
        }
        if !link.up {
            changes.push(LinkChange::SetUp { device: tap.name.clone() });
        }
    }
    changes
}

/// The names of devices that an agent made and could not mark with their network any more. They are connected
/// to nothing, and nobody else finds them.
pub(crate) fn half_made(links: &[Link]) -> Vec<String> {
    let has_ports = |link: &Link| links.iter().any(|port| port.controller == Some(link.index));
    links
        .iter()
        .filter(|link| link.kind != Kind::Other && link.alias.is_none() && is_network_device(&link.name))
        .filter(|link| link.controller.is_none() && !has_ports(link))
        .map(|link| link.name.clone())
        .collect()
}

/// Alias, group and MTU of one device. A link that is to be made is None.
fn plan_identity(link: Option<&Link>, name: &str, desired: &Desired) -> Vec<LinkChange> {
    let mut changes = Vec::new();
    if link.and_then(|link| link.alias.as_ref()) != Some(&desired.names.alias) {
        changes.push(LinkChange::SetAlias { device: name.to_owned(), alias: desired.names.alias.clone() });
    }
    // the group repeats the VNI: a bridge whose VXLAN was removed by hand still tells it
    if link.map(|link| link.group) != Some(desired.vni.get()) {
        changes.push(LinkChange::SetGroup { device: name.to_owned(), group: desired.vni.get() });
    }
    if link.map(|link| link.mtu) != Some(desired.mtu) {
        changes.push(LinkChange::SetMtu { device: name.to_owned(), mtu: desired.mtu });
    }
    changes
}

/// IPv6 on one device: on a router's bridge it forwards, and elsewhere it is off.
fn plan_ipv6(link: Option<&Link>, name: &str, routes: bool) -> Vec<LinkChange> {
    let current = link.and_then(|link| link.ipv6);
    let differs = |is: fn(Ipv6Settings) -> bool, wanted: bool| current.map(is) != Some(wanted);
    let mut changes = Vec::new();
    if differs(|ipv6| ipv6.generates_addresses, false) {
        changes.push(LinkChange::SetNoAddressGeneration { device: name.to_owned() });
    }
    // IPv6 is switched on last: by then the device takes no advertisements
    for (sysctl, is, on) in [
        (Sysctl::AcceptRa, (|ipv6: Ipv6Settings| ipv6.accepts_ra) as fn(Ipv6Settings) -> bool, false),
        (Sysctl::Forwarding, |ipv6| ipv6.forwarding, routes),
        (Sysctl::DisableIpv6, |ipv6| ipv6.disabled, !routes),
    ] {
        if differs(is, on) {
            changes.push(LinkChange::SetSysctl { device: name.to_owned(), sysctl, on });
        }
    }
    changes
}

/// A device without an alias was being made when the agent ended, or lost it by hand; with another it is foreign.
fn own(link: &Link, alias: &str) -> Result<(), ForeignDevice> {
    match &link.alias {
        Some(other) if other != alias => {
            Err(ForeignDevice::new(link, "has the name of a network's device, but another alias"))
        }
        _ => Ok(()),
    }
}

impl ForeignDevice {
    fn new(link: &Link, problem: &'static str) -> Self {
        Self { device: link.name.clone(), problem }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ucloud_agent_core::net::{Gateway, NetworkRequest};
    use ucloud_types::Vni;

    use super::*;
    use crate::link::{BridgeParameters, VxlanParameters};

    const UID: &str = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";

    fn desired(routes: bool) -> Desired {
        let prefix: ucloud_types::Ipv6Prefix = "fd00:1::/64".parse().unwrap();
        let gateway = routes.then(|| Gateway { address: prefix.gateway(), prefix });
        let request =
            NetworkRequest { uid: UID.into(), vni: Vni::new(100).unwrap(), mtu: None, gateway, advertised: false };
        let underlay = Link { index: 2, name: "eth0".into(), mtu: 1500, up: true, ..Link::default() };
        Desired::new(&request, &underlay).unwrap()
    }

    /// A link as the kernel makes one.
    fn fresh(name: &str, index: u32, kind: Kind, mtu: u32) -> Link {
        let ipv6 = Ipv6Settings { disabled: false, accepts_ra: true, forwarding: false, generates_addresses: true };
        Link { index, name: name.into(), kind, mtu, ipv6: Some(ipv6), ..Link::default() }
    }

    fn link<'a>(observed: &'a mut Observed, device: &str) -> &'a mut Link {
        let is_bridge = device == desired(false).names.bridge;
        let link = if is_bridge { &mut observed.bridge } else { &mut observed.vxlan };
        link.as_mut().expect("no such device")
    }

    /// What the kernel makes of a change. It refuses what is impossible.
    fn apply(observed: &mut Observed, change: &LinkChange) {
        let bridge_index = observed.bridge.as_ref().map(|bridge| bridge.index);
        let names = desired(false).names;
        match change {
            LinkChange::Remove { device } => {
                assert_eq!(device, &names.vxlan, "only a VXLAN is made again");
                assert!(observed.vxlan.take().is_some());
            }
            LinkChange::CreateVxlan { device, parameters, mtu } => {
                assert!(observed.vxlan.replace(fresh(device, 11, Kind::Vxlan(*parameters), *mtu)).is_none());
            }
            LinkChange::CreateBridge { device, parameters, mac, mtu } => {
                let mac = mac.octets().to_vec();
                let bridge = Link { mac, ..fresh(device, 10, Kind::Bridge(*parameters), mtu + 1) };
                assert!(observed.bridge.replace(bridge).is_none());
            }
            LinkChange::SetAlias { device, alias } => link(observed, device).alias = Some(alias.clone()),
            LinkChange::SetGroup { device, group } => link(observed, device).group = *group,
            LinkChange::SetMac { device, mac } => link(observed, device).mac = mac.octets().to_vec(),
            LinkChange::SetMtu { device, mtu } => {
                let link = link(observed, device);
                link.mtu = *mtu;
                if link.ipv6.is_none() {
                    assert!(!link.up, "{device} would have given itself an address");
                    link.ipv6 = fresh(device, 0, Kind::Other, *mtu).ipv6;
                }
            }
            LinkChange::SetBridge { device, parameters } => link(observed, device).kind = Kind::Bridge(*parameters),
            LinkChange::SetNoAddressGeneration { device } => {
                link(observed, device).ipv6.as_mut().expect("no IPv6").generates_addresses = false;
            }
            LinkChange::SetSysctl { device, sysctl, on } => {
                let ipv6 = link(observed, device).ipv6.as_mut().expect("no IPv6");
                match sysctl {
                    Sysctl::AcceptRa => ipv6.accepts_ra = *on,
                    Sysctl::Forwarding => ipv6.forwarding = *on,
                    Sysctl::DisableIpv6 => ipv6.disabled = *on,
                }
            }
            LinkChange::Enslave { device, .. } => {
                link(observed, device).controller = Some(bridge_index.expect("no bridge"));
            }
            LinkChange::SetDown { device } => link(observed, device).up = false,
            LinkChange::SetUp { device } => {
                let ipv6 = link(observed, device).ipv6.expect("no IPv6");
                assert!(!ipv6.generates_addresses && !ipv6.accepts_ra, "{device} would have given itself an address");
                link(observed, device).up = true;
            }
            LinkChange::AddAddress { address, .. } => {
                let ipv6 = link(observed, &names.bridge).ipv6.expect("no IPv6");
                assert!(!ipv6.disabled && ipv6.forwarding, "IPv6 is not ready for an address");
                observed.addresses.push(*address);
            }
            LinkChange::RemoveAddress { address, .. } => observed.addresses.retain(|other| other != address),
        }
    }

    /// The devices after all of this, from nothing.
    fn made(desired: &Desired) -> Observed {
        let mut observed = Observed::default();
        for change in plan(&observed, desired).unwrap() {
            apply(&mut observed, &change);
        }
        observed
    }

    fn changes(observed: &Observed, desired: &Desired) -> Vec<String> {
        plan(observed, desired).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_made_needs_no_change() {
        for desired in [desired(false), desired(true)] {
            assert_eq!(plan(&made(&desired), &desired), Ok(vec![]));
        }
    }

    #[test]
    fn every_device_is_marked_before_anything_else() {
        let all = plan(&Observed::default(), &desired(true)).unwrap();
        for (position, change) in all.iter().enumerate() {
            if let LinkChange::CreateVxlan { device, .. } | LinkChange::CreateBridge { device, .. } = change {
                assert!(matches!(&all[position + 1], LinkChange::SetAlias { device: next, .. } if next == device));
            }
        }
    }

    #[test]
    fn a_stop_after_any_change_is_made_good() {
        for desired in [desired(false), desired(true)] {
            let all = plan(&Observed::default(), &desired).unwrap();
            for done in 0..all.len() {
                let mut observed = Observed::default();
                for change in &all[..done] {
                    apply(&mut observed, change);
                }
                let rest = plan(&observed, &desired).unwrap();
                for change in &rest {
                    apply(&mut observed, change);
                }
                assert_eq!(observed, made(&desired), "stopped after {done} changes");
            }
        }
    }

    #[test]
    fn the_roles_of_router_and_other_hosts_lead_to_each_other() {
        let (plain, router) = (desired(false), desired(true));
        let mut observed = made(&plain);
        for change in plan(&observed, &router).unwrap() {
            apply(&mut observed, &change);
        }
        assert_eq!(observed, made(&router));
        let back = changes(&observed, &plain);
        assert!(back[0].starts_with("remove fe80::1/64") && back[1].starts_with("remove fd00:1::1/64"), "{back:?}");
        for change in plan(&observed, &plain).unwrap() {
            apply(&mut observed, &change);
        }
        assert_eq!(observed, made(&plain));
    }

    #[test]
    fn one_difference_is_one_change() {
        let desired = desired(false);
        let (bridge, vxlan) = (desired.names.bridge.clone(), desired.names.vxlan.clone());
        let changed = |damage: fn(&mut Link, &mut Link)| {
            let mut observed = made(&desired);
            damage(observed.bridge.as_mut().unwrap(), observed.vxlan.as_mut().unwrap());
            changes(&observed, &desired)
        };
        assert_eq!(changed(|bridge, _| bridge.mtu = 1280), [format!("set the MTU of {bridge} to 1430")]);
        assert_eq!(changed(|_, vxlan| vxlan.up = false), [format!("bring {vxlan} up")]);
        assert_eq!(changed(|_, vxlan| vxlan.controller = Some(99)), [format!("make {vxlan} a port of {bridge}")]);
        assert_eq!(
            changed(|bridge, _| bridge.ipv6.as_mut().unwrap().disabled = false),
            [format!("set disable_ipv6 of {bridge} to 1")]
        );
    }

    #[test]
    fn a_vxlan_that_differs_is_made_again() {
        let desired = desired(false);
        for stale in [
            VxlanParameters { vni: 101, ..desired.vxlan },
            VxlanParameters { group: None, ..desired.vxlan },
            VxlanParameters { underlay: 3, ..desired.vxlan },
            VxlanParameters { port: 8472, ..desired.vxlan },
        ] {
            let mut observed = made(&desired);
            observed.vxlan.as_mut().unwrap().kind = Kind::Vxlan(stale);
            let all = changes(&observed, &desired);
            assert_eq!(all[0], format!("remove {}", desired.names.vxlan));
            for change in plan(&observed, &desired).unwrap() {
                apply(&mut observed, &change);
            }
            assert_eq!(observed, made(&desired));
        }
    }

    #[test]
    fn foreign_devices_are_refused() {
        let desired = desired(false);
        let mut observed = made(&desired);
        observed.bridge.as_mut().unwrap().alias = Some("backbone".into());
        assert_eq!(plan(&observed, &desired).unwrap_err().device, desired.names.bridge);
        observed = made(&desired);
        observed.vxlan.as_mut().unwrap().kind = Kind::Other;
        assert_eq!(plan(&observed, &desired).unwrap_err().device, desired.names.vxlan);
    }

    #[test]
    fn only_what_is_connected_to_nothing_is_half_made() {
        let bridge = |name: &str, index| fresh(name, index, Kind::Bridge(BridgeParameters::default()), 1500);
        let vxlan = |name: &str, index| fresh(name, index, Kind::Vxlan(VxlanParameters::default()), 1500);
        let links = [
            bridge("ucbr-0000000001", 1),
            vxlan("ucvx-0000000002", 2),
            Link { alias: Some("ucloud:network:a".into()), ..bridge("ucbr-0000000003", 3) },
            bridge("ucbr-0000000004", 4),
            Link { controller: Some(4), ..vxlan("ucvx-0000000005", 5) },
            bridge("ucbr-uplink", 6),
            Link { kind: Kind::Other, ..bridge("ucbr-0000000007", 7) },
        ];
        assert_eq!(half_made(&links), ["ucbr-0000000001", "ucvx-0000000002"]);
    }

    #[test]
    fn taps_come_back_to_their_bridges() {
        let bridge = |name: &str, index| fresh(name, index, Kind::Bridge(BridgeParameters::default()), 1500);
        let ipv6 = Some(Ipv6Settings { disabled: true, ..Ipv6Settings::default() });
        let port =
            |name: &str, index, controller, up| Link { up, controller, ipv6, ..fresh(name, index, Kind::Other, 1430) };
        let links = [
            bridge("ucbr-1", 1),
            port("fine", 2, Some(1), true),
            port("loose", 3, None, true),
            port("elsewhere", 4, Some(9), false),
            Link { ipv6: Some(Ipv6Settings::default()), ..port("speaks", 5, Some(1), true) },
        ];
        let tap = |name: &str, bridge: &str| Tap { name: name.into(), bridge: bridge.into() };
        let taps = ["fine", "loose", "elsewhere", "speaks", "gone"].map(|name| tap(name, "ucbr-1"));
        let changes = plan_taps(&links, &[&taps[..], &[tap("loose", "ucbr-2")]].concat());
        let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
        let expected = [
            "make loose a port of ucbr-1",
            "make elsewhere a port of ucbr-1",
            "bring elsewhere up",
            "set disable_ipv6 of speaks to 1",
        ];
        assert_eq!(changes, expected);
    }

    proptest! {
        #[test]
        fn any_damage_is_made_good(
            routes: bool,
            lost in 0..4_u8,
            bits in any::<[bool; 12]>(),
            mtu in 1000..2000_u32,
            controller in proptest::option::of(9..12_u32),
        ) {
            let desired = desired(routes);
            let mut observed = made(&desired);
            let [alias, group, mac, up, stp, snooping, vxlan_up, address, a, b, c, d] = bits;
            if let Some(bridge) = &mut observed.bridge {
                bridge.alias = bridge.alias.take().filter(|_| alias);
                bridge.group = u32::from(group);
                bridge.mac = vec![2, 0, 0, 0, 0, u8::from(mac)];
                bridge.up = up;
                bridge.kind = Kind::Bridge(BridgeParameters {
                    stp,
                    multicast_snooping: snooping,
                    link_local_learning: up,
                });
                bridge.ipv6 = Some(Ipv6Settings { disabled: a, accepts_ra: b, forwarding: c, generates_addresses: d });
                bridge.mtu = mtu;
                bridge.ipv6 = bridge.ipv6.filter(|_| mtu >= 1280);
            }
            if let Some(vxlan) = &mut observed.vxlan {
                vxlan.controller = controller;
                vxlan.up = vxlan_up;
            }
            if address {
                observed.addresses = vec![InterfaceAddress { address: "10.0.0.1".parse().unwrap(), length: 24 }];
            }
            if lost & 1 == 1 {
                observed.bridge = None;
                observed.addresses.clear();
            }
            if lost & 2 == 2 {
                observed.vxlan = None;
            }
            for change in plan(&observed, &desired).unwrap() {
                apply(&mut observed, &change);
            }
            prop_assert_eq!(plan(&observed, &desired), Ok(vec![]));
        }
    }
}
