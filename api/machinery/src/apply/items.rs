//! The items of lists that merge item by item, each with the element that tells it from the others.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::element::{self, Element};
use super::types::Type;

/// The element of a list's item.
pub(super) fn element_of(item: &Value, list: &Type) -> Result<Element, String> {
    match (list, item) {
        (Type::Keyed(keyed), Value::Object(map)) => {
            let mut keys = Map::new();
            for (key, default) in &keyed.keys {
                let Some(value) = map.get(key).filter(|value| !value.is_null()).or(default.as_ref()) else {
                    return Err(format!(
                        "associative list with keys has an element that omits key field {key:?} (and doesn't have default value)"
                    ));
                };
                keys.insert(key.clone(), value.clone());
            }
            Ok(element::keyed(&keys))
        }
        (Type::Keyed(_), _) => Err("associative list with keys may not have non-map elements".to_owned()),
        (_, Value::Null) => Err("associative list without keys has an element that's an explicit null".to_owned()),
        (_, Value::Object(_)) => Err("associative list without keys has an element that's a map type".to_owned()),
        (_, Value::Array(_)) => Err("not supported: associative list with lists as elements".to_owned()),
        (_, scalar) => Ok(element::item(scalar)),
    }
}

/// The type of a list's items.
pub(super) fn item_type(list: &Type) -> &Type {
    match list {
        Type::Keyed(keyed) => &keyed.item,
        _ => &Type::Leaf,
    }
}

/// The items in their order; those that cannot be told from others are left out.
pub(super) fn elements<'v>(items: &'v [Value], list: &Type) -> Vec<(Element, &'v Value)> {
    items.iter().filter_map(|item| Some((element_of(item, list).ok()?, item))).collect()
}

/// The items in the order of their elements. Of several with one element the first counts.
pub(super) fn sorted<'v>(items: Option<&'v Value>, list: &Type) -> Vec<(Element, &'v Value)> {
    let mut elements = elements(items.and_then(Value::as_array).map_or(&[], Vec::as_slice), list);
    elements.sort_by(|(a, _), (b, _)| a.cmp(b));
    elements.dedup_by(|(a, _), (b, _)| a == b);
    elements
}

/// What is wrong with the items of a list: one has no key, or the key of another.
pub(super) fn check(items: &[Value], list: &Type) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let element = element_of(item, list).map_err(|problem| format!("element {index}: {problem}"))?;
        if seen.contains(&element) {
            let mut shown = String::new();
            element::show(&element, &mut shown);
            return Err(format!("duplicate entries for key {shown}"));
        }
        seen.insert(element);
    }
    Ok(())
}
