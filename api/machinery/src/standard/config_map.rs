//! ConfigMaps: data that is no secret.

use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

use super::data::{MAX_DATA, check_immutable, check_keys, decoded_length, entries};
use super::{Names, StandardKindError, describe};
use crate::protobuf::{Message, OBJECT_META, Shape};
use crate::registry::{Cell, Column, Resource, Scope};
use crate::status::{FieldError, FieldPath};
use crate::strategy::{Context, Strategy};

const MESSAGE: Message = &[
    (1, "metadata", Shape::Message(OBJECT_META)),
    (2, "data", Shape::TextMap),
    (3, "binaryData", Shape::BytesMap),
    (4, "immutable", Shape::Bool),
];

pub(super) fn resource() -> Result<Resource, StandardKindError> {
    let mut description = describe::<ConfigMap>(&Names {
        group: "",
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short: &["cm"],
        scope: Scope::Namespaced,
        status_subresource: false,
    })?;
    let data = Column {
        name: "Data".to_owned(),
        type_: "string".to_owned(),
        format: String::new(),
        description: "How many entries it has.".to_owned(),
        priority: 0,
        cell: Cell::Computed(|object| (entries(object, "data").count() + entries(object, "binaryData").count()).into()),
    };
    description.columns.insert(1, data);
    Ok(Resource::new(description).strategy(ConfigMapStrategy).protobuf(MESSAGE))
}

struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        validate(object)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        check_immutable(new, old, &["data", "binaryData"], &mut errors);
        errors.extend(validate(new));
        errors
    }

    fn allows_unconditional_update(&self) -> bool {
        true
    }
}

fn validate(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_keys(object, "data", &mut errors);
    check_keys(object, "binaryData", &mut errors);
    let mut size = 0;
    for (key, value) in entries(object, "data") {
        if object.pointer("/binaryData").and_then(|binary| binary.get(key)).is_some() {
            let path = FieldPath::new("data").key(key);
            errors.push(FieldError::invalid(path, key.as_str(), "duplicate of key present in binaryData"));
        }
        size += value.len();
    }
    size += entries(object, "binaryData").filter_map(|(_, value)| decoded_length(value)).sum::<usize>();
    if size > MAX_DATA {
        errors.push(FieldError::too_long(FieldPath::root(), MAX_DATA));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_in_one_of_the_maps_and_all_is_small() {
        assert!(validate(&json!({"data": {"a": "x"}, "binaryData": {"b": "/wA="}})).is_empty());
        let both = validate(&json!({"data": {"a": "x"}, "binaryData": {"a": "/wA="}}));
        assert_eq!(both[0].field.as_str(), "data[a]");
        let large =
            |size: usize| validate(&json!({"data": {"a": "x".repeat(size)}, "binaryData": {"b": "/wA="}})).len();
        assert_eq!((large(MAX_DATA - 2), large(MAX_DATA - 1)), (0, 1));
    }
}
