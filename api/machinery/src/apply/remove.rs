//! What a manager applied before and no longer does, and taking it away.

use serde_json::Value;

use super::element::field_name;
use super::items;
use super::set::{FieldSet, Node};
use super::types::{Shape, Type};

/// The fields of `last` that are in none of the sets that are `owned`. A structure counts as being in a set as long as one of
/// its fields is: it goes with the last of them.
pub(super) fn disowned(last: &FieldSet, owned: &[&FieldSet], type_: &Type) -> FieldSet {
    let nodes = last.nodes().iter().map(|(element, node)| {
        let (below, named) = type_.below(element);
        let belongs = |node: &Node| node.member || (named && !node.below.is_empty());
        let others: Vec<&Node> = owned.iter().filter_map(|set| set.get(element)).collect();
        let others_below: Vec<&FieldSet> = others.iter().map(|other| &other.below).collect();
        let node = Node {
            member: belongs(node) && !others.iter().any(|other| belongs(other)),
            below: disowned(&node.below, &others_below, below),
        };
        (element.clone(), node)
    });
    FieldSet::from_nodes(nodes.collect())
}

/// Takes the fields away, with all that is below them. A map or list that thereby becomes empty goes as well.
pub(super) fn remove(value: &mut Value, fields: &FieldSet, type_: &Type) {
    match (type_.shape(Some(value)), value) {
        (Some(Shape::Map(map_type)), Value::Object(map)) => {
            for (element, node) in fields.nodes() {
                let Some(name) = field_name(element) else { continue };
                if node.member {
                    map.remove(name);
                } else if let Some(child) = map.get_mut(name) {
                    let was_empty = is_empty(child);
                    remove(child, &node.below, map_type.type_of(name));
                    if is_empty(child) && !was_empty {
                        map.remove(name);
                    }
                }
            }
        }
        (Some(Shape::Items(list)), Value::Array(items)) => {
            let item_type = items::item_type(list);
            items.retain_mut(|item| {
                let node = items::element_of(item, list).ok().and_then(|element| fields.get(&element));
                match node {
                    Some(node) if node.member => false,
                    Some(node) => {
                        remove(item, &node.below, item_type);
                        true
                    }
                    None => true,
                }
            });
        }
        _ => {}
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn type_() -> Type {
        Type::of_kind(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "struct": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "disks": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}},
        }}}}))
    }

    fn set(json: &Value) -> FieldSet {
        FieldSet::from_json(json).unwrap()
    }

    fn left(mut object: Value, last: &Value, owned: &[Value]) -> Value {
        let sets: Vec<FieldSet> = owned.iter().map(set).collect();
        let gone = disowned(&set(last), &sets.iter().collect::<Vec<_>>(), &type_());
        remove(&mut object, &gone, &type_());
        object
    }

    #[test]
    fn a_structure_goes_with_its_last_owned_field() {
        let object = json!({"spec": {"struct": {"a": "x", "b": "default"}, "map": {"k": "v"}}});
        let last = json!({"f:spec": {"f:struct": {"f:a": {}}, "f:map": {"f:k": {}}}});
        let rest = json!({"f:spec": {"f:map": {"f:k": {}}}});
        assert_eq!(left(object.clone(), &last, &[rest]), json!({"spec": {"map": {"k": "v"}}}));
        let other = json!({"f:spec": {"f:struct": {"f:b": {}}}});
        assert_eq!(left(object.clone(), &last, &[other]), json!({"spec": {"struct": {"b": "default"}}}));
        assert_eq!(left(object, &last, &[]), json!({}));
    }

    #[test]
    fn an_item_stays_as_long_as_somebody_owns_it() {
        let item = json!({".": {}, "f:name": {}, "f:size": {}});
        let object = json!({"spec": {"disks": [{"name": "a", "size": 1}, {"name": "b"}]}});
        let last = json!({"f:spec": {"f:disks": {"k:{\"name\":\"a\"}": item}}});
        let other = json!({"f:spec": {"f:disks": {"k:{\"name\":\"b\"}": {".": {}, "f:name": {}}}}});
        assert_eq!(
            left(object.clone(), &last, std::slice::from_ref(&other)),
            json!({"spec": {"disks": [{"name": "b"}]}})
        );
        let too = json!({"f:spec": {"f:disks": {"k:{\"name\":\"a\"}": {".": {}, "f:name": {}}}}});
        assert_eq!(left(object, &last, &[other, too]), json!({"spec": {"disks": [{"name": "a"}, {"name": "b"}]}}));
    }
}
