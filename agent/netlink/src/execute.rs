//! Carries out changes of devices.

use std::{
    io::{self, Write as _},
    net::Ipv6Addr,
};

use nix::libc;
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVxlan,
    packet_core::{NLM_F_CREATE, NLM_F_EXCL},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage},
        link::{
            AfSpecInet6, AfSpecUnspec, BridgeBooleanOptionFlags, BridgeBooleanOptions, BridgeStpState, In6AddrGenMode,
            InfoBridge, LinkAttribute, LinkMessage,
        },
    },
};
use ucloud_types::MacAddr;

use crate::{
    change::{LinkChange, Sysctl},
    link::{BridgeParameters, VxlanParameters},
    route::{InterfaceAddress, Route, RouteError},
};

/// Why a change could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExecuteError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("cannot write a setting of the kernel")]
    Sysctl(#[source] io::Error),
    #[error("{0} is gone")]
    Gone(String),
}

impl ExecuteError {
    /// The kernel's error number, if it refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Route(error) => error.errno(),
            Self::Sysctl(error) => error.raw_os_error(),
            Self::Gone(_) => None,
        }
    }
}

/// Makes one change. One that has been made already by someone else is no error.
pub(crate) async fn execute(route: &Route, change: &LinkChange) -> Result<(), ExecuteError> {
    use RouteNetlinkMessage::{DelAddress, DelLink, NewAddress, NewLink, SetLink};
    match change {
        LinkChange::Remove { device } => {
            tolerate(route.change(DelLink(named(device).build()), 0).await, &[libc::ENODEV])
        }
        LinkChange::RemoveAddress { device, address } => {
            let message = address_message(index(route, device).await?, *address);
            tolerate(route.change(DelAddress(message), 0).await, &[libc::EADDRNOTAVAIL])
        }
        LinkChange::CreateVxlan { device, parameters, mtu } => {
            let message = vxlan(device, parameters, *mtu);
            Ok(route.change(NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await?)
        }
        LinkChange::CreateBridge { device, parameters, mac, mtu } => {
            let message = bridge(device, *parameters, *mac, *mtu);
            Ok(route.change(NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await?)
        }
        LinkChange::SetAlias { device, alias } => {
            Ok(route.change(SetLink(named(device).alias(alias).build()), 0).await?)
        }
        LinkChange::SetGroup { device, group } => {
            Ok(route.change(SetLink(named(device).link_group(*group).build()), 0).await?)
        }
        LinkChange::SetMac { device, mac } => {
            Ok(route.change(SetLink(named(device).address(mac.octets().to_vec()).build()), 0).await?)
        }
        LinkChange::SetMtu { device, mtu } => Ok(route.change(SetLink(named(device).mtu(*mtu).build()), 0).await?),
        LinkChange::SetBridge { device, parameters } => {
            let message = with_parameters(LinkMessageBuilder::<LinkBridge>::new(device), *parameters).build();
            // parameters of a kind are changed by a "new link" without NLM_F_CREATE
            Ok(route.change(NewLink(message), 0).await?)
        }
        LinkChange::SetNoAddressGeneration { device } => {
            let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
            let attribute = LinkAttribute::AfSpecUnspec(vec![mode]);
            Ok(route.change(SetLink(named(device).append_extra_attribute(attribute).build()), 0).await?)
        }
        LinkChange::SetSysctl { device, sysctl, on } => set_sysctl(device, *sysctl, *on).await,
        LinkChange::Enslave { device, bridge } => {
            let controller = index(route, bridge).await?;
            Ok(route.change(SetLink(named(device).controller(controller).build()), 0).await?)
        }
        LinkChange::SetDown { device } => Ok(route.change(SetLink(named(device).down().build()), 0).await?),
        LinkChange::SetUp { device } => Ok(route.change(SetLink(named(device).up().build()), 0).await?),
        LinkChange::AddAddress { device, address } => {
            let mut message = address_message(index(route, device).await?, *address);
            // without duplicate address detection: the address works at once, and a guest cannot take it away
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            tolerate(route.change(NewAddress(message), NLM_F_CREATE | NLM_F_EXCL).await, &[libc::EEXIST])
        }
    }
}

fn tolerate(result: Result<(), RouteError>, errnos: &[i32]) -> Result<(), ExecuteError> {
    match result {
        Err(error) if error.errno().is_some_and(|errno| errnos.contains(&errno)) => Ok(()),
        result => Ok(result?),
    }
}

fn named(device: &str) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(device)
}

async fn index(route: &Route, device: &str) -> Result<u32, ExecuteError> {
    Ok(route.link(device).await?.ok_or_else(|| ExecuteError::Gone(device.to_owned()))?.index)
}

fn vxlan(device: &str, parameters: &VxlanParameters, mtu: u32) -> LinkMessage {
    let builder = LinkVxlan::new(device, parameters.vni)
        .dev(parameters.underlay)
        .port(parameters.port)
        .ttl(parameters.ttl)
        .learning(parameters.learning)
        .mtu(mtu);
    match parameters.group {
        Some(group) => builder.group6(group),
        None => builder,
    }
    .build()
}

fn bridge(device: &str, parameters: BridgeParameters, mac: MacAddr, mtu: u32) -> LinkMessage {
    // A bridge follows the MTU of its ports until it is given another than it has. So it begins with one more
    // than it is to have, for the change that follows to fix it.
    with_parameters(LinkMessageBuilder::<LinkBridge>::new(device), parameters)
        .address(mac.octets().to_vec())
        .mtu(mtu + 1)
        .build()
}

fn with_parameters(
    builder: LinkMessageBuilder<LinkBridge>,
    parameters: BridgeParameters,
) -> LinkMessageBuilder<LinkBridge> {
    let no_learning = BridgeBooleanOptionFlags::NoLinkLocalLearn;
    let stp = if parameters.stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    builder
        .append_info_data(InfoBridge::StpState(stp))
        .append_info_data(InfoBridge::MulticastSnooping(parameters.multicast_snooping))
        .append_info_data(InfoBridge::MultiBoolOpt(BridgeBooleanOptions {
            value: if parameters.link_local_learning { BridgeBooleanOptionFlags::empty() } else { no_learning },
            mask: no_learning,
        }))
}

fn address_message(index: u32, address: InterfaceAddress) -> AddressMessage {
    match address.address {
        std::net::IpAddr::V4(v4) => {
            AddressMessageBuilder::<std::net::Ipv4Addr>::new().index(index).address(v4, address.length).build()
        }
        std::net::IpAddr::V6(v6) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(v6, address.length).build()
        }
    }
}

/// The device's name is one that [`crate::names::DeviceNames`] made: it cannot lead anywhere else.
async fn set_sysctl(device: &str, sysctl: Sysctl, on: bool) -> Result<(), ExecuteError> {
    let path = format!("/proc/sys/net/ipv6/conf/{device}/{}", sysctl.file_name());
    let value: &[u8] = if on { b"1" } else { b"0" };
    let written =
        tokio::task::spawn_blocking(move || std::fs::OpenOptions::new().write(true).open(path)?.write_all(value));
    match written.await {
        Ok(result) => result.map_err(ExecuteError::Sysctl),
        Err(stopped) => Err(ExecuteError::Sysctl(io::Error::other(stopped))),
    }
}
