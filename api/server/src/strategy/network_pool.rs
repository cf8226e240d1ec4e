//! NetworkPool: a range of VNIs and a prefix that no other pool gives out of, and that never change.

use std::net::Ipv6Addr;

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::{FieldError, FieldPath},
    strategy::{Context, Lister, Strategy},
};
use ucloud_types::{GROUP, Ipv6Prefix, NetworkAllocation, NetworkPool, NetworkPoolSpec, network_pool::OwnPrefix};

use super::{check_immutable, check_name, status_errors, typed};
use crate::protection;

const ADVICE: &str = "make a second pool instead";

/// The rules of NetworkPools.
pub struct NetworkPoolStrategy;

impl Strategy for NetworkPoolStrategy {
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        match typed::<NetworkPool>(object) {
            Ok(pool) => {
                let mut errors = validate(&pool.spec);
                check_overlap(ctx.name, &pool.spec, &others(ctx.lister), &mut errors);
                check_in_use(&pool.spec, ctx.lister, &mut errors);
                check_own(ctx, &pool.spec, &[], &mut errors);
                errors
            }
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, ctx: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<NetworkPool>(new), typed::<NetworkPool>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let (old, new) = (&old.spec, &new.spec);
                check_immutable("spec.prefix", &old.prefix, &new.prefix, ADVICE, &mut errors);
                check_immutable("spec.vniRange", &old.vni_range, &new.vni_range, ADVICE, &mut errors);
                check_projects(new, &mut errors);
                check_own(ctx, new, &old.own_prefixes, &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_delete(&self, ctx: &Context<'_>, _: &Value) -> Result<(), String> {
        protection::check_network_pool(ctx.name, ctx.lister)
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<NetworkPool>(new)
    }
}

/// Every pool by its name.
fn others(lister: &dyn Lister) -> Vec<(String, NetworkPoolSpec)> {
    let pools = lister.list(GROUP, "networkpools", None);
    let named = pools
        .iter()
        .filter_map(|pool| Some((meta::text(pool, "name").to_owned(), typed::<NetworkPool>(pool).ok()?.spec)));
    named.collect()
}

/// What is in no network's gift: loopback and what else is special, link-local, multicast.
pub(super) fn unusable() -> Vec<Ipv6Prefix> {
    ["::/8", "fe80::/10", "ff00::/8"].into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn validate(spec: &NetworkPoolSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let prefix = |rule: &str| FieldError::invalid(FieldPath::new("spec.prefix"), spec.prefix.to_string(), rule);
    if spec.prefix.length() > NetworkPoolSpec::NETWORK_PREFIX_LENGTH {
        errors.push(prefix("must be a /64 or shorter: each network gets a /64 of it"));
    }
    if let Some(special) = unusable().into_iter().find(|special| special.overlaps(spec.prefix)) {
        errors.push(prefix(&format!("overlaps with {special}, which networks cannot use")));
    }
    check_projects(spec, &mut errors);
    if spec.vni_range.last < spec.vni_range.first {
        let rule = format!("must not be less than first ({})", spec.vni_range.first);
        errors.push(FieldError::invalid(FieldPath::new("spec.vniRange.last"), spec.vni_range.last.get(), &rule));
    }
    errors
}

/// The projects that are named must be names of namespaces.
fn check_projects(spec: &NetworkPoolSpec, errors: &mut Vec<FieldError>) {
    let path = FieldPath::new("spec.namespaces");
    let mut named: Vec<_> = spec.namespaces.iter().enumerate().map(|(n, name)| (path.index(n), name)).collect();
    for (number, own) in spec.own_prefixes.iter().enumerate() {
        let path = own_path(number).child("namespaces");
        named.extend(own.namespaces.iter().enumerate().map(|(n, name)| (path.index(n), name)));
    }
    for (path, name) in named {
        check_name(path, name, errors);
    }
}

fn own_path(number: usize) -> FieldPath {
    FieldPath::new("spec.ownPrefixes").index(number)
}

/// Prefixes that projects may bring along, but for those that were there before (`old`), must be nobody else's.
fn check_own(ctx: &Context<'_>, spec: &NetworkPoolSpec, old: &[OwnPrefix], errors: &mut Vec<FieldError>) {
    let new = spec.own_prefixes.iter().enumerate();
    let new = new.filter(|(_, own)| !old.iter().any(|before| before.prefix == own.prefix)).collect::<Vec<_>>();
    if new.is_empty() {
        return;
    }
    let mut pools = others(ctx.lister);
    pools.retain(|(name, _)| name != ctx.name);
    pools.push((ctx.name.to_owned(), spec.clone()));
    let underlay = underlay(ctx.lister);
    for (number, own) in new {
        let path = own_path(number).child("prefix");
        let mut refuse = |rule: &str| errors.push(FieldError::invalid(path.clone(), own.prefix.to_string(), rule));
        if own.prefix.length() > NetworkPoolSpec::NETWORK_PREFIX_LENGTH {
            refuse("must be a /64 or shorter: each network gets a /64 of it");
        }
        if let Some(special) = unusable().into_iter().find(|special| special.overlaps(own.prefix)) {
            refuse(&format!("overlaps with {special}, which networks cannot use"));
        }
        if let Some((name, theirs)) = pools.iter().find(|(_, theirs)| theirs.prefix.overlaps(own.prefix)) {
            refuse(&format!("overlaps with {} of NetworkPool {name:?}", theirs.prefix));
        }
        if let Some((host, address)) = underlay.iter().find(|(_, address)| own.prefix.contains(*address)) {
            refuse(&format!("holds the address {address} of Host {host:?}: it is the underlay's"));
        }
    }
}

/// The addresses that hosts report to have in the underlay.
fn underlay(lister: &dyn Lister) -> Vec<(String, Ipv6Addr)> {
    let hosts = lister.list(GROUP, "hosts", None);
    let addresses = hosts.iter().flat_map(|host| {
        let addresses = host["status"]["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        addresses.filter_map(|text| Some((meta::text(host, "name").to_owned(), text.parse().ok()?)))
    });
    addresses.collect()
}

/// A pool hands out nothing that a network has already, which may have brought it along.
fn check_in_use(spec: &NetworkPoolSpec, lister: &dyn Lister, errors: &mut Vec<FieldError>) {
    let allocations = lister.list(GROUP, "networkallocations", None);
    let mut taken = allocations.iter().filter_map(|found| Some(typed::<NetworkAllocation>(found).ok()?.spec));
    if let Some(theirs) = taken.find(|theirs| theirs.prefix.overlaps(spec.prefix)) {
        let rule = format!("overlaps with {} of Network {}/{}", theirs.prefix, theirs.namespace, theirs.network);
        errors.push(FieldError::invalid(FieldPath::new("spec.prefix"), spec.prefix.to_string(), &rule));
    }
}

fn check_overlap(
    name: &str,
    spec: &NetworkPoolSpec,
    pools: &[(String, NetworkPoolSpec)],
    errors: &mut Vec<FieldError>,
) {
    for (other, theirs) in pools.iter().filter(|(other, _)| other != name) {
        if spec.prefix.overlaps(theirs.prefix) {
            let rule = format!("overlaps with {} of NetworkPool {other:?}", theirs.prefix);
            errors.push(FieldError::invalid(FieldPath::new("spec.prefix"), spec.prefix.to_string(), &rule));
        }
        if let Some(own) = theirs.own_prefixes.iter().find(|own| own.prefix.overlaps(spec.prefix)) {
            let rule = format!("overlaps with {}, which NetworkPool {other:?} lets projects bring along", own.prefix);
            errors.push(FieldError::invalid(FieldPath::new("spec.prefix"), spec.prefix.to_string(), &rule));
        }
        if spec.vni_range.overlaps(theirs.vni_range) {
            let (first, last) = (theirs.vni_range.first, theirs.vni_range.last);
            let rule = format!("overlaps with {first} to {last} of NetworkPool {other:?}");
            let value = format!("{} to {}", spec.vni_range.first, spec.vni_range.last);
            errors.push(FieldError::invalid(FieldPath::new("spec.vniRange"), value, &rule));
        }
    }
}

#[cfg(test)]
mod tests {
    use ucloud_types::{Vni, network_pool::VniRange};

    use super::*;

    fn pool(prefix: &str, first: u32, last: u32) -> NetworkPoolSpec {
        let vni = |number| Vni::new(number).unwrap();
        let vni_range = VniRange { first: vni(first), last: vni(last) };
        NetworkPoolSpec { prefix: prefix.parse().unwrap(), vni_range, namespaces: Vec::new(), own_prefixes: Vec::new() }
    }

    fn fields(errors: &[FieldError]) -> Vec<&str> {
        errors.iter().map(|error| error.field.as_str()).collect()
    }

    #[test]
    fn a_pool_can_serve() {
        assert_eq!(fields(&validate(&pool("fd00::/48", 1, 1))), [""; 0]);
        assert_eq!(fields(&validate(&pool("fd00::/65", 2, 1))), ["spec.prefix", "spec.vniRange.last"]);
        for special in ["::/0", "ff00::/8", "ff05::/64", "fe80::/64", "::/64"] {
            assert_eq!(fields(&validate(&pool(special, 1, 2))), ["spec.prefix"], "{special}");
        }
    }

    #[test]
    fn pools_share_nothing() {
        let pools = [("a".to_owned(), pool("fd00:a::/48", 100, 199)), ("b".to_owned(), pool("fd00:b::/48", 200, 299))];
        let check = |name: &str, spec: &NetworkPoolSpec| {
            let mut errors = Vec::new();
            check_overlap(name, spec, &pools, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(check("c", &pool("fd00:c::/48", 300, 399)), [""; 0]);
        assert_eq!(check("a", &pool("fd00:a::/48", 100, 199)), [""; 0], "a pool does not overlap with itself");
        let errors = check("c", &pool("fd00:b::/64", 199, 200));
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(errors[2].contains("NetworkPool \"b\""), "{errors:?}");
    }
}
