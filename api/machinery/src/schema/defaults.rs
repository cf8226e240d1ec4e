//! Fills in the defaults of a schema, and removes the nulls that it does not allow. In Kubernetes' order: a `null` that a
//! field may not be counts as absent, and a field that is absent gets its default.

use serde_json::Value;

use super::{Additional, Schema};

impl Schema {
    /// Removes `null` where a field is not nullable. `apiVersion`, `kind` and `metadata` at the root are left alone.
    pub fn drop_nulls(&self, object: &mut Value) {
        self.complete(object, true, false);
    }

    /// As [`Schema::drop_nulls`], and then gives absent fields their defaults.
    pub fn apply_defaults(&self, object: &mut Value) {
        self.complete(object, true, true);
    }

    /// The same for a value that is only a part of an object.
    pub(crate) fn complete_part(&self, value: &mut Value) {
        self.complete(value, false, true);
    }

    fn complete(&self, value: &mut Value, is_object: bool, defaults: bool) {
        match value {
            Value::Object(map) => {
                let system = |name: &str| {
                    (is_object || self.embedded_resource) && matches!(name, "apiVersion" | "kind" | "metadata")
                };
                map.retain(|name, value| {
                    !value.is_null() || system(name) || self.of_field(name).is_none_or(|schema| schema.nullable)
                });
                if defaults {
                    for (name, property) in &self.properties {
                        if let Some(default) = &property.default
                            && !system(name)
                            && !map.contains_key(name)
                        {
                            map.insert(name.clone(), default.clone());
                        }
                    }
                }
                for (name, value) in map.iter_mut() {
                    if !system(name)
                        && let Some(schema) = self.of_field(name)
                    {
                        schema.complete(value, false, defaults);
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for element in list {
                        items.complete(element, false, defaults);
                    }
                }
            }
            _ => {}
        }
    }

    /// The schema of a field's value, if it has one.
    fn of_field(&self, name: &str) -> Option<&Self> {
        match (self.properties.get(name), &self.additional) {
            (Some(property), _) => Some(property),
            (None, Additional::Values(values)) => Some(values),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::compile(
            &json!({"type": "object", "properties": {"spec": {"type": "object", "default": {}, "properties": {
                "replicas": {"type": "integer", "default": 1},
                "mode": {"type": "string", "nullable": true, "default": "Auto"},
                "note": {"type": "string"},
                "ports": {"type": "array", "items": {"type": "object", "properties": {
                    "protocol": {"type": "string", "default": "TCP"}, "number": {"type": "integer"},
                }}},
                "limits": {"type": "object", "additionalProperties": {"type": "object", "properties": {
                    "unit": {"type": "string", "default": "GiB"},
                }}},
            }}}}),
        )
        .unwrap()
    }

    #[test]
    fn defaults_come_at_every_level() {
        let mut object = json!({"metadata": {"name": "x"}});
        schema().apply_defaults(&mut object);
        assert_eq!(object, json!({"metadata": {"name": "x"}, "spec": {"replicas": 1, "mode": "Auto"}}));
        let mut object = json!({"spec": {"replicas": 3, "ports": [{"number": 1}], "limits": {"a": {}}}});
        schema().apply_defaults(&mut object);
        assert_eq!(
            object,
            json!({"spec": {"replicas": 3, "mode": "Auto", "ports": [{"number": 1, "protocol": "TCP"}],
                "limits": {"a": {"unit": "GiB"}}}})
        );
    }

    #[test]
    fn null_is_a_value_only_where_it_is_allowed() {
        let nulls =
            json!({"metadata": null, "spec": {"replicas": null, "mode": null, "note": null, "limits": {"a": null}}});
        let mut object = nulls.clone();
        schema().apply_defaults(&mut object);
        assert_eq!(object, json!({"metadata": null, "spec": {"replicas": 1, "mode": null, "limits": {}}}));
        let mut object = nulls;
        schema().drop_nulls(&mut object);
        assert_eq!(object, json!({"metadata": null, "spec": {"mode": null, "limits": {}}}));
    }

    #[test]
    fn defaulting_twice_changes_nothing() {
        let mut once = json!({"spec": {"ports": [{}, {"protocol": null}], "limits": {"a": {"unit": null}}}});
        schema().apply_defaults(&mut once);
        let mut twice = once.clone();
        schema().apply_defaults(&mut twice);
        assert_eq!(once, twice);
    }
}
