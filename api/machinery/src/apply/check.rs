//! What is wrong with a configuration before it is merged: items of lists that cannot be told apart.

use serde_json::Value;

use super::element;
use super::items;
use super::types::{Shape, Type};

/// Checks every list of the configuration that merges item by item. The error has the list's path, in Kubernetes' words.
pub(super) fn items(config: &Value, type_: &Type) -> Result<(), String> {
    check(config, type_, &mut Vec::new())
}

fn check<'v>(value: &'v Value, type_: &'v Type, path: &mut Vec<Step<'v>>) -> Result<(), String> {
    match (type_.shape(Some(value)), value) {
        (Some(Shape::Map(map_type)), Value::Object(map)) => {
            for (name, value) in map {
                path.push(Step::Field(name));
                check(value, map_type.type_of(name), path)?;
                path.pop();
            }
            Ok(())
        }
        (Some(Shape::Items(list)), Value::Array(items)) => {
            items::check(items, list).map_err(|problem| format!("{}: {problem}", shown(path)))?;
            for item in items {
                path.push(Step::Item(item, list));
                check(item, items::item_type(list), path)?;
                path.pop();
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// One step of a path; how it is shown is found out when it must be.
enum Step<'v> {
    Field(&'v str),
    Item(&'v Value, &'v Type),
}

fn shown(path: &[Step<'_>]) -> String {
    let mut text = String::new();
    for step in path {
        let element = match step {
            Step::Field(name) => Some(element::field(name)),
            Step::Item(item, list) => items::element_of(item, list).ok(),
        };
        if let Some(element) = element
            && text.len() < crate::status::MAX_PATH
        {
            element::show(&element, &mut text);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn items_have_keys_of_their_own() {
        let type_ = Type::of_kind(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "set": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "disks": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "properties": {"name": {"type": "string"}, "set": {"type": "array",
                    "items": {"type": "string"}, "x-kubernetes-list-type": "set"}},
            }},
        }}}}));
        let problem = |spec: Value| items(&json!({"spec": spec}), &type_).unwrap_err();
        assert!(items(&json!({"spec": {"set": ["a"], "disks": [{"name": "a"}, {"name": "b"}]}}), &type_).is_ok());
        assert_eq!(problem(json!({"set": ["a", "a"]})), r#".spec.set: duplicate entries for key [="a"]"#);
        assert_eq!(
            problem(json!({"disks": [{"name": "a"}, {}]})),
            r#".spec.disks: element 1: associative list with keys has an element that omits key field "name" (and doesn't have default value)"#
        );
        assert_eq!(
            problem(json!({"disks": [{"name": "a", "set": [null]}]})),
            r#".spec.disks[name="a"].set: element 0: associative list without keys has an element that's an explicit null"#
        );
    }
}
