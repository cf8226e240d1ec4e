//! NetworkAllocation: its name is its VNI or its prefix, and nothing about it ever changes.

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::{NetworkAllocation, NetworkAllocationSpec, NetworkPoolSpec};

use super::{check_immutable, check_name, typed};

/// The rules of NetworkAllocations.
pub struct NetworkAllocationStrategy;

impl Strategy for NetworkAllocationStrategy {
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        match typed::<NetworkAllocation>(object) {
            Ok(allocation) => validate(meta::text(object, "name"), &allocation.spec),
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check_immutable("spec", &old["spec"], &new["spec"], "delete the allocation and make another", &mut errors);
        errors
    }
}

fn validate(name: &str, spec: &NetworkAllocationSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // the name is what makes a VNI, and a prefix, unique
    let expected = spec.name();
    if name != expected {
        let what = spec.vni.map_or_else(|| format!("prefix {}", spec.prefix), |vni| format!("VNI {vni}"));
        let rule = format!("the allocation of {what} is named {expected}");
        errors.push(FieldError::invalid(FieldPath::new("metadata.name"), name, &rule));
    }
    if spec.prefix.length() != NetworkPoolSpec::NETWORK_PREFIX_LENGTH {
        errors.push(FieldError::invalid(FieldPath::new("spec.prefix"), spec.prefix.to_string(), "must be a /64"));
    }
    for (field, value) in
        [("spec.pool", &spec.pool), ("spec.namespace", &spec.namespace), ("spec.network", &spec.network)]
    {
        check_name(FieldPath::new(field), value, &mut errors);
    }
    errors
}

#[cfg(test)]
mod tests {
    use ucloud_types::Vni;

    use super::*;

    #[test]
    fn the_name_is_the_vni_or_the_prefix() {
        let spec = NetworkAllocationSpec {
            pool: "default".into(),
            vni: Vni::new(100),
            prefix: "fd00::/64".parse().unwrap(),
            namespace: "default".into(),
            network: "n".into(),
            network_uid: "u".into(),
        };
        assert_eq!(validate("vni-100", &spec), []);
        let claim = NetworkAllocationSpec { vni: None, prefix: "2001:db8:1:2::/64".parse().unwrap(), ..spec.clone() };
        assert_eq!(validate("prefix-20010db800010002", &claim), []);
        assert_eq!(validate("vni-100", &claim).len(), 1);
        let wider = NetworkAllocationSpec { prefix: "fd00::/63".parse().unwrap(), ..spec };
        let fields: Vec<_> = validate("vni-101", &wider).iter().map(|error| error.field.to_string()).collect();
        assert_eq!(fields, ["metadata.name", "spec.prefix"]);
    }
}
