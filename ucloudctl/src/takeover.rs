//! From an apply of the client's own to one of the server's. What kubectl, or an older ucloudctl, applied last stands in an
//! annotation; it is applied once more in that way, and from then on the server keeps count of who owns what.

use serde_json::{Map, Value};

/// Where clients keep what they applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Who else owns what was applied by a client's own means, besides the manager that applied it.
const FORMER: [&str; 2] = ["before-first-apply", "kubectl-client-side-apply"];

/// The merge patch (RFC 7396) that makes `live` what `wanted` says, the annotation gone; `None` if there is no such annotation.
/// What others have set, and was never applied, is left alone.
pub fn patch(live: &Value, wanted: &Value) -> Option<Value> {
    let annotation = live.pointer("/metadata/annotations")?.get(LAST_APPLIED)?;
    let last = annotation.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let mut patch = difference(&last, live, wanted).unwrap_or_default();
    patch["metadata"]["annotations"][LAST_APPLIED] = Value::Null;
    // a successor of the same name is not what the difference was computed for
    patch["metadata"]["uid"] = live["metadata"]["uid"].clone();
    Some(patch)
}

/// The merge patch that leaves the fields that `manager` has applied to `applied` to it alone; `None` if they are.
pub fn handover(applied: &Value, manager: &str) -> Option<Value> {
    let entries = applied["metadata"]["managedFields"].as_array()?;
    let former = |entry: &&Value| {
        let name = entry["manager"].as_str().unwrap_or_default();
        entry["operation"] == "Update" && entry["subresource"].is_null() && (name == manager || FORMER.contains(&name))
    };
    let kept: Vec<Value> = entries.iter().filter(|entry| !former(entry)).cloned().collect();
    (kept.len() < entries.len()).then(|| {
        let metadata = &applied["metadata"];
        serde_json::json!({ "metadata": {
            "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "managedFields": kept,
        }})
    })
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
    use serde_json::json;

    fn annotated(object: &Value) -> Value {
        let mut live = object.clone();
        live["metadata"]["annotations"][LAST_APPLIED] = Value::String(object.to_string());
        live["metadata"]["uid"] = json!("u");
        live
    }

    #[test]
    fn changes_removals_and_what_others_set() {
        let first = json!({"metadata": {"name": "a", "labels": {"mine": "1"}}, "spec": {"cpus": 1, "gone": 2}});
        let mut live = annotated(&first);
        live["metadata"]["labels"]["theirs"] = json!("2");
        let wanted = json!({"metadata": {"name": "a", "labels": {}}, "spec": {"cpus": 2}});
        assert_eq!(
            patch(&live, &wanted).unwrap(),
            json!({
                "metadata": {"uid": "u", "labels": {"mine": null}, "annotations": {LAST_APPLIED: null}},
                "spec": {"cpus": 2, "gone": null},
            })
        );
    }

    #[test]
    fn an_object_without_the_annotation_is_nothing_to_take_over() {
        assert_eq!(patch(&json!({"metadata": {"name": "a"}}), &json!({})), None);
        assert_eq!(patch(&json!({"metadata": {"name": "a", "annotations": {"x": "y"}}}), &json!({})), None);
    }

    #[test]
    fn former_owners_go_and_no_others() {
        let entry = |manager: &str, operation: &str| json!({"manager": manager, "operation": operation});
        let mut status = entry("ucloudctl", "Update");
        status["subresource"] = json!("status");
        let kept = [entry("ucloudctl", "Apply"), entry("kubectl-edit", "Update"), status];
        let mut all = kept.to_vec();
        all.extend([entry("before-first-apply", "Update"), entry("ucloudctl", "Update")]);
        let applied =
            |entries: &[Value]| json!({"metadata": {"uid": "u", "resourceVersion": "7", "managedFields": entries}});
        assert_eq!(handover(&applied(&all), "ucloudctl"), Some(applied(&kept)));
        assert_eq!(handover(&applied(&kept), "ucloudctl"), None);
    }
}
