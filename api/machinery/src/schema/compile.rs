//! From the schema as JSON (a CRD's `openAPIV3Schema`, or what `schemars` generates) to a [`Schema`].

use serde_json::{Map, Value};

use super::{Additional, Bound, Format, ListType, Schema, Type};
use crate::status::FieldPath;

/// Deeper schemas are refused.
const MAX_DEPTH: usize = 64;

/// Why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("schema at {path}: {problem}")]
pub struct SchemaError {
    path: String,
    problem: String,
}

fn error(path: &FieldPath, problem: impl Into<String>) -> SchemaError {
    SchemaError { path: path.to_string(), problem: problem.into() }
}

impl Schema {
    /// Compiles a schema. References (`$ref`) must have been inlined.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        compile(schema, &FieldPath::root(), 0)
    }
}

fn compile(schema: &Value, path: &FieldPath, depth: usize) -> Result<Schema, SchemaError> {
    if depth > MAX_DEPTH {
        return Err(error(path, format!("nested deeper than {MAX_DEPTH}")));
    }
    let map = match schema {
        Value::Object(map) => map,
        // JSON schema's `true`: anything goes
        Value::Bool(true) => return Ok(Schema { preserve_unknown: true, nullable: true, ..Schema::default() }),
        other => return Err(error(path, format!("is not a schema: {other}"))),
    };
    if let Some(reference) = map.get("$ref") {
        return Err(error(path, format!("has the reference {reference}; references must be inlined")));
    }
    let sub = |key: &str, value: &Value| compile(value, &path.child(key), depth + 1);
    let list = |key: &str| -> Result<Vec<Schema>, SchemaError> {
        map.get(key).and_then(Value::as_array).into_iter().flatten().map(|value| sub(key, value)).collect()
    };
    let flag = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or_default();
    let (mut type_, null_type) = type_of(map, path)?;
    if flag("x-kubernetes-int-or-string") || map.get("format").is_some_and(|format| format == "int-or-string") {
        type_ = Some(Type::IntOrString);
    }

    let mut compiled = Schema {
        type_,
        nullable: null_type || flag("nullable"),
        default: map.get("default").cloned(),
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag("x-kubernetes-embedded-resource"),
        list_type: list_type(map),
        enumeration: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
        minimum: bound(map, "minimum", "exclusiveMinimum"),
        maximum: bound(map, "maximum", "exclusiveMaximum"),
        multiple_of: map.get("multipleOf").and_then(Value::as_f64),
        min_length: count(map, "minLength"),
        max_length: count(map, "maxLength"),
        min_items: count(map, "minItems"),
        max_items: count(map, "maxItems"),
        min_properties: count(map, "minProperties"),
        max_properties: count(map, "maxProperties"),
        format: map.get("format").and_then(Value::as_str).and_then(Format::named),
        all_of: list("allOf")?,
        any_of: list("anyOf")?,
        one_of: list("oneOf")?,
        ..Schema::default()
    };
    if let Some(pattern) = map.get("pattern").and_then(Value::as_str) {
        let regex = regex::Regex::new(pattern)
            .map_err(|problem| error(path, format!("pattern {pattern:?} cannot be used: {problem}")))?;
        compiled.pattern = Some(regex);
    }
    for (name, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
        compiled.properties.insert(name.clone(), sub(name, property)?);
    }
    compiled.required = map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(text).collect();
    compiled.additional = match map.get("additionalProperties") {
        None | Some(Value::Bool(false)) => Additional::Nothing,
        Some(Value::Bool(true)) => Additional::Anything,
        Some(values) => Additional::Values(Box::new(sub("*", values)?)),
    };
    if let Some(items) = map.get("items") {
        compiled.items = Some(Box::new(sub("items", items)?));
    }
    if let Some(not) = map.get("not") {
        compiled.not = Some(Box::new(sub("not", not)?));
    }
    // a schema that says nothing about an untyped value lets everything pass
    if compiled.type_.is_none() && compiled.properties.is_empty() {
        compiled.preserve_unknown = true;
    }
    Ok(compiled)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

/// The type, and whether `null` stands beside it (`["string", "null"]`).
fn type_of(map: &Map<String, Value>, path: &FieldPath) -> Result<(Option<Type>, bool), SchemaError> {
    let names: Vec<&str> = match map.get("type") {
        None => return Ok((None, false)),
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(other) => return Err(error(path, format!("type must be a string, not {other}"))),
    };
    let mut found = None;
    let mut null = false;
    for name in names {
        let type_ = match name {
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            "null" => {
                null = true;
                continue;
            }
            other => return Err(error(path, format!("unknown type {other:?}"))),
        };
        if found.replace(type_).is_some() {
            return Err(error(path, "more than one type"));
        }
    }
    Ok((found, null))
}

/// Both spellings of an exclusive bound: OpenAPI 3.0's boolean, JSON schema's number.
fn bound(map: &Map<String, Value>, key: &str, exclusive: &str) -> Option<Bound> {
    match map.get(exclusive) {
        Some(Value::Number(number)) => Some(Bound { value: number.as_f64()?, exclusive: true }),
        other => {
            let exclusive = other == Some(&Value::Bool(true));
            Some(Bound { value: map.get(key)?.as_f64()?, exclusive })
        }
    }
}

fn count(map: &Map<String, Value>, key: &str) -> Option<usize> {
    map.get(key).and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
}

fn list_type(map: &Map<String, Value>) -> ListType {
    match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(
            map.get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(text)
                .collect(),
        ),
        _ => ListType::Atomic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_bad_schema_says_where() {
        let schema =
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "text"}}}}});
        let error = Schema::compile(&schema).unwrap_err();
        assert_eq!(error.to_string(), r#"schema at a.b: unknown type "text""#);
        let schema = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}});
        assert!(Schema::compile(&schema).unwrap_err().to_string().starts_with("schema at a: pattern"));
    }

    #[test]
    fn endless_nesting_is_refused() {
        let mut schema = json!({"type": "string"});
        for _ in 0..100 {
            schema = json!({"type": "array", "items": schema});
        }
        assert!(Schema::compile(&schema).is_err());
    }
}
