//! The host's packet filter: what guests may send and receive, and what they may reach of the host.

use std::net::Ipv6Addr;

use async_trait::async_trait;
use tokio::sync::watch;
use ucloud_types::{Ipv6Prefix, MacAddr, security_group::Protocol};

use crate::HostError;

/// Filters what comes from guests and goes to them.
#[async_trait]
pub trait Firewall: Send + Sync + 'static {
    /// Puts exactly these rules in force, all at once. What is in force already is not written again; what somebody
    /// changed by hand is put right. A tap of ucloud's that no rule speaks of can send nothing.
    async fn enforce(&self, rules: &Rules) -> Result<(), HostError>;

    /// Changes its value whenever the rules that are in force may have been changed by somebody.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// All rules of a host. Its lists are sorted, so that equal rules are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The taps, by name.
    pub ports: Vec<Port>,
    /// The networks that some port is checked against, by bridge.
    pub networks: Vec<NetworkAddresses>,
    /// The security groups that some rule of a port names, by UID.
    pub groups: Vec<GroupAddresses>,
    /// The gateways that this host carries, by bridge.
    pub gateways: Vec<LocalGateway>,
    /// What guests must not reach through this host, where it routes: the underlay.
    pub protected: Vec<Ipv6Prefix>,
}

/// What a tap may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name of the tap device.
    pub tap: DeviceName,
    /// The MAC address of the guest's interface.
    pub mac: MacAddr,
    /// What the guest may send.
    pub guard: Guard,
    /// What its security groups let through; all, where it is in none.
    pub groups: Option<GroupRules>,
}

/// What a guest may send, before security groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Anything at all (port security is off, in a network without address management).
    Nothing,
    /// Anything, from its own MAC address (a network without address management).
    Mac,
    /// Anything but what routers and DHCP servers say, from any address (port security is off).
    Router,
    /// The same, from its own MAC address. For a domain of which no VM is known: its network is not known either.
    MacAndRouter,
    /// IPv6 from its own addresses in the network with this bridge, neighbour discovery about them, and nothing else.
    Addresses {
        /// The bridge: one of [`Rules::networks`].
        bridge: DeviceName,
        /// Whether only addresses that the network has on record for it are its own, and not any that is free.
        recorded_only: bool,
    },
}

/// Whose addresses are whose in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAddresses {
    /// The bridge of the network.
    pub bridge: DeviceName,
    /// The network's prefix.
    pub prefix: Ipv6Prefix,
    /// The gateway's address in the prefix: no guest's.
    pub gateway: Option<Ipv6Addr>,
    /// Addresses and the only MAC address that may use each, sorted by address.
    pub owners: Vec<(Ipv6Addr, MacAddr)>,
}

/// A gateway on this host: all of the host that guests reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalGateway {
    /// The bridge that carries it.
    pub bridge: DeviceName,
    /// Its address.
    pub address: Ipv6Addr,
}

/// The addresses of a security group's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupAddresses {
    /// The group's UID.
    pub uid: String,
    /// The addresses, sorted.
    pub addresses: Vec<Ipv6Addr>,
}

/// What security groups let through. What belongs to a connection that was let through passes, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupRules {
    /// To the guest.
    pub ingress: Vec<GroupRule>,
    /// From the guest; anything, where there is None.
    pub egress: Option<Vec<GroupRule>>,
}

/// One rule of a security group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRule {
    /// Who may be on the other side; anybody, if empty.
    pub peers: Vec<GroupPeer>,
    /// The protocol; any, where there is None.
    pub protocol: Option<Protocol>,
    /// The ports at the receiver, first and last; any, if empty.
    pub ports: Vec<(u16, u16)>,
}

/// The other side of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupPeer {
    /// An address in this prefix.
    Prefix(Ipv6Prefix),
    /// A member of the group with this UID: one of [`Rules::groups`].
    Group(String),
}

/// The name of a device of ucloud's: lower-case letters, digits and hyphens, 15 at most. It cannot be anything but a
/// word where it is written into a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(String);

impl DeviceName {
    /// The name, if it is one.
    pub fn new(name: &str) -> Option<Self> {
        let sound = (1..=15).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        sound.then(|| Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for DeviceName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::device_name;

    #[test]
    fn a_device_name_is_a_word() {
        assert!(DeviceName::new(&device_name("uctp", "uid", "eth0")).is_some());
        for name in ["", "a b", "a;b", "a\"", "a\nb", "A", "uctp-0123456789a", "ä"] {
            assert_eq!(DeviceName::new(name), None, "{name:?}");
        }
    }
}
