//! What a netlink message says about a link, as far as it matters here.

use std::net::Ipv6Addr;

use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeBooleanOptionFlags, BridgeStpState, In6AddrGenMode, InfoBridge, InfoData,
    InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

/// A link as the kernel reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub index: u32,
    pub name: String,
    pub alias: Option<String>,
    pub kind: Kind,
    /// The link-layer address.
    pub mac: Vec<u8>,
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// The index of the bridge whose port it is.
    pub controller: Option<u32>,
    /// The link's group (`ip link show group N`), zero by default.
    pub group: u32,
    /// None where IPv6 does not run on the link at all (an MTU under 1280).
    pub ipv6: Option<Ipv6Settings>,
}

/// What sort of device a link is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    Bridge(BridgeParameters),
    Vxlan(VxlanParameters),
    /// Neither: never a device of a network.
    #[default]
    Other,
}

/// The parameters of a bridge that networks rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BridgeParameters {
    pub stp: bool,
    pub multicast_snooping: bool,
    /// Whether it learns where MAC addresses are from frames to the addresses that bridges keep for themselves (IEEE
    /// 802.1D), which no packet filter sees.
    pub link_local_learning: bool,
}

/// The parameters of a VXLAN that networks rely on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VxlanParameters {
    pub vni: u32,
    /// The multicast group, where it is one of IPv6.
    pub group: Option<Ipv6Addr>,
    /// The index of the underlay interface; zero if there is none.
    pub underlay: u32,
    /// The UDP port.
    pub port: u16,
    /// The hop limit of the outer packets.
    pub ttl: u8,
    /// Whether it learns behind which host a MAC is.
    pub learning: bool,
}

/// The settings of IPv6 on a link (`/proc/sys/net/ipv6/conf`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the kernel")]
pub(crate) struct Ipv6Settings {
    pub disabled: bool,
    pub accepts_ra: bool,
    pub forwarding: bool,
    /// Whether the kernel gives the link a link-local address by itself.
    pub generates_addresses: bool,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link =
            Self { index: message.header.index, up: message.header.flags.contains(LinkFlags::Up), ..Self::default() };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Address(mac) => link.mac.clone_from(mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.controller = Some(*index).filter(|&index| index != 0),
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::LinkInfo(infos) => link.kind = kind(infos),
                LinkAttribute::AfSpecUnspec(families) => link.ipv6 = families.iter().find_map(ipv6),
                _ => {}
            }
        }
        link
    }
}

fn kind(infos: &[LinkInfo]) -> Kind {
    let data = infos.iter().find_map(|info| if let LinkInfo::Data(data) = info { Some(data) } else { None });
    let kind = infos.iter().find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
    match (kind, data) {
        (Some(InfoKind::Bridge), Some(InfoData::Bridge(parameters))) => Kind::Bridge(bridge(parameters)),
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(parameters))) => Kind::Vxlan(vxlan(parameters)),
        _ => Kind::Other,
    }
}

fn bridge(infos: &[InfoBridge]) -> BridgeParameters {
    let mut parameters = BridgeParameters::default();
    for info in infos {
        match info {
            InfoBridge::StpState(state) => parameters.stp = *state != BridgeStpState::Disabled,
            InfoBridge::MulticastSnooping(snooping) => parameters.multicast_snooping = *snooping,
            InfoBridge::MultiBoolOpt(options) => {
                parameters.link_local_learning = !options.value.contains(BridgeBooleanOptionFlags::NoLinkLocalLearn);
            }
            _ => {}
        }
    }
    parameters
}

fn vxlan(infos: &[InfoVxlan]) -> VxlanParameters {
    let mut parameters = VxlanParameters::default();
    for info in infos {
        match info {
            InfoVxlan::Id(vni) => parameters.vni = *vni,
            InfoVxlan::Group6(group) => parameters.group = Some(*group),
            InfoVxlan::Link(index) => parameters.underlay = *index,
            InfoVxlan::Port(port) => parameters.port = *port,
            InfoVxlan::Ttl(ttl) => parameters.ttl = *ttl,
            InfoVxlan::Learning(learning) => parameters.learning = *learning,
            _ => {}
        }
    }
    parameters
}

fn ipv6(family: &AfSpecUnspec) -> Option<Ipv6Settings> {
    let AfSpecUnspec::Inet6(attributes) = family else { return None };
    let mut settings = None;
    for attribute in attributes {
        if let AfSpecInet6::DevConf(conf) = attribute {
            settings = Some(Ipv6Settings {
                disabled: conf.disable_ipv6 != 0,
                accepts_ra: conf.accept_ra != 0,
                forwarding: conf.forwarding != 0,
                generates_addresses: conf.addr_gen_mode != i32::from(u8::from(&In6AddrGenMode::None)),
            });
        }
    }
    settings
}
