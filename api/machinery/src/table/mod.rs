//! Tables: how `kubectl get` shows objects (`meta.k8s.io/v1`, kind `Table`), made from a kind's columns.

mod age;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::jsonpath::JsonPath;
use crate::registry::{Cell, Column, ResourceDescription};

pub(crate) use age::age;

/// The media type parameters that ask for a Table, and the API version it has.
pub(crate) const META_API_VERSION: &str = "meta.k8s.io/v1";

/// What each row carries of its object besides the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

/// The headings.
pub(crate) fn column_definitions(description: &ResourceDescription) -> Value {
    description
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.type_,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect()
}

/// The row of one served object.
pub(crate) fn row(description: &ResourceDescription, object: Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells: Vec<Value> = description.columns.iter().map(|column| cell(column, &object, now)).collect();
    let mut row = Map::new();
    row.insert("cells".to_owned(), cells.into());
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => {
            row.insert("object".to_owned(), partial_metadata(object));
        }
        IncludeObject::Object => {
            row.insert("object".to_owned(), object);
        }
    }
    Value::Object(row)
}

/// The object reduced to its metadata (kind `PartialObjectMetadata`).
pub(crate) fn partial_metadata(mut object: Value) -> Value {
    let metadata = object.get_mut("metadata").map(Value::take).unwrap_or_default();
    json!({"kind": "PartialObjectMetadata", "apiVersion": META_API_VERSION, "metadata": metadata})
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    match &column.cell {
        Cell::Computed(compute) => compute(object),
        Cell::Path(path) => from_path(path, &column.type_, object, now),
    }
}

fn from_path(path: &JsonPath, type_: &str, object: &Value, now: Timestamp) -> Value {
    let found = path.find(object);
    let Some(first) = found.first().filter(|value| !value.is_null()) else {
        return Value::Null;
    };
    match type_ {
        "date" => first.as_str().map_or("<unknown>".into(), |text| age(text, now).into()),
        "integer" => first.as_i64().map_or(Value::Null, Value::from),
        "number" => first.as_f64().map_or(Value::Null, Value::from),
        "boolean" => first.as_bool().map_or(Value::Null, Value::from),
        _ => {
            let texts: Vec<String> = found.into_iter().map(as_text).collect();
            texts.join(" ").into()
        }
    }
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, type_: &str, object: &Value) -> Value {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        from_path(&JsonPath::parse(path).unwrap(), type_, object, now)
    }

    #[test]
    fn cells_have_the_type_of_their_column() {
        let object = json!({"spec": {"cpus": 2, "names": ["a", "b"], "map": {"x": 1}}, "at": "2026-01-01T00:00:00Z"});
        assert_eq!(at(".spec.cpus", "integer", &object), json!(2));
        assert_eq!(at(".spec.cpus", "string", &object), json!("2"));
        assert_eq!(at(".spec.names[*]", "string", &object), json!("a b"));
        assert_eq!(at(".spec.names", "string", &object), json!(r#"["a","b"]"#));
        assert_eq!(at(".at", "date", &object), json!("60m"));
        assert_eq!(at(".none", "string", &object), Value::Null);
    }
}
