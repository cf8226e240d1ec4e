//! The same in OpenAPI 2 ("Swagger"), for kubectl before 1.27 and what is built on its libraries: one document for all
//! groups, made of those of version 3.

use serde_json::{Map, Value, json};

/// What version 2 has no words for.
const UNKNOWN: [&str; 4] = ["nullable", "oneOf", "anyOf", "not"];

/// The document, from those of the groups.
pub(super) fn document(groups: &[Value]) -> Value {
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for group in groups {
        for (path, item) in members(&group["paths"]) {
            paths.insert(path.clone(), path_item(item));
        }
        for (name, schema) in members(&group["components"]["schemas"]) {
            definitions.entry(name.clone()).or_insert_with(|| self::schema(schema));
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "definitions": definitions,
    })
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn path_item(item: &Value) -> Value {
    let convert = |(name, value): (&String, &Value)| {
        let value = if name == "parameters" { parameters(value) } else { operation(value) };
        (name.clone(), value)
    };
    Value::Object(members(item).map(convert).collect())
}

fn operation(operation: &Value) -> Value {
    let mut parameters = parameters(&operation["parameters"]);
    let mut converted = json!({
        "operationId": operation["operationId"],
        "produces": ["application/json"],
        "x-kubernetes-action": operation["x-kubernetes-action"],
        "x-kubernetes-group-version-kind": operation["x-kubernetes-group-version-kind"],
    });
    let bodies = &operation["requestBody"]["content"];
    if let (Some((_, body)), Some(parameters)) = (members(bodies).next(), parameters.as_array_mut()) {
        converted["consumes"] = members(bodies).map(|(media_type, _)| Value::from(media_type.as_str())).collect();
        parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": schema(&body["schema"])}));
    }
    converted["parameters"] = parameters;
    let answer = &operation["responses"]["200"]["content"]["application/json"]["schema"];
    converted["responses"] = json!({"200": {"description": "OK", "schema": schema(answer)}});
    converted
}

/// The type of a parameter stands in the parameter itself.
fn parameters(parameters: &Value) -> Value {
    let convert = |parameter: &Value| {
        let mut converted = parameter.clone();
        if let Some(map) = converted.as_object_mut()
            && let Some(Value::Object(schema)) = map.remove("schema")
        {
            map.extend(schema);
        }
        converted
    };
    parameters.as_array().into_iter().flatten().map(convert).collect()
}

/// A schema without what version 2 does not know, and with its references where that version has them.
fn schema(schema: &Value) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let mut converted = Map::new();
    for (keyword, value) in map {
        let value = match keyword.as_str() {
            unknown if UNKNOWN.contains(&unknown) => continue,
            "$ref" => value.as_str().map(|to| to.replace("#/components/schemas/", "#/definitions/")).into(),
            // names of fields are no keywords
            "properties" => Value::Object(members(value).map(|(name, it)| (name.clone(), self::schema(it))).collect()),
            "items" | "additionalProperties" => self::schema(value),
            "allOf" => {
                match value.as_array().map(Vec::as_slice) {
                    // the detour that a reference with a description takes in version 3
                    Some([Value::Object(only)]) if only.contains_key("$ref") => {
                        if let Value::Object(only) = self::schema(&value[0]) {
                            converted.extend(only);
                        }
                        continue;
                    }
                    parts => parts.into_iter().flatten().map(self::schema).collect(),
                }
            }
            "default" if map.contains_key("allOf") => continue,
            _ => value.clone(),
        };
        converted.insert(keyword.clone(), value);
    }
    Value::Object(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_lose_only_what_is_unknown() {
        let v3 = json!({
            "type": "object",
            "properties": {
                "nullable": {"type": "string", "nullable": true, "description": "a field of this name"},
                "metadata": {"description": "d", "allOf": [{"$ref": "#/components/schemas/M"}], "default": {}},
                "list": {"type": "array", "items": {"anyOf": [{}], "x-kubernetes-int-or-string": true}},
            },
        });
        let v2 = json!({
            "type": "object",
            "properties": {
                "nullable": {"type": "string", "description": "a field of this name"},
                "metadata": {"description": "d", "$ref": "#/definitions/M"},
                "list": {"type": "array", "items": {"x-kubernetes-int-or-string": true}},
            },
        });
        assert_eq!(schema(&v3), v2);
    }
}
