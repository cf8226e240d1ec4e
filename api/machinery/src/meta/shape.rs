//! The shape of `metadata`: which fields there are and what type each has.

use serde_json::{Map, Value};

use super::managed_fields;
use crate::status::{FieldError, FieldPath};

#[derive(Clone, Copy)]
enum Shape {
    Text,
    Integer,
    TextMap,
    TextList,
    OwnerReferences,
    ManagedFields,
    /// Accepted and dropped: the server keeps none.
    Dropped,
}

const FIELDS: [(&str, Shape); 15] = [
    ("annotations", Shape::TextMap),
    ("creationTimestamp", Shape::Text),
    ("deletionGracePeriodSeconds", Shape::Integer),
    ("deletionTimestamp", Shape::Text),
    ("finalizers", Shape::TextList),
    ("generateName", Shape::Text),
    ("generation", Shape::Integer),
    ("labels", Shape::TextMap),
    ("managedFields", Shape::ManagedFields),
    ("name", Shape::Text),
    ("namespace", Shape::Text),
    ("ownerReferences", Shape::OwnerReferences),
    ("resourceVersion", Shape::Text),
    ("selfLink", Shape::Dropped),
    ("uid", Shape::Text),
];

const OWNER_FIELDS: [&str; 6] = ["apiVersion", "blockOwnerDeletion", "controller", "kind", "name", "uid"];

/// Brings the metadata of an object that a client sent into its normal form: `null` and empty collections go, unknown
/// fields go and are added to `unknown`. Answers the fields whose type is wrong; they go as well.
pub(crate) fn normalise(object: &mut Value, unknown: &mut Vec<String>) -> Vec<FieldError> {
    let root = FieldPath::new("metadata");
    if let Some(metadata) = super::metadata_mut(object) {
        return normalise_fields(metadata, &root, unknown);
    }
    let given = object.get("metadata").cloned().unwrap_or_default();
    vec![FieldError::type_invalid(root, given, "must be an object")]
}

/// The same for the metadata of an object within an object. Where a type is wrong it is left as it is.
pub(crate) fn normalise_embedded(metadata: &mut Value, path: &FieldPath, unknown: &mut Vec<String>) -> Vec<FieldError> {
    let Some(map) = metadata.as_object() else {
        return vec![FieldError::type_invalid(path.clone(), metadata.clone(), "must be an object")];
    };
    let mut normal = map.clone();
    let errors = normalise_fields(&mut normal, path, unknown);
    if errors.is_empty() {
        *metadata = Value::Object(normal);
    }
    errors
}

fn normalise_fields(metadata: &mut Map<String, Value>, root: &FieldPath, unknown: &mut Vec<String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    metadata.retain(|name, value| {
        let path = root.child(name);
        let Some((_, shape)) = FIELDS.iter().find(|(known, _)| known == name) else {
            unknown.push(path.as_str().to_owned());
            return false;
        };
        if value.is_null() {
            return false;
        }
        let before = errors.len();
        let keep = match shape {
            Shape::Dropped => return false,
            Shape::Text => {
                check(value.is_string(), value, &path, "string", &mut errors);
                value != ""
            }
            Shape::Integer => {
                check(value.is_i64() || value.is_u64(), value, &path, "integer", &mut errors);
                true
            }
            Shape::TextMap => match value.as_object_mut() {
                Some(map) => {
                    map.retain(|_, entry| !entry.is_null());
                    for (key, entry) in &*map {
                        check(entry.is_string(), entry, &path.key(key), "string", &mut errors);
                    }
                    !map.is_empty()
                }
                None => check(false, value, &path, "object", &mut errors),
            },
            Shape::TextList => match value.as_array() {
                Some(list) => {
                    for (index, entry) in list.iter().enumerate() {
                        check(entry.is_string(), entry, &path.index(index), "string", &mut errors);
                    }
                    !list.is_empty()
                }
                None => check(false, value, &path, "array", &mut errors),
            },
            Shape::OwnerReferences => match value.as_array_mut() {
                Some(list) => {
                    for (index, entry) in list.iter_mut().enumerate() {
                        owner_reference(entry, &path.index(index), unknown, &mut errors);
                    }
                    !list.is_empty()
                }
                None => check(false, value, &path, "array", &mut errors),
            },
            Shape::ManagedFields => {
                managed_fields::normalise(value, &path, unknown, &mut errors);
                true
            }
        };
        keep && errors.len() == before
    });
    errors
}

pub(super) fn check(fits: bool, value: &Value, path: &FieldPath, wanted: &str, errors: &mut Vec<FieldError>) -> bool {
    if !fits {
        errors.push(FieldError::type_invalid(path.clone(), value.clone(), &format!("must be of type {wanted}")));
    }
    fits
}

fn owner_reference(entry: &mut Value, path: &FieldPath, unknown: &mut Vec<String>, errors: &mut Vec<FieldError>) {
    let Some(map): Option<&mut Map<String, Value>> = entry.as_object_mut() else {
        check(false, entry, path, "object", errors);
        return;
    };
    map.retain(|name, value| {
        let path = path.child(name);
        if !OWNER_FIELDS.contains(&name.as_str()) {
            unknown.push(path.as_str().to_owned());
            return false;
        }
        if value.is_null() {
            return false;
        }
        let (fits, wanted) = match name.as_str() {
            "blockOwnerDeletion" | "controller" => (value.is_boolean(), "boolean"),
            _ => (value.is_string(), "string"),
        };
        check(fits, value, &path, wanted, errors)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_gets_its_normal_form() {
        let mut object = json!({"metadata": {
            "name": "x", "creationTimestamp": null, "labels": {"a": "b", "c": null}, "annotations": {}, "finalizers": [],
            "managedFields": [{"manager": "kubectl", "time": "2026-01-02T03:04:05.6+01:00", "subresource": "", "x": 1}], "bogus": 1,
            "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u", "foo": 1}],
        }});
        let mut unknown = Vec::new();
        assert!(normalise(&mut object, &mut unknown).is_empty());
        assert_eq!(unknown, ["metadata.bogus", "metadata.managedFields[0].x", "metadata.ownerReferences[0].foo"]);
        assert_eq!(
            object,
            json!({"metadata": {"name": "x", "labels": {"a": "b"},
                "managedFields": [{"manager": "kubectl", "time": "2026-01-02T02:04:05Z"}],
                "ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u"}]}})
        );
    }

    #[test]
    fn wrong_types_are_told_with_their_paths() {
        let mut object = json!({"metadata": {"name": 1, "labels": {"a": 1}, "annotations": [], "finalizers": [2],
            "managedFields": [{"manager": 1, "time": "noon", "fieldsV1": []}, 4], "ownerReferences": [{"controller": "yes"}, 3]}});
        let errors = normalise(&mut object, &mut Vec::new());
        let paths: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(
            paths,
            [
                "metadata.annotations",
                "metadata.finalizers[0]",
                "metadata.labels[a]",
                "metadata.managedFields[0].fieldsV1",
                "metadata.managedFields[0].manager",
                "metadata.managedFields[0].time",
                "metadata.managedFields[1]",
                "metadata.name",
                "metadata.ownerReferences[0].controller",
                "metadata.ownerReferences[1]",
            ]
        );
        assert!(!normalise(&mut json!({"metadata": 3}), &mut Vec::new()).is_empty());
    }
}
