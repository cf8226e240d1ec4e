//! Addresses that VMs' interfaces declare: within the network's prefix, and no two interfaces of one network the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
};

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::FieldError,
    strategy::{Context, Lister},
};
use ucloud_types::{GROUP, Network};

use super::{field::Field, typed};

/// An address in the network of this name.
type Place = (String, Ipv6Addr);

/// Each address that a VM declares, with the field in which it stands. What cannot be read is left out.
fn places<'a>(vm: &'a Value, errors: &mut Vec<FieldError>) -> Vec<(Place, Field<'a>)> {
    let mut places = Vec::new();
    let networks = Field::spec(vm).child("networks");
    for interface in networks.items() {
        let network = interface.child("network").text().unwrap_or_default().to_owned();
        for field in interface.child("addresses").items() {
            if let Some(address) = field.read::<Ipv6Addr>(errors) {
                places.push(((network.clone(), address), field));
            }
        }
    }
    places
}

/// Refuses addresses that no guest can have in its network. Those that the VM had before (`old`) are not measured
/// against other objects again: a network that was made anew must not block other changes of the VM.
pub fn check(ctx: &Context<'_>, vm: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let own = places(vm, errors);
    if own.is_empty() {
        return;
    }
    let mut seen: BTreeMap<&Place, &Field<'_>> = BTreeMap::new();
    for (place, field) in &own {
        if let Some(rule) = unusable(place.1) {
            errors.push(field.invalid(rule));
        } else if let Some(first) = seen.get(place) {
            errors.push(field.duplicate(&format!("{} has it on the same network", first.path())));
        } else {
            seen.insert(place, field);
        }
    }
    let before: BTreeSet<Place> =
        old.into_iter().flat_map(|old| places(old, &mut Vec::new())).map(|(p, _)| p).collect();
    let new: Vec<_> = seen.into_iter().filter(|(place, _)| !before.contains(place)).collect();
    if new.is_empty() {
        return;
    }
    let taken = taken(ctx.lister, ctx.namespace, meta::text(vm, "uid"));
    for ((network, address), field) in new {
        if let Some(holder) = taken.get(&(network.clone(), *address)) {
            errors.push(field.duplicate(&format!("VM {holder:?} has it on network {network:?}")));
        }
        let found = ctx.lister.get(GROUP, "networks", ctx.namespace, network);
        if let Some(rule) = found.and_then(|found| misplaced(&typed(&found).ok()?, *address)) {
            errors.push(field.invalid(&rule));
        }
    }
}

/// Why no interface can have the address, in whatever network.
fn unusable(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Some("is not an address of one interface");
    }
    if address.to_ipv4_mapped().is_some() {
        return Some("is an IPv4 address in IPv6's clothes; only IPv6 addresses can be declared");
    }
    address.is_unicast_link_local().then_some("is link-local: guests form such addresses by themselves")
}

/// Why an interface in this network cannot have the address. A network that has no prefix, or none yet, refuses none.
fn misplaced(network: &Network, address: Ipv6Addr) -> Option<String> {
    let status = network.status.as_ref()?;
    let prefix = status.prefix?;
    if !prefix.contains(address) {
        return Some(format!("is not in the network's prefix {prefix}"));
    }
    if address == prefix.network() {
        return Some("is the anycast address of the network's routers (RFC 4291, 2.6.1)".to_owned());
    }
    (status.gateway == Some(address)).then(|| "is the network's gateway".to_owned())
}

/// The places that the namespace's other VMs have, with the names of those.
fn taken(lister: &dyn Lister, namespace: Option<&str>, own_uid: &str) -> BTreeMap<Place, String> {
    let vms = lister.list(GROUP, "vms", namespace);
    let others = vms.iter().filter(|other| meta::text(other, "uid") != own_uid);
    others
        .flat_map(|other| {
            let name = meta::text(other, "name");
            places(other, &mut Vec::new()).into_iter().map(move |(place, _)| (place, name.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn some_addresses_belong_to_nobody() {
        for text in ["::", "::1", "ff02::1", "fe80::5", "::ffff:192.0.2.1"] {
            assert!(unusable(text.parse().unwrap()).is_some(), "{text}");
        }
        assert_eq!(unusable("fd00::5".parse().unwrap()), None);
    }

    #[test]
    fn an_address_lies_in_the_prefix_and_is_not_the_gateways() {
        let network = |status: Value| {
            typed::<Network>(
                &json!({"apiVersion": "x", "kind": "Network", "metadata": {}, "spec": {}, "status": status}),
            )
            .unwrap()
        };
        let manual = network(json!({"prefix": "fd00::/64", "gateway": "fd00::1"}));
        let rule = |address: &str| misplaced(&manual, address.parse().unwrap()).unwrap_or_default();
        assert_eq!(rule("fd00::2"), "");
        assert!(rule("fd00:0:0:1::2").contains("fd00::/64"));
        assert!(rule("fd00::").contains("anycast") && rule("fd00::1").contains("gateway"));
        assert_eq!(misplaced(&network(json!({})), "fd00::1".parse().unwrap()), None, "layer 2 alone");
    }
}
