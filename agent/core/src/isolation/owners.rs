//! Which interface an address belongs to: no other may use it.
//!
//! An address belongs to the interface that declares it; else to the one whose MAC address it is formed from; else to the
//! one that was seen to use it first: whoever owns an address keeps all others from using it, so that none is seen to.
//! What guests on other hosts use is not known here, so that an address of theirs is checked on their own host alone.
//! All VMs of a network belong to one project.

use std::{collections::BTreeMap, net::Ipv6Addr};

use ucloud_types::{Ipv6Prefix, MacAddr, Network, network::Ipam};

use super::{Attached, recorded_only};
use crate::net::ROUTER_LINK_LOCAL;

/// The owners of addresses among these interfaces, which are all of the host's in one network, sorted by address.
pub(super) fn owners(
    interfaces: &[&Attached<'_>],
    network: &Network,
    prefix: Ipv6Prefix,
    learnt: &dyn Fn(&str, MacAddr) -> Vec<Ipv6Addr>,
) -> Vec<(Ipv6Addr, MacAddr)> {
    let ipam = network.spec.effective_ipam();
    let uid = network.metadata.uid.as_deref().unwrap_or_default();
    let mut by_mac: Vec<_> = interfaces.to_vec();
    by_mac.sort_unstable_by_key(|interface| interface.mac);
    let declared = by_mac.iter().flat_map(|i| i.wanted.addresses.iter().map(|address| (*address, i.mac)));
    let derived = by_mac.iter().flat_map(|i| {
        let own = i.mac.slaac(prefix).filter(|_| ipam == Ipam::Automatic);
        own.into_iter().chain(link_local(i.mac)).map(|address| (address, i.mac))
    });
    let seen = by_mac
        .iter()
        .filter(|i| !recorded_only(i.wanted, ipam))
        .flat_map(|i| learnt(uid, i.mac).into_iter().map(|address| (address, i.mac)));

    let gateway = network.status.as_ref().and_then(|status| status.gateway);
    let mut owners = BTreeMap::new();
    for (address, mac) in declared.chain(derived).chain(seen) {
        let possible = prefix.contains(address) || address.is_unicast_link_local();
        if possible && Some(address) != gateway && address != ROUTER_LINK_LOCAL {
            owners.entry(address).or_insert(mac);
        }
    }
    owners.into_iter().collect()
}

/// The link-local address that is formed from a MAC address.
fn link_local(mac: MacAddr) -> Option<Ipv6Addr> {
    mac.slaac(Ipv6Prefix::containing(ROUTER_LINK_LOCAL, 64)?)
}
