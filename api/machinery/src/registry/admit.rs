//! The gate that every object from a client passes first: it must be of the kind that it is sent to, its metadata gets
//! its normal form, and what the schema does not know is removed and refused, warned of or ignored, as the client chose.

use serde_json::Value;

use super::description::ResourceDescription;
use crate::decode::Decoded;
use crate::meta;
use crate::status::{ApiError, FieldError};

/// What to do about unknown and duplicate fields (`fieldValidation` in a write's query).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    /// Drop them silently.
    Ignore,
    /// Drop them and say so in a `Warning` header.
    #[default]
    Warn,
    /// Refuse the write.
    Strict,
}

/// An object that passed the gate, in its served form.
pub(crate) struct Admitted {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
    /// Fields of the metadata whose type is wrong; to be told with what validation finds.
    pub(crate) errors: Vec<FieldError>,
}

pub(crate) fn admit(
    description: &ResourceDescription,
    body: Decoded,
    mode: FieldValidation,
) -> Result<Admitted, ApiError> {
    let Decoded { value: mut object, duplicates } = body;
    check_kind(description, &mut object)?;
    let mut unknown = Vec::new();
    let errors = meta::normalise(&mut object, &mut unknown);
    if description.nulls_are_absent {
        remove_nulls(&mut object);
    }
    let mut pruned = description.schema.prune(&mut object);
    pruned.append(&mut unknown);
    if description.defaults_are_written {
        description.schema.apply_defaults(&mut object);
    } else {
        description.schema.drop_nulls(&mut object);
    }
    let problems: Vec<String> = duplicates
        .iter()
        .map(|path| format!("duplicate field {path:?}"))
        .chain(pruned.iter().map(|path| format!("unknown field {path:?}")))
        .collect();
    let warnings = match mode {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => problems,
        FieldValidation::Strict if problems.is_empty() => Vec::new(),
        FieldValidation::Strict => {
            let (kind, version) = (&description.kind, &description.version);
            return Err(ApiError::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
                problems.join(", ")
            )));
        }
    };
    Ok(Admitted { object, warnings, errors })
}

fn check_kind(description: &ResourceDescription, object: &mut Value) -> Result<(), ApiError> {
    let Some(map) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!("the body must be a {} object", description.kind)));
    };
    for (field, expected) in [("apiVersion", description.api_version()), ("kind", description.kind.clone())] {
        match map.get(field) {
            None | Some(Value::Null) => {
                map.insert(field.to_owned(), expected.into());
            }
            Some(Value::String(given)) if *given == expected => {}
            Some(given) => {
                let what = if field == "kind" { "kind" } else { "API version" };
                return Err(ApiError::bad_request(format!(
                    "the {what} in the data ({}) does not match the expected {what} ({expected})",
                    given.as_str().map_or_else(|| given.to_string(), str::to_owned)
                )));
            }
        }
    }
    Ok(())
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, entry| !entry.is_null());
            map.values_mut().for_each(remove_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}
