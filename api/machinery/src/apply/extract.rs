//! The fields that a configuration mentions, and so owns.

use serde_json::{Map, Value};

use super::items;
use super::set::{FieldSet, Node};
use super::types::{MapType, Shape, Type};

/// The fields of an object.
pub(super) fn fields_of(object: &Value, type_: &Type) -> FieldSet {
    node_of(object, type_).below
}

fn node_of(value: &Value, type_: &Type) -> Node {
    match (type_.shape(Some(value)), value) {
        (Some(Shape::Map(map_type)), Value::Object(map)) => Node { member: false, below: fields_of_map(map, map_type) },
        (Some(Shape::Items(list)), Value::Array(items)) => {
            let item_type = items::item_type(list);
            let nodes = items::elements(items, list).into_iter().map(|(element, item)| {
                // what an item is told apart by is owned with it
                (element, Node { member: true, ..node_of(item, item_type) })
            });
            Node { member: false, below: FieldSet::from_nodes(nodes.collect()) }
        }
        _ => Node::leaf(),
    }
}

fn fields_of_map(map: &Map<String, Value>, type_: &MapType) -> FieldSet {
    let nodes = map.iter().map(|(name, value)| {
        let (element, field_type, named) = type_.field(name);
        let mut node = node_of(value, field_type);
        // a structure is owned through its fields; one without fields, and the entry of a map, are owned themselves
        node.member |= !named || value.as_object().is_some_and(Map::is_empty);
        (element, node)
    });
    FieldSet::from_nodes(nodes.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "cpus": {"type": "integer"},
            "size": {"x-kubernetes-int-or-string": true},
            "struct": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "atomicMap": {"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-map-type": "atomic"},
            "atomic": {"type": "array", "items": {"type": "string"}},
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "disks": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "bus"], "items": {
                "type": "object", "properties": {
                    "name": {"type": "string"}, "bus": {"type": "string", "default": "virtio"}, "size": {"type": "string"},
                },
            }},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}}})
    }

    #[test]
    fn each_type_is_owned_in_its_way() {
        let object = json!({"metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]}, "spec": {
            "cpus": 1, "size": "1Gi", "struct": {"a": "x"}, "map": {"k": "v"}, "atomicMap": {"k": "v"}, "atomic": ["a"],
            "set": ["a"], "disks": [{"name": "root", "size": "1"}], "any": {"x": {"y": [1]}},
        }});
        assert_eq!(
            fields_of(&object, &Type::of_kind(&schema())).to_json(),
            json!({
                "f:metadata": {"f:labels": {"f:a": {}}, "f:finalizers": {"v:\"x/y\"": {}}},
                "f:spec": {
                    "f:cpus": {}, "f:size": {}, "f:struct": {"f:a": {}}, "f:map": {"f:k": {}}, "f:atomicMap": {},
                    "f:atomic": {}, "f:set": {"v:\"a\"": {}},
                    "f:disks": {"k:{\"bus\":\"virtio\",\"name\":\"root\"}": {".": {}, "f:name": {}, "f:size": {}}},
                    "f:any": {"f:x": {".": {}, "f:y": {}}},
                },
            })
        );
    }

    #[test]
    fn what_is_empty_is_owned_where_kubernetes_owns_it() {
        let object = json!({"spec": {"struct": {}, "map": {}, "atomic": [], "set": [], "disks": [], "cpus": null}});
        assert_eq!(
            fields_of(&object, &Type::of_kind(&schema())).to_json(),
            json!({"f:spec": {"f:struct": {}, "f:map": {}, "f:atomic": {}, "f:cpus": {}}})
        );
    }
}
