//! What differs between two states of an object, as sets of fields.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::element::Element;
use super::items;
use super::set::{FieldSet, Node};
use super::types::{MapType, Shape, Type};

/// What a write did to an object's fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// They are there now, and were not or had other values.
    pub(super) changed: FieldSet,
    /// They are not there any more.
    pub(super) removed: FieldSet,
    /// Those of them that went because a value of another shape took the place of the one above them.
    pub(super) overwritten: FieldSet,
}

/// Compares two states; one that is not there has no fields.
pub(super) fn compare(old: Option<&Value>, new: Option<&Value>, type_: &Type) -> Difference {
    let Nodes { changed, removed, overwritten } = nodes(old, new, type_);
    Difference { changed: changed.below, removed: removed.below, overwritten: overwritten.below }
}

/// Whether two values are the same. Numbers are by what they count, not by how they are written.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.is_f64() != b.is_f64() && a.as_f64() == b.as_f64()),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && same(a, b))
        }
        _ => a == b,
    }
}

#[derive(Default)]
struct Nodes {
    changed: Node,
    removed: Node,
    overwritten: Node,
}

impl Nodes {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty() && self.overwritten.is_empty()
    }
}

/// The children of a field that differ, in the order of their elements.
#[derive(Default)]
struct Children {
    changed: Vec<(Element, Node)>,
    removed: Vec<(Element, Node)>,
    overwritten: Vec<(Element, Node)>,
}

impl Children {
    fn add(&mut self, element: &Element, nodes: Nodes) {
        if !nodes.changed.is_empty() {
            self.changed.push((element.clone(), nodes.changed));
        }
        if !nodes.removed.is_empty() {
            self.removed.push((element.clone(), nodes.removed));
        }
        if !nodes.overwritten.is_empty() {
            self.overwritten.push((element.clone(), nodes.overwritten));
        }
    }

    fn of(self, old: Option<&Value>, new: Option<&Value>) -> Nodes {
        Nodes {
            changed: Node { member: old.is_none(), below: FieldSet::from_nodes(self.changed) },
            removed: Node { member: new.is_none(), below: FieldSet::from_nodes(self.removed) },
            overwritten: Node { member: false, below: FieldSet::from_nodes(self.overwritten) },
        }
    }
}

fn nodes(old: Option<&Value>, new: Option<&Value>, type_: &Type) -> Nodes {
    match (type_.shape(old), type_.shape(new)) {
        (None, None) => Nodes::default(),
        (Some(Shape::Map(map)), Some(Shape::Map(_)) | None) | (None, Some(Shape::Map(map))) => {
            let (old_map, new_map) = (as_map(old), as_map(new));
            if old_map.is_none() && new_map.is_none() {
                leaf(old, new)
            } else {
                maps(old_map, new_map, map).of(old, new)
            }
        }
        (Some(Shape::Items(list)), Some(Shape::Items(_)) | None) | (None, Some(Shape::Items(list))) => {
            let length = |value: Option<&Value>| value.and_then(Value::as_array).map_or(0, Vec::len);
            if length(old) + length(new) == 0 { leaf(old, new) } else { lists(old, new, list).of(old, new) }
        }
        (Some(Shape::Leaf), Some(Shape::Leaf) | None) | (None, Some(Shape::Leaf)) => leaf(old, new),
        // the value is of another shape now: another value, with what comes and what goes below it
        (Some(_), Some(_)) => {
            let came = nodes(None, new, type_);
            let went = nodes(old, None, type_);
            Nodes {
                changed: Node { member: true, ..came.changed },
                removed: Node { member: false, ..went.removed.clone() },
                overwritten: Node { member: false, ..went.removed },
            }
        }
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Nodes {
    match (old, new) {
        (Some(old), Some(new)) if same(old, new) => Nodes::default(),
        (_, Some(_)) => Nodes { changed: Node::leaf(), ..Nodes::default() },
        (Some(_), None) => Nodes { removed: Node::leaf(), ..Nodes::default() },
        (None, None) => Nodes::default(),
    }
}

/// A map with something in it.
fn as_map(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object).filter(|map| !map.is_empty())
}

fn maps(old: Option<&Map<String, Value>>, new: Option<&Map<String, Value>>, type_: &MapType) -> Children {
    let mut children = Children::default();
    let mut visit = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        let nodes = nodes(old, new, type_.type_of(name));
        if !nodes.is_empty() {
            children.add(&type_.field(name).0, nodes);
        }
    };
    for (name, value) in old.into_iter().flatten() {
        visit(name, Some(value), new.and_then(|new| new.get(name)));
    }
    for (name, value) in new.into_iter().flatten() {
        if old.is_none_or(|old| !old.contains_key(name)) {
            visit(name, None, Some(value));
        }
    }
    children
}

fn lists(old: Option<&Value>, new: Option<&Value>, list: &Type) -> Children {
    let mut children = Children::default();
    let item_type = items::item_type(list);
    let (old, new) = (items::sorted(old, list), items::sorted(new, list));
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return children,
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        if let Some((element, _)) = before.or(after) {
            let value = |item: Option<&(Element, _)>| item.map(|(_, value)| *value);
            children.add(element, nodes(value(before), value(after), item_type));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn differs(old: &Value, new: &Value) -> (Value, Value) {
        let type_ = Type::of_kind(&json!({"type": "object", "properties": {
            "cpus": {"type": "integer"},
            "struct": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}},
            "atomic": {"type": "array", "items": {"type": "string"}},
            "disks": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}},
            "any": {},
        }}));
        let Difference { changed, removed, .. } = compare(Some(old), Some(new), &type_);
        (changed.to_json(), removed.to_json())
    }

    #[test]
    fn what_comes_owns_itself_and_what_is_below() {
        assert_eq!(
            differs(&json!({}), &json!({"struct": {"a": "x"}, "disks": [{"name": "a"}], "atomic": []})).0,
            json!({
                "f:struct": {".": {}, "f:a": {}},
                "f:disks": {".": {}, "k:{\"name\":\"a\"}": {".": {}, "f:name": {}}},
                "f:atomic": {},
            })
        );
    }

    #[test]
    fn only_what_differs_is_told() {
        let old =
            json!({"cpus": 1, "struct": {"a": "x", "b": "y"}, "disks": [{"name": "a", "size": 1}, {"name": "b"}]});
        let new = json!({"cpus": 1.0, "struct": {"b": "z"}, "disks": [{"name": "b"}, {"name": "a", "size": 2}]});
        assert_eq!(
            differs(&old, &new),
            (
                json!({"f:struct": {"f:b": {}}, "f:disks": {"k:{\"name\":\"a\"}": {"f:size": {}}}}),
                json!({"f:struct": {"f:a": {}}}),
            )
        );
        assert_eq!(differs(&json!({"atomic": ["a"]}), &json!({"atomic": ["b"]})).0, json!({"f:atomic": {}}));
    }

    #[test]
    fn a_value_of_another_shape_is_another_value() {
        assert_eq!(
            differs(&json!({"any": {"x": 1}}), &json!({"any": "text"})),
            (json!({"f:any": {}}), json!({"f:any": {"f:x": {}}}))
        );
        assert_eq!(differs(&json!({"struct": null}), &json!({"struct": {}})).0, json!({"f:struct": {}}));
    }
}
