//! The changes that can be made to a network's devices.

use std::fmt;

use ucloud_types::MacAddr;

use crate::{
    link::{BridgeParameters, VxlanParameters},
    route::InterfaceAddress,
};

/// One change of one device. Devices are given by name, as those that are made on the way have no index yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkChange {
    Remove {
        device: String,
    },
    RemoveAddress {
        device: String,
        address: InterfaceAddress,
    },
    CreateVxlan {
        device: String,
        parameters: VxlanParameters,
        mtu: u32,
    },
    CreateBridge {
        device: String,
        parameters: BridgeParameters,
        mac: MacAddr,
        mtu: u32,
    },
    SetAlias {
        device: String,
        alias: String,
    },
    SetGroup {
        device: String,
        group: u32,
    },
    SetMac {
        device: String,
        mac: MacAddr,
    },
    SetMtu {
        device: String,
        mtu: u32,
    },
    SetBridge {
        device: String,
        parameters: BridgeParameters,
    },
    /// Keeps the kernel from giving the device a link-local address.
    SetNoAddressGeneration {
        device: String,
    },
    SetSysctl {
        device: String,
        sysctl: Sysctl,
        on: bool,
    },
    Enslave {
        device: String,
        bridge: String,
    },
    SetDown {
        device: String,
    },
    SetUp {
        device: String,
    },
    AddAddress {
        device: String,
        address: InterfaceAddress,
    },
}

/// A switch of IPv6 on one device (`Documentation/networking/ip-sysctl.rst` of the kernel).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sysctl {
    AcceptRa,
    Forwarding,
    DisableIpv6,
}

impl Sysctl {
    /// Its file under `/proc/sys/net/ipv6/conf/<device>/`.
    pub fn file_name(self) -> &'static str {
        match self {
            Self::AcceptRa => "accept_ra",
            Self::Forwarding => "forwarding",
            Self::DisableIpv6 => "disable_ipv6",
        }
    }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remove { device } => write!(f, "remove {device}"),
            Self::RemoveAddress { device, address } => {
                write!(f, "remove {}/{} from {device}", address.address, address.length)
            }
            Self::CreateVxlan { device, parameters, .. } => {
                write!(f, "make VXLAN {device} with VNI {}", parameters.vni)
            }
            Self::CreateBridge { device, .. } => write!(f, "make bridge {device}"),
            Self::SetAlias { device, .. } => write!(f, "set the alias of {device}"),
            Self::SetGroup { device, group } => write!(f, "set the group of {device} to {group}"),
            Self::SetMac { device, mac } => write!(f, "set the address of {device} to {mac}"),
            Self::SetMtu { device, mtu } => write!(f, "set the MTU of {device} to {mtu}"),
            Self::SetBridge { device, .. } => {
                write!(f, "switch STP, multicast snooping and link-local learning of {device} off")
            }
            Self::SetNoAddressGeneration { device } => write!(f, "switch address generation of {device} off"),
            Self::SetSysctl { device, sysctl, on } => {
                write!(f, "set {} of {device} to {}", sysctl.file_name(), u8::from(*on))
            }
            Self::Enslave { device, bridge } => write!(f, "make {device} a port of {bridge}"),
            Self::SetDown { device } => write!(f, "take {device} down"),
            Self::SetUp { device } => write!(f, "bring {device} up"),
            Self::AddAddress { device, address } => write!(f, "add {}/{} to {device}", address.address, address.length),
        }
    }
}
