//! Merges a configuration into an object.

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value};

use super::compare::same;
use super::element::Element;
use super::items;
use super::types::{MapType, Shape, Type};

/// Whether merging would change the object at all. Nothing is copied to find out.
pub(super) fn would_change(live: &Value, config: &Value, type_: &Type) -> bool {
    match (type_.shape(Some(config)), live, config) {
        (Some(Shape::Map(map_type)), Value::Object(live), Value::Object(config)) => {
            config.iter().any(|(name, value)| match live.get(name) {
                Some(before) => would_change(before, value, map_type.type_of(name)),
                None => true,
            })
        }
        (Some(Shape::Items(list)), Value::Array(live), Value::Array(config)) => items_would_change(live, config, list),
        (Some(Shape::Map(_)), Value::Object(live), Value::Null) => live.is_empty(),
        (Some(Shape::Items(_)), Value::Array(live), Value::Null) => live.is_empty(),
        _ => !same(live, config),
    }
}

fn items_would_change(live: &[Value], config: &[Value], list: &Type) -> bool {
    let item_type = items::item_type(list);
    let mut live = live.iter();
    // an item in another place among the others is a change as well
    config.iter().any(|item| {
        let Ok(element) = items::element_of(item, list) else { return true };
        match live.find(|candidate| items::element_of(candidate, list).as_ref() == Ok(&element)) {
            Some(before) => would_change(before, item, item_type),
            None => true,
        }
    })
}

/// The object with the configuration merged into it. Nothing is removed.
pub(super) fn merge(live: Value, config: &Value, type_: &Type) -> Value {
    match (type_.shape(Some(config)), live, config) {
        (Some(Shape::Map(map_type)), Value::Object(live), Value::Object(config)) => {
            Value::Object(merge_maps(live, config, map_type))
        }
        (Some(Shape::Items(list)), Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_items(live, config, list))
        }
        // nothing is no reason to remove something
        (Some(Shape::Map(_)), Value::Object(live), Value::Null) if !live.is_empty() => Value::Object(live),
        (Some(Shape::Items(_)), Value::Array(live), Value::Null) if !live.is_empty() => Value::Array(live),
        _ => config.clone(),
    }
}

fn merge_maps(mut live: Map<String, Value>, config: &Map<String, Value>, type_: &MapType) -> Map<String, Value> {
    for (name, value) in config {
        match live.get_mut(name) {
            Some(before) => *before = merge(before.take(), value, type_.type_of(name)),
            None => {
                live.insert(name.clone(), value.clone());
            }
        }
    }
    live
}

/// An item of the object's list: one that the configuration does not have, or the place of the one that it has.
enum Slot {
    Kept(Value),
    Shared(usize),
}

/// Items that both have stand in the order of the configuration, the others keep their places among them.
fn merge_items(live: Vec<Value>, config: &[Value], list: &Type) -> Vec<Value> {
    let item_type = items::item_type(list);
    let wanted = items::elements(config, list);
    let places: HashMap<&Element, usize> =
        wanted.iter().enumerate().map(|(place, (element, _))| (element, place)).collect();
    let mut before: Vec<Option<Value>> = vec![None; wanted.len()];
    let mut slots = Vec::with_capacity(live.len());
    for item in live {
        let place = items::element_of(&item, list).ok().and_then(|element| places.get(&element).copied());
        match place.and_then(|place| Some((place, before.get_mut(place)?))) {
            Some((place, before)) => {
                *before = Some(item);
                slots.push(Slot::Shared(place));
            }
            None => slots.push(Slot::Kept(item)),
        }
    }

    let mut merged = Vec::with_capacity(slots.len() + wanted.len());
    // of the items that both have, those that are still to come, in the configuration's order
    let mut shared: VecDeque<usize> =
        before.iter().enumerate().filter(|(_, before)| before.is_some()).map(|(place, _)| place).collect();
    let mut coming = wanted.iter().zip(&mut before).enumerate().peekable();
    let join = |before: &mut Option<Value>, item: &Value| match before.take() {
        Some(before) => merge(before, item, item_type),
        None => item.clone(),
    };
    for slot in slots {
        match slot {
            Slot::Kept(item) => merged.push(item),
            Slot::Shared(place) if shared.front() == Some(&place) => {
                while let Some((_, ((_, item), before))) = coming.next_if(|(next, _)| *next <= place) {
                    merged.push(join(before, item));
                }
                shared.pop_front();
            }
            // it comes after others now, or came already
            Slot::Shared(_) => {}
        }
    }
    merged.extend(coming.map(|(_, ((_, item), before))| join(before, item)));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn type_() -> Type {
        Type::of_kind(&json!({"type": "object", "properties": {
            "cpus": {"type": "integer"},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "atomic": {"type": "array", "items": {"type": "string"}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "disks": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "integer"}}}},
        }}))
    }

    fn merged(live: &Value, config: &Value) -> Value {
        let merged = merge(live.clone(), config, &type_());
        assert_eq!(would_change(live, config, &type_()), merged != *live, "{live} {config}");
        merged
    }

    #[test]
    fn each_type_merges_in_its_way() {
        let live =
            json!({"cpus": 1, "map": {"a": "1"}, "atomic": ["a"], "set": ["a"], "disks": [{"name": "a", "size": 1}]});
        let config = json!({"map": {"b": "2"}, "atomic": ["b"], "set": ["b"], "disks": [{"name": "b"}, {"name": "a"}]});
        assert_eq!(
            merged(&live, &config),
            json!({
                "cpus": 1, "map": {"a": "1", "b": "2"}, "atomic": ["b"], "set": ["a", "b"],
                "disks": [{"name": "b"}, {"name": "a", "size": 1}],
            })
        );
        assert_eq!(merged(&live, &json!({"map": null, "disks": [], "set": null})), live);
        assert_eq!(merged(&json!({"map": {}}), &json!({"map": null})), json!({"map": null}));
    }

    #[test]
    fn lists_take_the_order_of_the_configuration_where_both_have_items() {
        let set = |items: &[&str]| json!({"set": items});
        for (live, config, expected) in [
            (["a", "b", "c"].as_slice(), ["b", "c"].as_slice(), ["a", "b", "c"].as_slice()),
            (&["b", "a", "x"], &["a", "b"], &["a", "x", "b"]),
            (&["x", "a", "y", "b"], &["a", "n", "b"], &["x", "a", "y", "n", "b"]),
            (&["a"], &["c", "b"], &["a", "c", "b"]),
            (&[], &["c", "b"], &["c", "b"]),
        ] {
            assert_eq!(merged(&set(live), &set(config)), set(expected), "{live:?} {config:?}");
        }
    }
}
