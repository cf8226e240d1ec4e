//! What `apply` changes: the difference between what was applied last, what is, and what shall be, as a merge
//! patch (RFC 7396). What others have set and the user never named is left alone. The last applied state is
//! kept where kubectl keeps it, so that both can be used on one object.

use serde_json::{Map, Value, json};

/// Where kubectl and ucloudctl keep what was applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object with itself, as it was applied, in its annotation.
pub fn annotated(object: &Value) -> Value {
    let mut bare = object.clone();
    if let Some(annotations) = bare.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let text = bare.to_string();
    let mut object = bare;
    object["metadata"]["annotations"][LAST_APPLIED] = Value::String(text);
    object
}

/// The patch that makes `live` what `wanted` says. Empty if it is so already.
pub fn patch(live: &Value, wanted: &Value) -> Value {
    let last = live
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(LAST_APPLIED)?.as_str())
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or(Value::Null);
    difference(&last, live, &annotated(wanted)).unwrap_or_else(|| json!({}))
}

fn difference(last: &Value, live: &Value, wanted: &Value) -> Option<Value> {
    let (Some(live), Some(wanted)) = (live.as_object(), wanted.as_object()) else {
        return (live != wanted).then(|| wanted.clone());
    };
    let mut patch = Map::new();
    for (key, value) in wanted {
        let change = match live.get(key) {
            Some(present) => difference(&last[key], present, value),
            // a field that is null in the manifest and absent in the object is as wanted
            None => (!value.is_null()).then(|| value.clone()),
        };
        if let Some(change) = change {
            patch.insert(key.clone(), change);
        }
    }
    for key in last.as_object().into_iter().flat_map(Map::keys) {
        if !wanted.contains_key(key) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_before_is_unchanged() {
        let wanted = json!({"metadata": {"name": "a"}, "spec": {"cpus": 1, "list": [{"x": 1}]}});
        let mut live = annotated(&wanted);
        live["metadata"]["uid"] = json!("u");
        live["spec"]["defaulted"] = json!(true);
        live["status"] = json!({"phase": "Running"});
        assert_eq!(patch(&live, &wanted), json!({}));
    }

    #[test]
    fn changes_removals_and_what_others_set() {
        let first = json!({"metadata": {"name": "a", "labels": {"mine": "1"}}, "spec": {"cpus": 1, "gone": 2}});
        let mut live = annotated(&first);
        live["metadata"]["labels"]["theirs"] = json!("2");
        let wanted = json!({"metadata": {"name": "a"}, "spec": {"cpus": 2}});
        let mut patch = patch(&live, &wanted);
        patch["metadata"].as_object_mut().unwrap().remove("annotations").expect("the last applied state moves on");
        assert_eq!(patch, json!({"metadata": {"labels": null}, "spec": {"cpus": 2, "gone": null}}));
    }

    #[test]
    fn an_object_that_was_never_applied_keeps_what_is_not_named() {
        let live = json!({"metadata": {"name": "a"}, "spec": {"cpus": 1, "kept": 2}});
        let patch = patch(&live, &json!({"metadata": {"name": "a"}, "spec": {"cpus": 3}}));
        assert_eq!(patch["spec"], json!({"cpus": 3}));
    }
}
