//! Removes the fields that a schema does not know and tells where they were, so that the caller can ignore them, warn
//! or refuse. What is stored thus never holds a field that nobody reads.

use serde_json::{Map, Value};

use super::place::Place;
use super::{Additional, Schema};
use crate::meta;
use crate::status::FieldPath;

/// No more paths than this are told.
const MAX_TOLD: usize = 100;

impl Schema {
    /// Removes unknown fields; answers their paths, in order. `apiVersion`, `kind` and `metadata` at the root are left alone; the
    /// metadata of an embedded object has the fields that all metadata has.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut unknown = Vec::new();
        self.prune_value(object, &Place::At(&FieldPath::root()), true, &mut unknown);
        unknown
    }

    /// The same for a value that is only a part of an object.
    pub(crate) fn prune_part(&self, value: &mut Value, path: &FieldPath) -> Vec<String> {
        let mut unknown = Vec::new();
        self.prune_value(value, &Place::At(path), false, &mut unknown);
        unknown
    }

    fn prune_value(&self, value: &mut Value, path: &Place<'_>, is_object: bool, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => self.prune_map(map, path, is_object || self.embedded_resource, unknown),
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for (index, element) in list.iter_mut().enumerate() {
                        items.prune_value(element, &path.index(index), false, unknown);
                    }
                }
            }
            _ => {}
        }
    }

    fn prune_map(&self, map: &mut Map<String, Value>, path: &Place<'_>, is_object: bool, unknown: &mut Vec<String>) {
        let keeps_unknown = self.preserve_unknown || matches!(self.additional, Additional::Anything);
        map.retain(|name, value| {
            if is_object && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                if self.embedded_resource && name == "metadata" {
                    let mut found = Vec::new();
                    // a wrong type is told by validation
                    meta::normalise_embedded(value, &path.child(name).path(), &mut found);
                    unknown.extend(found.into_iter().take(MAX_TOLD.saturating_sub(unknown.len())));
                }
                return true;
            }
            if let Some(property) = self.properties.get(name) {
                property.prune_value(value, &path.child(name), false, unknown);
                return true;
            }
            if let Additional::Values(values) = &self.additional {
                values.prune_value(value, &path.child(name), false, unknown);
                return true;
            }
            if !keeps_unknown && unknown.len() < MAX_TOLD {
                unknown.push(path.child(name).path().as_str().to_owned());
            }
            keeps_unknown
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_go_and_are_told() {
        let schema = Schema::compile(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"b": {"type": "string"}}}},
            "list": {"type": "array", "items": {"type": "object", "properties": {"c": {"type": "string"}}}},
        }}}}))
        .unwrap();
        let mut object = json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "bogus": 1, "spec": {
            "a": "x", "A": "y", "any": {"x": {"y": 1}}, "map": {"k": {"b": "", "z": 1}}, "list": [{"c": ""}, {"d": 1}],
        }});
        let unknown = schema.prune(&mut object);
        assert_eq!(unknown, ["bogus", "spec.A", "spec.list[1].d", "spec.map.k.z"]);
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "K", "metadata": {"name": "x"}, "spec": {
                "a": "x", "any": {"x": {"y": 1}}, "map": {"k": {"b": ""}}, "list": [{"c": ""}, {}],
            }})
        );
    }

    #[test]
    fn embedded_metadata_is_metadata() {
        let template = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
        }});
        let schema = Schema::compile(&json!({"type": "object", "properties": {"template": template}})).unwrap();
        let embedded = |metadata| json!({"template": {"apiVersion": "v1", "kind": "K", "metadata": metadata}});
        let mut object = embedded(json!({
            "name": "x", "labels": {"a": "b"}, "annotations": {}, "creationTimestamp": null, "bogus": 1,
            "ownerReferences": [{"uid": "u", "what": 1}],
        }));
        let unknown = schema.prune(&mut object);
        assert_eq!(unknown, ["template.metadata.bogus", "template.metadata.ownerReferences[0].what"]);
        assert_eq!(object, embedded(json!({"name": "x", "labels": {"a": "b"}, "ownerReferences": [{"uid": "u"}]})));
        assert!(schema.validate(&object).is_empty());

        for (metadata, path) in
            [(json!({"labels": {"a": 1}}), "template.metadata.labels[a]"), (json!("x"), "template.metadata")]
        {
            let mut object = embedded(metadata.clone());
            assert_eq!(schema.prune(&mut object), [""; 0]);
            assert_eq!(object, embedded(metadata), "what is wrong is not dropped");
            let errors = schema.validate(&object);
            assert_eq!(errors.iter().map(|error| error.field.as_str()).collect::<Vec<_>>(), [path]);
        }
    }
}
