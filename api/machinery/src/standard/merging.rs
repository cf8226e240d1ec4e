//! How the lists and maps of Kubernetes' kinds merge. Their Rust types do not say it; Kubernetes' own schemas do
//! (`x-kubernetes-list-type` and `-map-type` in its OpenAPI documents).

use serde_json::{Value, json};

/// How a list or a map merges, where it is not as a whole (a list) or field by field (a map).
enum Merging {
    /// Items are told apart by this field.
    By(&'static str),
    /// A map that is replaced as a whole.
    Atomic,
}

/// By kind, and path in its schema.
const MARKS: [(&str, &[&str], Merging); 6] = [
    ("Namespace", &["status", "conditions"], Merging::By("type")),
    ("Event", &["involvedObject"], Merging::Atomic),
    ("Event", &["regarding"], Merging::Atomic),
    ("Event", &["related"], Merging::Atomic),
    ("ResourceQuota", &["spec", "scopeSelector"], Merging::Atomic),
    ("CustomResourceDefinition", &["status", "conditions"], Merging::By("type")),
];

/// Adds to the schema of a kind how its fields merge.
pub(super) fn mark(kind: &str, openapi: &mut Value) {
    for (_, path, merging) in MARKS.iter().filter(|(of, _, _)| *of == kind) {
        let pointer = format!("/properties/{}", path.join("/properties/"));
        let Some(schema) = openapi.pointer_mut(&pointer).and_then(Value::as_object_mut) else { continue };
        match merging {
            Merging::By(key) => {
                schema.insert("x-kubernetes-list-type".to_owned(), json!("map"));
                schema.insert("x-kubernetes-list-map-keys".to_owned(), json!([key]));
            }
            Merging::Atomic => {
                schema.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
            }
        }
    }
}
