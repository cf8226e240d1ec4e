//! What an update changes: for rules that allow a caller to change finalizers and nothing else.

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
