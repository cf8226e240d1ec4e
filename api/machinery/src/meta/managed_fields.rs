//! The shape of `metadata.managedFields` as clients send it. What it means is [`crate::apply`]'s.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::status::{FieldError, FieldPath};

/// No object has more managers.
pub(super) const MAX_ENTRIES: usize = 1000;

const FIELDS: [&str; 7] = ["apiVersion", "fieldsType", "fieldsV1", "manager", "operation", "subresource", "time"];

/// Brings the list into its normal form. An empty list stays: it is an order to forget all managers.
pub(super) fn normalise(list: &mut Value, path: &FieldPath, unknown: &mut Vec<String>, errors: &mut Vec<FieldError>) {
    let Some(entries) = list.as_array_mut() else {
        super::shape::check(false, list, path, "array", errors);
        return;
    };
    if entries.len() > MAX_ENTRIES {
        errors.push(FieldError::too_many(path.clone(), entries.len(), MAX_ENTRIES));
        return;
    }
    for (index, entry) in entries.iter_mut().enumerate() {
        normalise_entry(entry, &path.index(index), unknown, errors);
    }
}

fn normalise_entry(entry: &mut Value, path: &FieldPath, unknown: &mut Vec<String>, errors: &mut Vec<FieldError>) {
    let Some(map) = entry.as_object_mut() else {
        super::shape::check(false, entry, path, "object", errors);
        return;
    };
    map.retain(|name, value| {
        let path = path.child(name);
        if !FIELDS.contains(&name.as_str()) {
            unknown.push(path.as_str().to_owned());
            return false;
        }
        if value.is_null() {
            return false;
        }
        match name.as_str() {
            "fieldsV1" => super::shape::check(value.is_object(), value, &path, "object", errors),
            "time" => match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
                Some(time) => {
                    *value = json!(super::timestamp(time));
                    true
                }
                None => super::shape::check(false, value, &path, "date-time", errors),
            },
            _ => super::shape::check(value.is_string(), value, &path, "string", errors) && value != "",
        }
    });
}
