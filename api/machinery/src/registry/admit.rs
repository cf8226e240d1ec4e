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
#[derive(Clone)]
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
    complete(description, &mut object);
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

/// Writes the defaults into an object of a kind whose defaults are written; of others, what is `null` goes where a default is meant.
pub(crate) fn complete(description: &ResourceDescription, object: &mut Value) {
    if description.defaults_are_written {
        description.schema.apply_defaults(object);
    } else {
        description.schema.drop_nulls(object);
    }
}

/// A configuration that passed the gate.
pub(crate) struct AdmittedConfiguration {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// The gate for configurations. They are partial, but they say of what kind they are, and every field that they mention is one of the kind's.
pub(crate) fn admit_configuration(
    description: &ResourceDescription,
    body: Decoded,
    mode: FieldValidation,
) -> Result<AdmittedConfiguration, ApiError> {
    let Decoded { value: mut object, duplicates } = body;
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version != description.api_version() || kind != description.kind {
        return Err(ApiError::bad_request(format!("invalid object type: {version}, Kind={kind}")));
    }
    if meta::get(&object, "managedFields").is_some_and(|managed| !managed.is_null()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let mut unknown = Vec::new();
    let errors = meta::normalise(&mut object, &mut unknown);
    if !errors.is_empty() {
        let name = meta::text(&object, "name").to_owned();
        return Err(ApiError::invalid(&description.group, &description.kind, &name, &errors));
    }
    if description.nulls_are_absent {
        remove_nulls(&mut object);
    }
    unknown.extend(description.schema.prune(&mut object));
    description.schema.drop_nulls(&mut object);
    if !unknown.is_empty() {
        let lines: Vec<String> = unknown.iter().map(|path| format!(".{path}: field not declared in schema")).collect();
        return Err(untyped(description, &object, &lines));
    }
    let warnings: Vec<String> = match mode {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect(),
        FieldValidation::Strict if duplicates.is_empty() => Vec::new(),
        FieldValidation::Strict => {
            let paths: Vec<String> = duplicates.iter().map(|path| format!("duplicate field {path:?}")).collect();
            return Err(ApiError::bad_request(format!("error strict decoding YAML: {}", paths.join(", "))));
        }
    };
    Ok(AdmittedConfiguration { object, warnings })
}

/// The error of a configuration that is not of the kind's types.
pub(crate) fn untyped(description: &ResourceDescription, object: &Value, problems: &[String]) -> ApiError {
    let problems = match problems {
        [only] => only.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let (namespace, name) = (meta::text(object, "namespace"), meta::text(object, "name"));
    let (version, kind) = (description.api_version(), &description.kind);
    ApiError::bad_request(format!(
        "failed to create typed patch object ({namespace}/{name}; {version}, Kind={kind}): {problems}"
    ))
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
