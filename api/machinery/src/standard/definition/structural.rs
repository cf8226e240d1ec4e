//! Whether a schema is structural: whether it says of every field what it is, so that objects can be pruned and defaulted.
//! The rules are those of `apiextensions.k8s.io/v1`; each error names the place in the schema.

use serde_json::{Map, Value};

use crate::schema::Schema;
use crate::status::{FieldError, FieldPath};

/// What may not be used at all in a structural schema.
const FORBIDDEN: [&str; 14] = [
    "$ref",
    "$schema",
    "additionalItems",
    "definitions",
    "dependencies",
    "deprecated",
    "discriminator",
    "id",
    "patternProperties",
    "readOnly",
    "writeOnly",
    "xml",
    "contains",
    "propertyNames",
];

/// What may not be used below `allOf`, `anyOf`, `oneOf` and `not`, which only validate.
const OUTSIDE_ONLY: [&str; 12] = [
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
];

/// All that a schema may hold besides what is above.
const OTHERS: [&str; 25] = [
    "allOf",
    "anyOf",
    "enum",
    "example",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "externalDocs",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "not",
    "oneOf",
    "pattern",
    "properties",
    "required",
    "uniqueItems",
    "x-kubernetes-validations",
];

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Field,
    Item,
}

/// Every way in which the schema, which stands at `path`, is not structural.
pub(super) fn check(schema: &Value, path: &FieldPath) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check_schema(schema, path, Place::Root, &mut errors);
    errors
}

/// What the schema holds that no schema has, by path below it. It has no effect.
pub(super) fn unknown_keywords(schema: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    walk(schema, &FieldPath::root(), &mut |map, path| {
        let known = |name: &str| FORBIDDEN.contains(&name) || OUTSIDE_ONLY.contains(&name) || OTHERS.contains(&name);
        unknown.extend(map.keys().filter(|name| !known(name)).map(|name| path.child(name).to_string()));
    });
    unknown
}

/// Whether the schema has rules in CEL anywhere.
pub(super) fn has_rules(schema: &Value) -> bool {
    let mut found = false;
    walk(schema, &FieldPath::root(), &mut |map, _| found |= map.contains_key("x-kubernetes-validations"));
    found
}

/// Visits the schema and all schemas in it.
fn walk(schema: &Value, path: &FieldPath, visit: &mut dyn FnMut(&Map<String, Value>, &FieldPath)) {
    let Some(map) = schema.as_object() else { return };
    visit(map, path);
    for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
        walk(property, &path.child("properties").key(name), visit);
    }
    for name in ["items", "additionalProperties", "not"] {
        if let Some(inner) = map.get(name) {
            walk(inner, &path.child(name), visit);
        }
    }
    for name in JUNCTORS {
        for (index, inner) in map.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
            walk(inner, &path.child(name).index(index), visit);
        }
    }
}

fn flag(map: &Map<String, Value>, name: &str) -> bool {
    map.get(name) == Some(&Value::Bool(true))
}

fn check_schema(schema: &Value, path: &FieldPath, place: Place, errors: &mut Vec<FieldError>) {
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::type_invalid(path.clone(), schema.clone(), "must be a schema"));
        return;
    };
    check_type(map, path, place, errors);
    check_forbidden(map, path, errors);
    check_extensions(map, path, place, errors);
    check_list_type(map, path, errors);
    check_default(schema, path, errors);
    if place == Place::Root {
        check_metadata(map, path, errors);
    }
    for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
        check_schema(property, &path.child("properties").key(name), Place::Field, errors);
    }
    match map.get("additionalProperties") {
        None | Some(Value::Bool(true)) => {}
        Some(Value::Bool(false)) => {
            errors.push(FieldError::forbidden(path.child("additionalProperties"), "must not be set to false"));
        }
        Some(values) => check_schema(values, &path.child("additionalProperties"), Place::Field, errors),
    }
    if map.contains_key("additionalProperties") && map.contains_key("properties") {
        errors.push(FieldError::forbidden(path.child("additionalProperties"), "is mutually exclusive with properties"));
    }
    match map.get("items") {
        Some(items) => check_schema(items, &path.child("items"), Place::Item, errors),
        None if map.get("type").is_some_and(|name| name == "array") => {
            errors.push(FieldError::required(path.child("items"), "must be specified"));
        }
        None => {}
    }
    for_each_junction(map, path, &mut |inner, path| check_junction(inner, path, map, flag(map, INT_OR_STRING), errors));
}

const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";

fn check_type(map: &Map<String, Value>, path: &FieldPath, place: Place, errors: &mut Vec<FieldError>) {
    let untyped = flag(map, INT_OR_STRING) || (flag(map, PRESERVE) && place != Place::Root);
    let at = path.child("type");
    match (map.get("type"), place) {
        (Some(Value::String(name)), _) if flag(map, INT_OR_STRING) => {
            errors.push(FieldError::forbidden(at, &format!("must not be set to {name:?} with {INT_OR_STRING}")));
        }
        (Some(Value::String(name)), Place::Root) if name != "object" => {
            errors.push(FieldError::invalid(at, name.clone(), "must be object at the root"));
        }
        (Some(Value::String(name)), _) if TYPES.contains(&name.as_str()) => {}
        (Some(other), _) => {
            errors.push(FieldError::not_supported(at, other.clone(), &TYPES.map(str::to_owned)));
        }
        (None, Place::Root) => errors.push(FieldError::required(at, "must not be empty at the root")),
        (None, _) if untyped => {}
        (None, Place::Field) => errors.push(FieldError::required(at, "must not be empty for specified object fields")),
        (None, Place::Item) => errors.push(FieldError::required(at, "must not be empty for specified array items")),
    }
}

fn check_forbidden(map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    for name in FORBIDDEN.iter().filter(|name| map.contains_key(**name)) {
        errors.push(FieldError::forbidden(path.child(name), &format!("{name} is not supported")));
    }
    if flag(map, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(path.child("uniqueItems"), why));
    }
}

fn check_extensions(map: &Map<String, Value>, path: &FieldPath, place: Place, errors: &mut Vec<FieldError>) {
    let is_object = map.get("type").is_some_and(|name| name == "object");
    if map.contains_key(PRESERVE) && !flag(map, PRESERVE) {
        errors.push(FieldError::invalid(path.child(PRESERVE), map[PRESERVE].clone(), "must be true or undefined"));
    }
    if flag(map, EMBEDDED) {
        if place == Place::Root {
            errors.push(FieldError::forbidden(path.child(EMBEDDED), "must not be used at the root"));
        }
        if !is_object {
            let why = format!("must be object if {EMBEDDED} is true");
            errors.push(FieldError::invalid(path.child("type"), map.get("type").cloned().unwrap_or_default(), &why));
        }
        if !flag(map, PRESERVE) && !map.contains_key("properties") {
            let why = format!("must not be empty if {EMBEDDED} is true without {PRESERVE}");
            errors.push(FieldError::required(path.child("properties"), &why));
        }
    }
    if let Some(kind) = map.get("x-kubernetes-map-type") {
        let at = path.child("x-kubernetes-map-type");
        if !matches!(kind.as_str(), Some("atomic" | "granular")) {
            errors.push(FieldError::not_supported(at, kind.clone(), &["atomic", "granular"].map(str::to_owned)));
        } else if !is_object {
            errors.push(FieldError::invalid(
                path.child("type"),
                map.get("type").cloned().unwrap_or_default(),
                "must be object if x-kubernetes-map-type is specified",
            ));
        }
    }
    for (index, rule) in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        if rule.get("rule").and_then(Value::as_str).is_none_or(|rule| rule.trim().is_empty()) {
            let at = path.child("x-kubernetes-validations").index(index).child("rule");
            errors.push(FieldError::required(at, "rule is not specified"));
        }
    }
}

fn check_list_type(map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let keys = map.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
    let keys_at = path.child("x-kubernetes-list-map-keys");
    let Some(list_type) = map.get("x-kubernetes-list-type") else {
        if keys.is_some() {
            errors.push(FieldError::forbidden(keys_at, "may only be set if x-kubernetes-list-type is map"));
        }
        return;
    };
    if !map.get("type").is_some_and(|name| name == "array") {
        let given = map.get("type").cloned().unwrap_or_default();
        let why = "must be array if x-kubernetes-list-type is specified";
        errors.push(FieldError::invalid(path.child("type"), given, why));
        return;
    }
    let items = map.get("items").and_then(Value::as_object);
    match list_type.as_str() {
        Some("atomic") => {}
        Some("set") => {
            let plain = items.is_some_and(|items| {
                let type_ = items.get("type").and_then(Value::as_str);
                !matches!(type_, Some("object" | "array"))
                    || items.get("x-kubernetes-map-type").is_some_and(|kind| kind == "atomic")
                    || items.get("x-kubernetes-list-type").is_some_and(|kind| kind == "atomic")
            });
            if !plain {
                let why = "must be a scalar or atomic type when the list is a set";
                errors.push(FieldError::invalid(path.child("items"), "", why));
            }
        }
        Some("map") => check_map_keys(keys, items, path, errors),
        _ => {
            let supported = ["atomic", "set", "map"].map(str::to_owned);
            let at = path.child("x-kubernetes-list-type");
            errors.push(FieldError::not_supported(at, list_type.clone(), &supported));
        }
    }
}

fn check_map_keys(
    keys: Option<&Vec<Value>>,
    items: Option<&Map<String, Value>>,
    path: &FieldPath,
    errors: &mut Vec<FieldError>,
) {
    let keys_at = path.child("x-kubernetes-list-map-keys");
    let Some(keys) = keys.filter(|keys| !keys.is_empty()) else {
        errors.push(FieldError::required(keys_at, "must not be empty if x-kubernetes-list-type is map"));
        return;
    };
    let empty = Map::new();
    let items = items.unwrap_or(&empty);
    if !items.get("type").is_some_and(|name| name == "object") {
        let given = items.get("type").cloned().unwrap_or_default();
        let at = path.child("items").child("type");
        errors.push(FieldError::invalid(at, given, "must be object if parent array's x-kubernetes-list-type is map"));
        return;
    }
    let required: Vec<&str> =
        items.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (index, key) in keys.iter().enumerate() {
        let name = key.as_str().unwrap_or_default();
        let at = path.child("items").child("properties").key(name);
        if keys[..index].contains(key) {
            errors.push(FieldError::duplicate(keys_at.index(index), key.clone()));
        }
        match items.get("properties").and_then(|properties| properties.get(name)) {
            None => errors.push(FieldError::invalid(
                keys_at.index(index),
                key.clone(),
                "entries must all be names of item properties",
            )),
            Some(property) => {
                if matches!(property.get("type").and_then(Value::as_str), Some("array" | "object")) {
                    let given = property["type"].clone();
                    errors.push(FieldError::invalid(
                        at.child("type"),
                        given,
                        "must be a scalar type if parent array's x-kubernetes-list-type is map",
                    ));
                }
                let nullable = property.get("nullable") == Some(&Value::Bool(true));
                if nullable {
                    errors.push(FieldError::forbidden(at.child("nullable"), "keys of a list map must not be nullable"));
                }
                if property.get("default").is_none() && !required.contains(&name) {
                    let why = format!(
                        "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property: {name}"
                    );
                    errors.push(FieldError::required(at.child("default"), &why));
                }
            }
        }
    }
}

/// A default must be a value that the schema allows, without unknown fields.
fn check_default(schema: &Value, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let Some(default) = schema.get("default") else { return };
    // a schema that cannot be compiled is told of by whoever compiles the whole
    let Ok(compiled) = Schema::compile(schema) else { return };
    let at = path.child("default");
    let mut pruned = default.clone();
    let unknown = compiled.prune_part(&mut pruned, &at);
    errors.extend(unknown.into_iter().map(|field| {
        FieldError::invalid(FieldPath::new(&field), "", "is not known to the schema: a default must be pruned")
    }));
    // what it leaves out is filled in by the defaults below it
    compiled.complete_part(&mut pruned);
    errors.extend(compiled.validate_part(&pruned, &at));
}

/// At the root, `metadata` is described by Kubernetes; a schema may only narrow the names.
fn check_metadata(map: &Map<String, Value>, path: &FieldPath, errors: &mut Vec<FieldError>) {
    let properties = map.get("properties").and_then(Value::as_object);
    for (name, wanted) in [("apiVersion", "string"), ("kind", "string"), ("metadata", "object")] {
        let Some(property) = properties.and_then(|properties| properties.get(name)) else { continue };
        let at = path.child("properties").key(name);
        if property.get("type").is_some_and(|given| given != wanted) {
            errors.push(FieldError::invalid(at.child("type"), property["type"].clone(), &format!("must be {wanted}")));
        }
        if name != "metadata" {
            continue;
        }
        let narrowed = property.get("properties").and_then(Value::as_object).into_iter().flatten();
        let others = property.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
        if narrowed.into_iter().any(|(field, _)| !matches!(field.as_str(), "name" | "generateName"))
            || others.into_iter().any(|key| !matches!(key, "type" | "properties" | "description"))
        {
            let why =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(at, why));
        }
    }
}

/// Calls `visit` for each schema that stands directly below `allOf`, `anyOf`, `oneOf` or `not`.
fn for_each_junction(map: &Map<String, Value>, path: &FieldPath, visit: &mut dyn FnMut(&Value, &FieldPath)) {
    for name in JUNCTORS {
        for (index, inner) in map.get(name).and_then(Value::as_array).into_iter().flatten().enumerate() {
            visit(inner, &path.child(name).index(index));
        }
    }
    if let Some(inner) = map.get("not") {
        visit(inner, &path.child("not"));
    }
}

/// A schema that only validates: `outer` says what it is about. `types` are allowed in it for an integer or string.
fn check_junction(
    schema: &Value,
    path: &FieldPath,
    outer: &Map<String, Value>,
    types: bool,
    errors: &mut Vec<FieldError>,
) {
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::type_invalid(path.clone(), schema.clone(), "must be a schema"));
        return;
    };
    check_forbidden(map, path, errors);
    for name in OUTSIDE_ONLY.iter().filter(|name| map.contains_key(**name)) {
        let choice = types && *name == "type" && matches!(map["type"].as_str(), Some("integer" | "string"));
        if !choice {
            errors.push(FieldError::forbidden(path.child(name), "must be empty to be structural"));
        }
    }
    let nothing = Map::new();
    let of = |value: Option<&Value>| value.and_then(Value::as_object).cloned().unwrap_or_default();
    for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let at = path.child("properties").key(name);
        let known = outer.get("properties").and_then(|properties| properties.get(name));
        let values = outer.get("additionalProperties").filter(|values| values.is_object());
        match known.or(values) {
            Some(inner) => {
                let inner = of(Some(inner));
                check_junction(property, &at, &inner, flag(&inner, INT_OR_STRING), errors);
            }
            None if flag(outer, PRESERVE) || outer.get("additionalProperties") == Some(&Value::Bool(true)) => {
                check_junction(property, &at, &nothing, false, errors);
            }
            None => {
                errors.push(FieldError::required(at, "must be specified outside of allOf, anyOf, oneOf and not too"));
            }
        }
    }
    if let Some(items) = map.get("items") {
        let inner = of(outer.get("items"));
        check_junction(items, &path.child("items"), &inner, flag(&inner, INT_OR_STRING), errors);
    }
    for_each_junction(map, path, &mut |inner, path| check_junction(inner, path, outer, types, errors));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(spec: &Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        check(&schema, &FieldPath::new("s")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_structural_schema_passes() {
        let found = errors(&json!({"type": "object", "default": {"port": 80}, "required": ["port"], "properties": {
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"], "items": {
                "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}},
            }},
        }, "oneOf": [{"required": ["any"]}, {"properties": {"port": {"minimum": 1}}, "not": {"required": ["any"]}}]}));
        assert_eq!(found, Vec::<String>::new());
    }

    #[test]
    fn every_level_says_what_it_is() {
        assert_eq!(
            errors(
                &json!({"properties": {"a": {"type": "array", "items": {}}, "b": {"type": "array"}, "c": {"type": "null"}}})
            ),
            [
                "s.properties[spec].type: Required value: must not be empty for specified object fields",
                "s.properties[spec].properties[a].items.type: Required value: must not be empty for specified array items",
                "s.properties[spec].properties[b].items: Required value: must be specified",
                "s.properties[spec].properties[c].type: Unsupported value: \"null\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ]
        );
        let root = check(&json!({}), &FieldPath::new("s"));
        assert_eq!(root[0].to_string(), "s.type: Required value: must not be empty at the root");
    }

    #[test]
    fn what_cannot_be_enforced_is_refused() {
        for (schema, at) in [
            (json!({"$ref": "#/x", "type": "object"}), "s.properties[spec].$ref"),
            (json!({"type": "object", "patternProperties": {}}), "s.properties[spec].patternProperties"),
            (
                json!({"type": "array", "uniqueItems": true, "items": {"type": "string"}}),
                "s.properties[spec].uniqueItems",
            ),
            (json!({"type": "object", "additionalProperties": false}), "s.properties[spec].additionalProperties"),
            (
                json!({"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}),
                "s.properties[spec].additionalProperties",
            ),
            (
                json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false}),
                "s.properties[spec].x-kubernetes-preserve-unknown-fields",
            ),
            (json!({"type": "object", "x-kubernetes-embedded-resource": true}), "s.properties[spec].properties"),
            (json!({"type": "object", "oneOf": [{"type": "object"}]}), "s.properties[spec].oneOf[0].type"),
            (
                json!({"type": "object", "anyOf": [{"properties": {"a": {"minimum": 1}}}]}),
                "s.properties[spec].anyOf[0].properties[a]",
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["x"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}}}}),
                "s.properties[spec].x-kubernetes-list-map-keys[0]",
            ),
            (json!({"type": "integer", "default": "x"}), "s.properties[spec].default"),
            (json!({"type": "object", "properties": {}, "default": {"x": 1}}), "s.properties[spec].default.x"),
        ] {
            let found: Vec<String> = errors(&schema);
            assert!(found.iter().any(|error| error.starts_with(&format!("{at}: "))), "{schema}: {found:?}");
        }
    }

    #[test]
    fn metadata_is_not_for_a_schema_to_describe() {
        let schema = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {
            "name": {"type": "string", "pattern": "^x"}}}}});
        assert!(check(&schema, &FieldPath::root()).is_empty());
        let schema = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {
            "labels": {"type": "object"}}}}});
        assert_eq!(check(&schema, &FieldPath::root()).len(), 1);
    }

    #[test]
    fn what_no_schema_has_is_told() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "propeties": {}}}});
        assert_eq!(unknown_keywords(&schema), ["properties[spec].propeties"]);
    }
}
