//! What an update changes: for rules that allow a caller to change finalizers, or owners, and nothing else.

use serde_json::Value;
use ucloud_machinery::meta::finalizers;

/// What the server itself changes in metadata with any write.
const BOOKKEEPING: [&str; 2] = ["resourceVersion", "managedFields"];

fn without_finalizers(object: &Value) -> Value {
    let mut rest = object.clone();
    if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("finalizers");
        metadata.retain(|field, _| !BOOKKEEPING.contains(&field.as_str()));
    }
    rest
}

/// Whether the two are the same but for their finalizers.
pub fn only_finalizers(old: &Value, new: &Value) -> bool {
    without_finalizers(old) == without_finalizers(new)
}

/// Whether the update takes `finalizer` away, leaves all others, and changes nothing else.
pub fn only_removes_finalizer(old: &Value, new: &Value, finalizer: &str) -> bool {
    let left: Vec<&str> = finalizers(old).into_iter().filter(|held| *held != finalizer).collect();
    only_finalizers(old, new) && finalizers(new) == left
}

/// The finalizers by which an object waits for the garbage collector.
const COLLECTOR_FINALIZERS: [&str; 2] = ["orphan", "foregroundDeletion"];

/// Whether the update does what the garbage collector does: takes owners away, lets owners go before the object, or takes
/// away the finalizer by which the object waits for the collector. Anything else must stay as it is.
pub fn only_releases(old: &Value, new: &Value) -> bool {
    let owners = |object: &Value| {
        let list = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        list.into_iter().flatten().cloned().collect::<Vec<_>>()
    };
    let before = owners(old);
    let known = |owner: &Value| {
        let mut blocking = owner.clone();
        blocking["blockOwnerDeletion"] = true.into();
        before.contains(owner) || before.contains(&blocking)
    };
    let kept: Vec<&str> = finalizers(old).into_iter().filter(|name| finalizers(new).contains(name)).collect();
    let given_up = finalizers(old).into_iter().filter(|name| !kept.contains(name));
    owners(new).iter().all(known)
        && finalizers(new) == kept
        && given_up.into_iter().all(|name| COLLECTOR_FINALIZERS.contains(&name))
        && without_ties(old) == without_ties(new)
}

fn without_ties(object: &Value) -> Value {
    let mut rest = without_finalizers(object);
    if let Some(metadata) = rest.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("ownerReferences");
    }
    rest
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn finalizers_alone() {
        let old =
            json!({"metadata": {"name": "a", "finalizers": ["x", "y"], "resourceVersion": "1"}, "spec": {"a": 1}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["y"]);
        new["metadata"]["resourceVersion"] = json!("2");
        assert!(only_finalizers(&old, &new) && only_removes_finalizer(&old, &new, "x"));
        assert!(!only_removes_finalizer(&old, &new, "y"));
        new["metadata"]["finalizers"] = json!(["y", "z"]);
        assert!(!only_removes_finalizer(&old, &new, "x"), "one was added");
        for (pointer, value) in [("/spec/a", json!(2)), ("/metadata/name", json!("b"))] {
            let mut other = old.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert!(!only_finalizers(&old, &other), "{pointer}");
        }
        let mut labelled = old.clone();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert!(!only_finalizers(&old, &labelled));
    }
}
