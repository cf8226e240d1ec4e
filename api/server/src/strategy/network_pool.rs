//! NetworkPool: a range of VNIs and a prefix that no other pool gives out of, and that never change.

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::{FieldError, FieldPath},
    strategy::{Context, Lister, Strategy},
};
use ucloud_types::{GROUP, Ipv6Prefix, NetworkPool, NetworkPoolSpec};

use super::{check_immutable, status_errors, typed};
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
                errors
            }
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<NetworkPool>(new), typed::<NetworkPool>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let (old, new) = (&old.spec, &new.spec);
                check_immutable("spec.prefix", &old.prefix, &new.prefix, ADVICE, &mut errors);
                check_immutable("spec.vniRange", &old.vni_range, &new.vni_range, ADVICE, &mut errors);
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
fn unusable() -> Vec<Ipv6Prefix> {
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
    if spec.vni_range.last < spec.vni_range.first {
        let rule = format!("must not be less than first ({})", spec.vni_range.first);
        errors.push(FieldError::invalid(FieldPath::new("spec.vniRange.last"), spec.vni_range.last.get(), &rule));
    }
    errors
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
        NetworkPoolSpec { prefix: prefix.parse().unwrap(), vni_range: VniRange { first: vni(first), last: vni(last) } }
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
