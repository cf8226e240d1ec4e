//! Checks a value against a schema and collects every error, with its path and in Kubernetes' words.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::place::Place;
use super::{Additional, Format, ListType, Schema, Type};
use crate::meta;
use crate::status::{FieldError, FieldPath};

/// No more errors than this are collected.
const MAX_ERRORS: usize = 200;

impl Schema {
    /// Every way in which the object breaks the schema, in the order of its fields. `metadata` at the root is not looked at.
    pub fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.check(object, &Place::At(&FieldPath::root()), true, &mut errors);
        errors.truncate(MAX_ERRORS);
        errors
    }

    /// Every way in which a value, which is only a part of an object, breaks the schema.
    pub(crate) fn validate_part(&self, value: &Value, path: &FieldPath) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.check(value, &Place::At(path), false, &mut errors);
        errors
    }

    fn check(&self, value: &Value, path: &Place<'_>, has_metadata: bool, errors: &mut Vec<FieldError>) {
        if errors.len() >= MAX_ERRORS || (value.is_null() && self.nullable) {
            return;
        }
        if !self.check_type(value, path, errors) {
            return;
        }
        match value {
            Value::Object(map) => self.check_object(map, path, has_metadata || self.embedded_resource, errors),
            Value::Array(list) => self.check_list(list, path, errors),
            Value::String(text) => self.check_string(text, path, errors),
            Value::Number(number) => self.check_number(number, path, errors),
            Value::Bool(_) | Value::Null => {}
        }
        if !self.enumeration.is_empty() && !self.enumeration.contains(value) {
            let supported: Vec<String> = self
                .enumeration
                .iter()
                .filter(|allowed| !allowed.is_null())
                .map(|allowed| allowed.as_str().map_or_else(|| allowed.to_string(), str::to_owned))
                .collect();
            errors.push(FieldError::not_supported(path.path(), value.clone(), &supported));
        }
        if let Some(format) = self.format
            && !format.accepts(value)
        {
            errors.push(wrong_format(path, value, format));
        }
        self.check_combinations(value, path, has_metadata, errors);
    }

    fn check_type(&self, value: &Value, path: &Place<'_>, errors: &mut Vec<FieldError>) -> bool {
        let Some(type_) = self.type_ else {
            return true;
        };
        let fits = match type_ {
            Type::Object => value.is_object(),
            Type::Array => value.is_array(),
            Type::String => value.is_string(),
            Type::Boolean => value.is_boolean(),
            Type::Number => value.is_number(),
            Type::Integer => is_integer(value),
            Type::IntOrString => value.is_string() || is_integer(value),
        };
        if !fits {
            errors.push(wrong_type(path, value, type_.name()));
        }
        fits
    }

    fn check_object(
        &self,
        map: &Map<String, Value>,
        path: &Place<'_>,
        has_metadata: bool,
        errors: &mut Vec<FieldError>,
    ) {
        if self.embedded_resource {
            for name in ["apiVersion", "kind"] {
                if map.get(name).is_none_or(|value| value.as_str().is_none_or(str::is_empty)) {
                    errors.push(FieldError::required(path.child(name).path(), "must not be empty"));
                }
            }
        }
        for name in &self.required {
            let elsewhere = has_metadata && name == "metadata";
            if !elsewhere && !map.contains_key(name) {
                errors.push(FieldError::required(path.child(name).path(), ""));
            }
        }
        for (name, value) in map {
            if has_metadata && name == "metadata" {
                if self.embedded_resource {
                    errors.extend(meta::normalise_embedded(
                        &mut value.clone(),
                        &path.child(name).path(),
                        &mut Vec::new(),
                    ));
                }
                continue;
            }
            if let Some(property) = self.properties.get(name) {
                property.check(value, &path.child(name), false, errors);
            } else if let Additional::Values(values) = &self.additional {
                values.check(value, &path.child(name), false, errors);
            }
        }
        if let Some(min) = self.min_properties
            && map.len() < min
        {
            let detail = in_body(path, &format!("should have at least {min} properties"));
            errors.push(FieldError::invalid(path.path(), map.len(), &detail));
        }
        if let Some(max) = self.max_properties
            && map.len() > max
        {
            errors.push(FieldError::too_many(path.path(), map.len(), max));
        }
    }

    fn check_list(&self, list: &[Value], path: &Place<'_>, errors: &mut Vec<FieldError>) {
        if let Some(min) = self.min_items
            && list.len() < min
        {
            let detail = in_body(path, &format!("should have at least {min} items"));
            errors.push(FieldError::invalid(path.path(), list.len(), &detail));
        }
        if let Some(max) = self.max_items
            && list.len() > max
        {
            errors.push(FieldError::too_many(path.path(), list.len(), max));
            return;
        }
        if let Some(items) = &self.items {
            for (index, value) in list.iter().enumerate() {
                if errors.len() >= MAX_ERRORS {
                    return;
                }
                items.check(value, &path.index(index), false, errors);
            }
        }
        self.check_unique(list, path, errors);
    }

    fn check_unique(&self, list: &[Value], path: &Place<'_>, errors: &mut Vec<FieldError>) {
        if list.len() < 2 {
            return;
        }
        let identity = |value: &Value| match &self.list_type {
            ListType::Atomic => None,
            ListType::Set => Some(value.clone()),
            ListType::Map(keys) => {
                let map = value.as_object()?;
                let entry = |key: &String| Some((key.clone(), map.get(key)?.clone()));
                Some(Value::Object(keys.iter().filter_map(entry).collect()))
            }
        };
        let mut seen = HashSet::new();
        for (index, value) in list.iter().enumerate() {
            if let Some(identity) = identity(value)
                && !seen.insert(identity.to_string())
            {
                errors.push(FieldError::duplicate(path.index(index).path(), identity));
            }
        }
    }

    fn check_string(&self, text: &str, path: &Place<'_>, errors: &mut Vec<FieldError>) {
        let length = text.chars().count();
        if let Some(max) = self.max_length
            && length > max
        {
            errors.push(FieldError::too_long(path.path(), max));
        }
        if let Some(min) = self.min_length
            && length < min
        {
            let detail = in_body(path, &format!("should be at least {min} chars long"));
            errors.push(FieldError::invalid(path.path(), text, &detail));
        }
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(text)
        {
            let detail = in_body(path, &format!("should match '{}'", pattern.as_str()));
            errors.push(FieldError::invalid(path.path(), text, &detail));
        }
    }

    fn check_number(&self, number: &serde_json::Number, path: &Place<'_>, errors: &mut Vec<FieldError>) {
        let Some(value) = number.as_f64() else {
            return;
        };
        let mut broken = |rule: String| {
            let given = Value::Number(number.clone());
            errors.push(FieldError::invalid(path.path(), given, &in_body(path, &rule)));
        };
        if let Some(min) = self.minimum {
            if min.exclusive && value <= min.value {
                broken(format!("should be greater than {}", min.value));
            } else if value < min.value {
                broken(format!("should be greater than or equal to {}", min.value));
            }
        }
        if let Some(max) = self.maximum {
            if max.exclusive && value >= max.value {
                broken(format!("should be less than {}", max.value));
            } else if value > max.value {
                broken(format!("should be less than or equal to {}", max.value));
            }
        }
        if let Some(divisor) = self.multiple_of
            && divisor != 0.0
            && (value / divisor).fract() != 0.0
        {
            broken(format!("should be a multiple of {divisor}"));
        }
    }

    fn check_combinations(&self, value: &Value, path: &Place<'_>, has_metadata: bool, errors: &mut Vec<FieldError>) {
        let passes = |schema: &Self| {
            let mut found = Vec::new();
            schema.check(value, path, has_metadata, &mut found);
            found.is_empty()
        };
        for schema in &self.all_of {
            schema.check(value, path, has_metadata, errors);
        }
        let mut broken = |rule: &str| {
            errors.push(FieldError::invalid(path.path(), value.clone(), &in_body(path, rule)));
        };
        if !self.any_of.is_empty() && !self.any_of.iter().any(passes) {
            broken("must validate at least one schema (anyOf)");
        }
        if !self.one_of.is_empty() {
            match self.one_of.iter().filter(|schema| passes(schema)).count() {
                1 => {}
                0 => broken(&one_of_rule(&self.one_of, "none was given")),
                _ => broken(&one_of_rule(&self.one_of, "more than one was given")),
            }
        }
        if self.not.as_ref().is_some_and(|schema| passes(schema)) {
            broken("must not validate the schema (not)");
        }
    }
}

/// The usual `oneOf` of a CRD demands one field each; then the message can name them.
fn one_of_rule(alternatives: &[Schema], what: &str) -> String {
    let fields: Vec<&str> = alternatives.iter().flat_map(|schema| schema.required.iter()).map(String::as_str).collect();
    if fields.len() == alternatives.len() {
        format!("must have exactly one of the fields {} ({what})", fields.join(", "))
    } else {
        "must validate one and only one schema (oneOf)".to_owned()
    }
}

/// `spec.cpus in body should be ...`, as Kubernetes words it.
fn in_body(path: &Place<'_>, rule: &str) -> String {
    format!("{} in body {rule}", path.path().as_str())
}

fn is_integer(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        _ => false,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn wrong_type(path: &Place<'_>, value: &Value, wanted: &str) -> FieldError {
    let given = type_name(value);
    let detail = in_body(path, &format!("must be of type {wanted}: {given:?}"));
    FieldError::type_invalid(path.path(), given, &detail)
}

fn wrong_format(path: &Place<'_>, value: &Value, format: Format) -> FieldError {
    let detail = in_body(path, &format!("must be of type {}: {value}", format.name()));
    FieldError::invalid(path.path(), value.clone(), &detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(schema: &Value, object: &Value) -> Vec<String> {
        Schema::compile(schema).unwrap().validate(object).iter().map(ToString::to_string).collect()
    }

    fn spec(schema: &Value) -> Value {
        json!({"type": "object", "properties": {"spec": schema}})
    }

    #[test]
    fn every_error_is_found_with_its_path() {
        let schema = spec(&json!({
            "type": "object",
            "required": ["image", "cpus"],
            "properties": {
                "cpus": {"type": "integer", "format": "int32", "minimum": 1},
                "image": {"type": "string"},
                "mode": {"type": "string", "enum": ["A", "B"]},
                "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 3},
                "disks": {"type": "array", "maxItems": 2, "items": {
                    "type": "object", "required": ["size"], "properties": {"size": {"type": "string"}},
                }},
            },
        }));
        let object = json!({"metadata": {"name": 5}, "spec": {
            "cpus": 0, "mode": "C", "name": "A", "disks": [{"size": 1}, {}],
        }});
        assert_eq!(
            errors(&schema, &object),
            [
                "spec.image: Required value",
                "spec.cpus: Invalid value: 0: spec.cpus in body should be greater than or equal to 1",
                "spec.disks[0].size: Invalid value: \"integer\": spec.disks[0].size in body must be of type string: \"integer\"",
                "spec.disks[1].size: Required value",
                "spec.mode: Unsupported value: \"C\": supported values: \"A\", \"B\"",
                "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
            ]
        );
    }

    #[test]
    fn null_needs_nullable() {
        let schema = spec(&json!({"type": "string"}));
        assert_eq!(errors(&schema, &json!({"spec": null})).len(), 1);
        let schema = spec(&json!({"type": "string", "nullable": true, "enum": ["a", null]}));
        assert!(errors(&schema, &json!({"spec": null})).is_empty());
    }

    #[test]
    fn int_or_string() {
        let schema =
            spec(&json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}));
        assert!(errors(&schema, &json!({"spec": 3})).is_empty());
        assert!(errors(&schema, &json!({"spec": "50%"})).is_empty());
        assert_eq!(errors(&schema, &json!({"spec": 1.5})).len(), 1);
    }

    #[test]
    fn maps_check_their_values() {
        let schema = spec(&json!({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}));
        assert_eq!(
            errors(&schema, &json!({"spec": {"a": 1, "b": "x", "c": 3}})),
            [
                "spec.b: Invalid value: \"string\": spec.b in body must be of type integer: \"string\"",
                "spec: Too many: 3: must have at most 2 items",
            ]
        );
    }

    #[test]
    fn lists_that_are_sets_or_maps_are_unique() {
        let schema = spec(&json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}));
        assert_eq!(errors(&schema, &json!({"spec": ["a", "b", "a"]})), ["spec[2]: Duplicate value: \"a\""]);
        let schema = spec(&json!({
            "type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "x": {"type": "integer"}}},
        }));
        assert_eq!(
            errors(&schema, &json!({"spec": [{"name": "a", "x": 1}, {"name": "a", "x": 2}]})),
            ["spec[1]: Duplicate value: {\"name\":\"a\"}"]
        );
    }

    #[test]
    fn one_of_names_the_fields() {
        let schema =
            spec(&json!({"type": "object", "properties": {"http": {"type": "object"}, "file": {"type": "object"}},
            "oneOf": [{"required": ["http"]}, {"required": ["file"]}]}));
        assert!(errors(&schema, &json!({"spec": {"http": {}}})).is_empty());
        let found = errors(&schema, &json!({"spec": {"http": {}, "file": {}}}));
        assert!(found[0].contains("exactly one of the fields http, file (more than one was given)"), "{found:?}");
    }

    #[test]
    fn hostile_objects_do_not_make_endless_errors() {
        let schema = spec(&json!({"type": "array", "items": {"type": "string"}}));
        let many: Vec<u32> = (0..100_000).collect();
        assert_eq!(errors(&schema, &json!({"spec": many})).len(), MAX_ERRORS);
    }
}
