//! What security groups let through, with the names of groups resolved.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use ucloud_types::{
    SecurityGroup,
    security_group::{Peer, PortRange, Protocol},
};

use crate::{
    firewall::{GroupAddresses, GroupPeer, GroupRule, GroupRules, Port},
    reason,
    vm::Blocker,
};

/// Why a VM with an interface in the group of this name waits, if it does.
pub fn missing(found: Option<&SecurityGroup>, namespace: &str, name: &str) -> Option<Blocker> {
    found.is_none().then(|| {
        Blocker::new(
            reason::SECURITY_GROUP_NOT_FOUND,
            format!("SecurityGroup {namespace}/{name} does not exist: create it, or name another group"),
        )
    })
}

/// What the groups of these names let through together. A group that does not exist lets nothing through.
pub(super) fn of(names: &[String], namespace: &str, groups: &[&SecurityGroup]) -> Option<GroupRules> {
    if names.is_empty() {
        return None;
    }
    let find = |name: &str| {
        groups.iter().find(|group| {
            group.metadata.namespace.as_deref() == Some(namespace) && group.metadata.name.as_deref() == Some(name)
        })
    };
    let rule = |peers: &[Peer], protocol: Option<Protocol>, ports: &[PortRange]| {
        let resolve = |peer: &Peer| match (peer.prefix, peer.group.as_deref()) {
            (Some(prefix), _) => Some(GroupPeer::Prefix(prefix)),
            (None, group) => Some(GroupPeer::Group(find(group?)?.metadata.uid.clone()?)),
        };
        let resolved: Vec<_> = peers.iter().filter_map(resolve).collect();
        // None at all would mean anybody
        (peers.is_empty() || !resolved.is_empty()).then(|| GroupRule {
            peers: resolved,
            protocol,
            ports: ports.iter().map(|range| range.bounds()).collect(),
        })
    };
    let mut rules = GroupRules::default();
    for group in names.iter().filter_map(|name| find(name)) {
        let spec = &group.spec;
        rules.ingress.extend(spec.ingress.iter().filter_map(|r| rule(&r.from, r.protocol, &r.ports)));
        if !spec.egress.is_empty() {
            let egress = rules.egress.get_or_insert_default();
            egress.extend(spec.egress.iter().filter_map(|r| rule(&r.to, r.protocol, &r.ports)));
        }
    }
    Some(rules)
}

/// The members' addresses of the groups that the rules of these ports name.
pub(super) fn addresses(ports: &[Port], groups: &[&SecurityGroup]) -> Vec<GroupAddresses> {
    let by_uid: BTreeMap<_, &SecurityGroup> =
        groups.iter().filter_map(|group| Some((group.metadata.uid.as_deref()?, *group))).collect();
    let rules = ports.iter().filter_map(|port| port.groups.as_ref());
    let named: BTreeSet<&str> = rules
        .flat_map(|rules| rules.ingress.iter().chain(rules.egress.iter().flatten()))
        .flat_map(|rule| &rule.peers)
        .filter_map(|peer| if let GroupPeer::Group(uid) = peer { Some(uid.as_str()) } else { None })
        .collect();
    let members = |uid: &str| {
        let status = by_uid.get(uid).and_then(|group| group.status.as_ref());
        let mut addresses: Vec<Ipv6Addr> = status.map(|status| status.addresses.clone()).unwrap_or_default();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    };
    named.into_iter().map(|uid| GroupAddresses { uid: uid.to_owned(), addresses: members(uid) }).collect()
}
