//! What the server says of a definition in its status: whether its names are its own, whether its kind is served, and how
//! far its deletion has come. Pure.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::names::Verdict;
use crate::meta;

/// Sets a condition in an object's status. The time of its last transition moves only when its status does.
pub(crate) fn set_condition(object: &mut Value, type_: &str, holds: bool, reason: &str, message: &str, now: Timestamp) {
    if !object.get("status").is_some_and(Value::is_object) {
        object["status"] = json!({});
    }
    if !object["status"].get("conditions").is_some_and(Value::is_array) {
        object["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = object["status"]["conditions"].as_array_mut() else { return };
    let status = if holds { "True" } else { "False" };
    let known = conditions.iter_mut().find(|condition| condition["type"] == type_);
    let since = match &known {
        Some(known) if known["status"] == status => known["lastTransitionTime"].clone(),
        _ => meta::timestamp(now).into(),
    };
    let condition =
        json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": since});
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
}

/// Whether a condition of an object is True.
pub(super) fn holds(object: &Value, type_: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == type_ && condition["status"] == "True")
}

/// Writes into a definition's status what was decided about its names, and whether this server serves its kind.
pub(super) fn tell(object: &mut Value, verdict: &Verdict, is_served: bool, now: Timestamp) {
    match &verdict.conflict {
        None => set_condition(object, "NamesAccepted", true, "NoConflicts", "no conflicts found", now),
        Some((reason, message)) => set_condition(object, "NamesAccepted", false, reason, message, now),
    }
    if is_served {
        let message = "the initial names have been accepted";
        set_condition(object, "Established", true, "InitialNamesAccepted", message, now);
    } else if !holds(object, "Established") {
        // once it is established it stays so: another server may serve it already
        let (reason, message) = match &verdict.conflict {
            Some(_) => ("NotAccepted", "not all names are accepted"),
            None => ("Installing", "the kind cannot be served as it is defined; the API server's log says why"),
        };
        set_condition(object, "Established", false, reason, message, now);
    }
    if let Ok(Value::Object(mut names)) = serde_json::to_value(&verdict.accepted) {
        names.retain(|_, name| *name != json!([]));
        object["status"]["acceptedNames"] = names.into();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames;

    use super::*;

    #[test]
    fn telling_the_same_again_changes_nothing() {
        let verdict = Verdict { accepted: CustomResourceDefinitionNames::default(), conflict: None };
        let mut object = json!({});
        tell(&mut object, &verdict, true, "2026-01-01T00:00:00Z".parse().unwrap());
        let before = object.clone();
        tell(&mut object, &verdict, true, "2026-01-02T00:00:00Z".parse().unwrap());
        assert_eq!(object, before);
        assert!(holds(&object, "Established"));
        let conflict = Some(("KindConflict", "x".to_owned()));
        tell(&mut object, &Verdict { conflict, ..verdict }, false, "2026-01-03T00:00:00Z".parse().unwrap());
        assert!(!holds(&object, "NamesAccepted") && holds(&object, "Established"));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-01-03T00:00:00Z");
    }
}
