//! What applying a configuration would take from other managers, in Kubernetes' words.

use super::managers::{Operation, Owner};
use super::set::FieldSet;
use crate::status::{ApiError, Reason};

/// No more fields than this are told.
const MAX_TOLD: usize = 100;
/// The reason of each cause.
const CAUSE: &str = "FieldManagerConflict";

/// What would be taken from one manager.
#[derive(Debug, Clone)]
pub(super) struct Conflict {
    pub(super) owner: Owner,
    pub(super) fields: FieldSet,
}

/// 409, with a cause for each field.
pub(super) fn refusal(mut conflicts: Vec<Conflict>) -> ApiError {
    conflicts.sort_by(|a, b| {
        let name = |conflict: &Conflict| (conflict.owner.manager.clone(), conflict.owner.subresource.clone());
        name(a).cmp(&name(b))
    });
    let count: usize = conflicts.iter().map(|conflict| conflict.fields.len()).sum();
    let mut told: Vec<(String, Vec<String>)> = Vec::new();
    let mut room = MAX_TOLD;
    for conflict in &conflicts {
        let paths = conflict.fields.paths(room);
        room -= paths.len();
        told.push((shown(&conflict.owner), paths));
    }
    let message = match told.as_slice() {
        [(owner, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {owner}: {}", paths.concat())
        }
        _ => {
            let mut lines = Vec::new();
            for (owner, paths) in &told {
                lines.push(format!("conflicts with {owner}:"));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            if count > MAX_TOLD {
                lines.push(format!("and {} more", count - MAX_TOLD));
            }
            format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
        }
    };
    let mut error = ApiError::new(Reason::Conflict, message);
    for (owner, paths) in told {
        for path in paths {
            error = error.with_cause(CAUSE, &format!("conflict with {owner}"), &path);
        }
    }
    error
}

fn shown(owner: &Owner) -> String {
    let Owner { manager, subresource, api_version, .. } = owner;
    let part = if subresource.is_empty() { String::new() } else { format!(" with subresource {subresource:?}") };
    let version = if owner.operation == Operation::Update { format!(" using {api_version}") } else { String::new() };
    format!("{manager:?}{part}{version}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn conflict(manager: &str, operation: Operation, subresource: &str, fields: &Value) -> Conflict {
        let owner = Owner {
            manager: manager.to_owned(),
            operation,
            subresource: subresource.to_owned(),
            api_version: "ucloud.ungleich.ch/v1alpha1".to_owned(),
        };
        Conflict { owner, fields: FieldSet::from_json(fields).unwrap() }
    }

    #[test]
    fn one_conflict() {
        let cpus = json!({"f:spec": {"f:cpus": {}}});
        let error = refusal(vec![conflict("x", Operation::Update, "", &cpus)]);
        assert_eq!(
            error.to_string(),
            r#"Apply failed with 1 conflict: conflict with "x" using ucloud.ungleich.ch/v1alpha1: .spec.cpus"#
        );
        let status = error.to_status();
        assert_eq!(status["code"], 409);
        assert_eq!(status["reason"], "Conflict");
        assert_eq!(
            status["details"]["causes"],
            json!([{"reason": "FieldManagerConflict", "field": ".spec.cpus",
                    "message": r#"conflict with "x" using ucloud.ungleich.ch/v1alpha1"#}])
        );
    }

    #[test]
    fn several_conflicts() {
        let both = json!({"f:spec": {"f:a": {}, "f:b": {}}});
        let phase = json!({"f:status": {"f:phase": {}}});
        let conflicts =
            vec![conflict("y", Operation::Update, "status", &phase), conflict("x", Operation::Apply, "", &both)];
        let error = refusal(conflicts);
        assert_eq!(
            error.to_string(),
            "Apply failed with 3 conflicts: conflicts with \"x\":\n- .spec.a\n- .spec.b\n\
             conflicts with \"y\" with subresource \"status\" using ucloud.ungleich.ch/v1alpha1:\n- .status.phase"
        );
        assert_eq!(error.causes().len(), 3);
    }

    #[test]
    fn a_thousand_conflicts_are_not_all_told() {
        let fields: serde_json::Map<String, Value> = (0..1000).map(|index| (format!("f:{index}"), json!({}))).collect();
        let fields = Value::Object(fields);
        let error =
            refusal(vec![conflict("x", Operation::Apply, "", &fields), conflict("y", Operation::Apply, "", &fields)]);
        assert_eq!(error.causes().len(), MAX_TOLD);
        assert!(error.to_string().ends_with("and 1900 more"), "{error}");
    }
}
