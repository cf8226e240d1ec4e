//! ResourceQuotas: how much the objects of a namespace may take together. How that is enforced: [`crate::registry`].

use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::{Value, json};

use super::{Names, StandardKindError, describe};
use crate::meta::names;
use crate::protobuf::{Message, OBJECT_META, Shape};
use crate::quantity::Quantity;
use crate::registry::{Cell, Column, Resource, Scope};
use crate::status::{FieldError, FieldPath};
use crate::strategy::{Context, Strategy};

const MESSAGE: Message = &[
    (1, "metadata", Shape::Message(OBJECT_META)),
    (2, "spec", Shape::Message(&[(1, "hard", Shape::QuantityMap), (2, "scopes", Shape::Texts)])),
    (3, "status", Shape::Message(&[(1, "hard", Shape::QuantityMap), (2, "used", Shape::QuantityMap)])),
];

/// The names without a slash that Kubernetes knows (`IsStandardQuotaResourceName`).
const STANDARD_NAMES: [&str; 20] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
];

/// Those of which there are parts.
const DIVISIBLE: [&str; 4] = ["cpu", "memory", "storage", "ephemeral-storage"];

pub(super) fn resource() -> Result<Resource, StandardKindError> {
    let mut description = describe::<ResourceQuota>(&Names {
        group: "",
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short: &["quota"],
        scope: Scope::Namespaced,
        status_subresource: true,
    })?;
    let column = |name: &str, description: &str, cell: fn(&Value) -> Value| Column {
        name: name.to_owned(),
        type_: "string".to_owned(),
        format: String::new(),
        description: description.to_owned(),
        priority: 0,
        cell: Cell::Computed(cell),
    };
    let request = column("Request", "What is used of what may be.", |object| shown(object, false));
    let limit = column("Limit", "The same, of limits.", |object| shown(object, true));
    description.columns.splice(1..1, [request, limit]);
    Ok(Resource::new(description).strategy(ResourceQuotaStrategy).protobuf(MESSAGE))
}

/// `requests.cpu: 1/4, ...`, as kubectl's users know it.
fn shown(object: &Value, limits: bool) -> Value {
    let hard = object.pointer("/status/hard").and_then(Value::as_object);
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("0").to_owned();
    let parts: Vec<String> = hard
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let used = object.pointer("/status/used").and_then(|used| used.get(name));
            format!("{name}: {}/{}", text(used), text(Some(hard)))
        })
        .collect();
    parts.join(", ").into()
}

struct ResourceQuotaStrategy;

impl Strategy for ResourceQuotaStrategy {
    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        normalise(object, "spec");
        object["status"] = json!({});
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, _: &Value) {
        normalise(new, "spec");
    }

    fn prepare_for_status_update(&self, _: &Context<'_>, new: &mut Value, _: &Value) {
        normalise(new, "status");
    }

    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate(new);
        if new["spec"]["scopes"] != old["spec"]["scopes"] {
            let path = FieldPath::new("spec.scopes");
            errors.push(FieldError::invalid(path, new["spec"]["scopes"].clone(), "field is immutable"));
        }
        errors
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check_amounts(new, "status", "hard", &mut errors);
        check_amounts(new, "status", "used", &mut errors);
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        true
    }
}

/// Amounts are stored as text in their shortest form. What is none is left for validation to refuse.
fn normalise(object: &mut Value, part: &str) {
    for field in ["hard", "used"] {
        let amounts = object.get_mut(part).and_then(|part| part.get_mut(field)).and_then(Value::as_object_mut);
        for value in amounts.into_iter().flat_map(serde_json::Map::values_mut) {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => continue,
            };
            *value = text.parse().map_or(text, |amount: Quantity| amount.to_string()).into();
        }
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_amounts(object, "spec", "hard", &mut errors);
    for field in ["scopes", "scopeSelector"] {
        let given = object.get("spec").and_then(|spec| spec.get(field));
        if given.is_some_and(|given| !matches!(given, Value::Null) && *given != json!([])) {
            let detail = "scopes tell Pods apart, which this server does not have; leave it out";
            errors.push(FieldError::forbidden(FieldPath::new("spec").child(field), detail));
        }
    }
    errors
}

fn check_amounts(object: &Value, part: &str, field: &str, errors: &mut Vec<FieldError>) {
    let amounts = object.get(part).and_then(|part| part.get(field)).and_then(Value::as_object);
    for (name, value) in amounts.into_iter().flatten() {
        let path = FieldPath::new(part).child(field).key(name);
        if let Err(rule) = check_name(name) {
            errors.push(FieldError::invalid(path.clone(), name.as_str(), &rule));
        }
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match text.parse::<Quantity>() {
            Err(error) => errors.push(FieldError::invalid(path, text, &error.to_string())),
            Ok(amount) if amount.is_negative() => {
                errors.push(FieldError::invalid(path, text, "must be greater than or equal to 0"));
            }
            Ok(amount) if !amount.is_whole() && is_counted(name) => {
                errors.push(FieldError::invalid(path, text, "must be an integer"));
            }
            Ok(_) => {}
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    names::qualified_name(name)?;
    if !name.contains('/') && !STANDARD_NAMES.contains(&name) {
        return Err("must be a standard resource for quota, or a count such as count/vms.ucloud.ungleich.ch".to_owned());
    }
    Ok(())
}

fn is_counted(name: &str) -> bool {
    let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    !DIVISIBLE.contains(&plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule() {
        let fields = |hard: Value| -> Vec<String> {
            validate(&json!({"spec": {"hard": hard}})).iter().map(|error| error.field.to_string()).collect()
        };
        assert!(fields(json!({"count/vms.g": "3", "requests.cpu": "1500m", "memory": "4Gi", "secrets": 5})).is_empty());
        for (name, amount) in
            [("vms", "1"), ("a b", "1"), ("secrets", "-1"), ("secrets", "x"), ("secrets", "500m"), ("count/a.b", "1.5")]
        {
            assert_eq!(fields(json!({name: amount})), [format!("spec.hard[{name}]")], "{amount}");
        }
        assert_eq!(validate(&json!({"spec": {"scopes": ["BestEffort"]}})).len(), 1);
    }

    #[test]
    fn what_is_used_is_shown() {
        let quota = json!({"status": {"hard": {"limits.cpu": "2", "secrets": "5"}, "used": {"secrets": "1"}}});
        assert_eq!(shown(&quota, false), "secrets: 1/5");
        assert_eq!(shown(&quota, true), "limits.cpu: 0/2");
    }
}
