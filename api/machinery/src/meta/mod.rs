//! Object metadata: reading it, and the rules that every object's metadata keeps.

mod managed_fields;
pub mod names;
mod shape;
mod validate;

use jiff::Timestamp;
use serde_json::{Map, Value};

pub(crate) use shape::{normalise, normalise_embedded};
pub(crate) use validate::{validate, validate_update};

/// A point in time as Kubernetes writes it in metadata: RFC 3339 in UTC with whole seconds.
pub fn timestamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A text field of `metadata`; the empty string if it is not there.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The names in `metadata.finalizers`.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.get("metadata").and_then(|metadata| metadata.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether the object's deletion has begun.
pub fn is_terminating(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// `metadata`, made if it is not there. `None` if the object is no object or its metadata is something else.
pub(crate) fn metadata_mut(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// Sets a field of `metadata`, or removes it.
pub(crate) fn set(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(metadata) = metadata_mut(object) {
        match value {
            Some(value) => metadata.insert(field.to_owned(), value),
            None => metadata.remove(field),
        };
    }
}

/// A field of `metadata` as it is.
pub(crate) fn get<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get("metadata").and_then(|metadata| metadata.get(field))
}

/// Whether two objects are the same outside `metadata` and `status`: what a generation counts.
pub(crate) fn same_intent(a: &Value, b: &Value) -> bool {
    fn intent(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| !matches!(key.as_str(), "metadata" | "status" | "apiVersion" | "kind"))
    }
    intent(a).eq(intent(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn timestamps_have_whole_seconds() {
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(timestamp(at), "2026-01-02T03:04:05Z");
    }

    #[test]
    fn intent_is_what_users_write() {
        let a = json!({"metadata": {"labels": {}}, "spec": {"a": 1}, "status": {"x": 1}});
        assert!(same_intent(&a, &json!({"metadata": {}, "spec": {"a": 1}})));
        assert!(!same_intent(&a, &json!({"metadata": {}, "spec": {"a": 2}})));
        assert!(!same_intent(&a, &json!({"data": {}, "spec": {"a": 1}})));
    }
}
