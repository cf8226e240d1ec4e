//! Leases (coordination.k8s.io/v1): heartbeats and leader election.

use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use super::{Names, StandardKindError, describe};
use crate::registry::{Cell, Column, Resource, Scope};
use crate::status::{FieldError, FieldPath};
use crate::strategy::{Context, Strategy};

pub(super) fn resource() -> Result<Resource, StandardKindError> {
    let mut description = describe::<Lease>(&Names {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        short: &[],
        scope: Scope::Namespaced,
        status_subresource: false,
    })?;
    let holder = Column {
        name: "Holder".to_owned(),
        type_: "string".to_owned(),
        format: String::new(),
        description: "Who holds the lease.".to_owned(),
        priority: 0,
        cell: Cell::Computed(|object| object.pointer("/spec/holderIdentity").cloned().unwrap_or_default()),
    };
    description.columns.insert(1, holder);
    Ok(Resource::new(description).strategy(LeaseStrategy))
}

struct LeaseStrategy;

fn validate(lease: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let field = |name: &str| (FieldPath::new("spec").child(name), lease.pointer(&format!("/spec/{name}")));
    if let (path, Some(seconds)) = field("leaseDurationSeconds")
        && seconds.as_i64().is_none_or(|seconds| seconds <= 0)
    {
        errors.push(FieldError::invalid(path, seconds.clone(), "must be greater than 0"));
    }
    if let (path, Some(transitions)) = field("leaseTransitions")
        && transitions.as_i64().is_none_or(|transitions| transitions < 0)
    {
        errors.push(FieldError::invalid(path, transitions.clone(), "must be greater than or equal to 0"));
    }
    errors
}

impl Strategy for LeaseStrategy {
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        validate(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn durations_are_positive() {
        assert!(validate(&json!({"spec": {"leaseDurationSeconds": 10, "leaseTransitions": 0}})).is_empty());
        assert_eq!(validate(&json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}})).len(), 2);
    }
}
