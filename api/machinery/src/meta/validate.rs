//! The rules for the values in `metadata` (Kubernetes' `ValidateObjectMeta` and `ValidateObjectMetaUpdate`).

use serde_json::{Value, json};

use super::managed_fields::MAX_ENTRIES;
use super::{finalizers, get, is_terminating, names, text};
use crate::status::{FieldError, FieldPath};

/// All annotations of an object together, keys and values, in bytes.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Checks normalised metadata. `validate_name` is the kind's rule for names.
pub(crate) fn validate(object: &Value, validate_name: &dyn Fn(&str) -> Result<(), String>) -> Vec<FieldError> {
    let root = FieldPath::new("metadata");
    let mut errors = Vec::new();
    let name = text(object, "name");
    if name.is_empty() {
        errors.push(FieldError::required(root.child("name"), "name or generateName is required"));
    } else if let Err(rule) = validate_name(name) {
        errors.push(FieldError::invalid(root.child("name"), name, &rule));
    }
    labels(object, &root.child("labels"), &mut errors);
    annotations(object, &root.child("annotations"), &mut errors);
    owner_references(object, &root.child("ownerReferences"), &mut errors);
    let managers = get(object, "managedFields").and_then(Value::as_array).map_or(0, Vec::len);
    if managers > MAX_ENTRIES {
        errors.push(FieldError::too_many(root.child("managedFields"), managers, MAX_ENTRIES));
    }
    for (index, finalizer) in finalizers(object).into_iter().enumerate() {
        if let Err(rule) = names::qualified_name(finalizer) {
            errors.push(FieldError::invalid(root.child("finalizers").index(index), finalizer, &rule));
        }
    }
    let given = finalizers(object);
    if ["orphan", "foregroundDeletion"].iter().all(|name| given.contains(name)) {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(root.child("finalizers"), json!(given), detail));
    }
    errors
}

/// Checks what an update changes in metadata.
pub(crate) fn validate_update(new: &Value, old: &Value) -> Vec<FieldError> {
    if !is_terminating(old) {
        return Vec::new();
    }
    let before = finalizers(old);
    let added: Vec<&str> = finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
    if added.is_empty() {
        return Vec::new();
    }
    let detail = format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers {}",
        added.join(", ")
    );
    vec![FieldError::forbidden(FieldPath::new("metadata.finalizers"), &detail)]
}

fn entries<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a str)> {
    get(object, field)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

fn labels(object: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for (key, value) in entries(object, "labels") {
        if let Err(rule) = names::qualified_name(key) {
            errors.push(FieldError::invalid(path.clone(), key.as_str(), &rule));
        }
        if let Err(rule) = names::label_value(value) {
            errors.push(FieldError::invalid(path.key(key), value, &rule));
        }
    }
}

fn annotations(object: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in entries(object, "annotations") {
        size += key.len() + value.len();
        if let Err(rule) = names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path.clone(), key.as_str(), &rule));
        }
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path.clone(), MAX_ANNOTATIONS));
    }
}

fn owner_references(object: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let list = get(object, "ownerReferences").and_then(Value::as_array);
    let mut controllers = 0;
    for (index, reference) in list.into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if reference.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                errors.push(FieldError::required(path.index(index).child(field), "must not be empty"));
            }
        }
        let field = |name: &str| reference.get(name).and_then(Value::as_str).unwrap_or_default();
        if field("apiVersion") == "v1" && field("kind") == "Event" {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path.index(index), reference.clone(), detail));
        }
        if reference.get("controller") == Some(&Value::Bool(true)) {
            controllers += 1;
        }
    }
    if controllers > 1 {
        let given = get(object, "ownerReferences").cloned().unwrap_or_default();
        errors.push(FieldError::invalid(path.clone(), given, "Only one reference can have Controller set to true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(metadata: &Value) -> Vec<String> {
        let object = json!({"metadata": metadata});
        validate(&object, &names::dns1123_subdomain).iter().map(|error| error.field.to_string()).collect()
    }

    #[test]
    fn every_rule() {
        assert!(paths(&json!({"name": "web", "labels": {"app": "x"}, "annotations": {"A.b/C": "y"}})).is_empty());
        assert_eq!(paths(&json!({})), ["metadata.name"]);
        assert_eq!(paths(&json!({"name": "No_Good"})), ["metadata.name"]);
        assert_eq!(
            paths(&json!({"name": "a", "labels": {"a b": "x", "c": "-"}})),
            ["metadata.labels", "metadata.labels[c]"]
        );
        assert_eq!(
            paths(&json!({"name": "a", "annotations": {"x": "y".repeat(MAX_ANNOTATIONS)}})),
            ["metadata.annotations"]
        );
        assert_eq!(paths(&json!({"name": "a", "finalizers": ["ok/x", "not ok"]})), ["metadata.finalizers[1]"]);
        let owner = json!({"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u", "controller": true});
        assert_eq!(paths(&json!({"name": "a", "ownerReferences": [owner, owner]})), ["metadata.ownerReferences"]);
        let event = json!({"apiVersion": "v1", "kind": "Event", "name": "a", "uid": "u"});
        assert_eq!(paths(&json!({"name": "a", "ownerReferences": [event]})), ["metadata.ownerReferences[0]"]);
        assert_eq!(
            paths(&json!({"name": "a", "finalizers": ["orphan", "foregroundDeletion"]})),
            ["metadata.finalizers"]
        );
        assert_eq!(
            paths(&json!({"name": "a", "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a"}]})),
            ["metadata.ownerReferences[0].uid"]
        );
    }

    #[test]
    fn a_terminating_object_gets_no_new_finalizer() {
        let old = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a/b", "c/d"]}});
        assert!(validate_update(&json!({"metadata": {"finalizers": ["c/d"]}}), &old).is_empty());
        assert_eq!(validate_update(&json!({"metadata": {"finalizers": ["c/d", "e/f"]}}), &old).len(), 1);
    }
}
