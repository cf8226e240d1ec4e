//! What happens to an object between its arrival and its storage: the pure part of every create and update, the same
//! for all kinds. Nothing here reads or writes anything.

use serde_json::{Value, json};

use super::admit::Admitted;
use super::resource::Resource;
use crate::apply::{self, Configuration, Ledger, Writer};
use crate::meta;
use crate::status::{ApiError, FieldError, FieldPath};
use crate::strategy::Context;

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Everything but the status (for kinds whose status is a subresource).
    Main,
    /// The status alone.
    Status,
    /// Both: what a subresource's handler does.
    Whole,
}

/// How it is known who owns what after a write.
pub(crate) enum Ownership<'a> {
    /// The writer owns what it changes.
    Changes,
    /// It is noted in the object already.
    Noted,
    /// The writer owns what it applies.
    Applies {
        config: &'a Configuration,
        /// Who owned what before.
        ledger: Box<Ledger>,
        /// Whether to take what others own.
        force: bool,
    },
}

/// An object that is ready to be stored, in its stored form and without a resource version.
pub(crate) struct Prepared {
    pub(crate) object: Value,
    pub(crate) warnings: Vec<String>,
}

/// A new object. Its name and namespace are decided already.
pub(crate) fn create(
    resource: &Resource,
    ctx: &Context<'_>,
    writer: &Writer<'_>,
    admitted: Admitted,
    ownership: &Ownership<'_>,
    uid: &str,
) -> Result<Prepared, ApiError> {
    let Admitted { object, mut warnings, mut errors } = admitted;
    let description = &resource.description;
    let mut object = resource.to_stored(object);
    for (field, value) in [
        ("uid", Some(json!(uid))),
        ("creationTimestamp", Some(json!(writer.now))),
        ("generation", description.generations.then(|| json!(1))),
        ("deletionTimestamp", None),
        ("deletionGracePeriodSeconds", None),
        ("resourceVersion", None),
    ] {
        meta::set(&mut object, field, value);
    }
    if description.status_subresource
        && let Some(map) = object.as_object_mut()
    {
        map.remove("status");
    }
    if matches!(ownership, Ownership::Changes) {
        if resource.conversion.is_some() {
            let mut served = resource.to_served(object.clone());
            apply::created(writer, &resource.type_, &mut served);
            take(&mut object, &served, "metadata");
        } else {
            apply::created(writer, &resource.type_, &mut object);
        }
    }
    resource.strategy.prepare_for_create(ctx, &mut object);

    errors.extend(meta::validate(&object, &|name| resource.strategy.validate_name(name)));
    errors.extend(validate_schema(resource, &object));
    if errors.is_empty() {
        errors = resource.strategy.validate_create(ctx, &object);
    }
    if !errors.is_empty() {
        return Err(refusal(resource, ctx, errors));
    }
    warnings.extend(resource.strategy.warnings(ctx, &object, None));
    Ok(Prepared { object, warnings })
}

/// An update of `old`, which is in its stored form.
pub(crate) fn update(
    resource: &Resource,
    ctx: &Context<'_>,
    writer: &Writer<'_>,
    part: Part,
    admitted: Admitted,
    ownership: Ownership<'_>,
    old: &Value,
) -> Result<Prepared, ApiError> {
    let Admitted { object, mut warnings, mut errors } = admitted;
    let description = &resource.description;
    let mut new = resource.to_stored(object);
    if description.status_subresource {
        drop_null_status(&mut new);
    }
    match part {
        Part::Main => {
            if description.status_subresource {
                take(&mut new, old, "status");
            }
        }
        Part::Status => {
            // neither metadata nor spec can be written here: whatever else was sent is the old object's
            let mut kept = old.clone();
            take(&mut kept, &new, "status");
            keep_protected_status(&mut kept, old, resource.strategy.protected_status());
            new = kept;
        }
        Part::Whole => {}
    }
    keep_system_metadata(&mut new, old);
    if resource.conversion.is_some() {
        let mut served = resource.to_served(new.clone());
        note_owners(resource, writer, ownership, &resource.to_served(old.clone()), &mut served)?;
        take(&mut new, &served, "metadata");
    } else {
        note_owners(resource, writer, ownership, old, &mut new)?;
    }
    match part {
        Part::Main => resource.strategy.prepare_for_update(ctx, &mut new, old),
        Part::Status => resource.strategy.prepare_for_status_update(ctx, &mut new, old),
        Part::Whole => {}
    }
    if description.generations && !meta::same_intent(&new, old) {
        bump_generation(&mut new, old);
    }

    errors.extend(meta::validate(&new, &|_| Ok(())));
    errors.extend(meta::validate_update(&new, old));
    errors.extend(validate_schema(resource, &new));
    if errors.is_empty() {
        errors = match part {
            Part::Main => resource.strategy.validate_update(ctx, &new, old),
            Part::Status => resource.strategy.validate_status_update(ctx, &new, old),
            Part::Whole => Vec::new(),
        };
    }
    if !errors.is_empty() {
        return Err(refusal(resource, ctx, errors));
    }
    warnings.extend(resource.strategy.warnings(ctx, &new, Some(old)));
    Ok(Prepared { object: new, warnings })
}

/// Notes in the updated object who owns what. Both objects are in their served form.
fn note_owners(
    resource: &Resource,
    writer: &Writer<'_>,
    ownership: Ownership<'_>,
    old: &Value,
    new: &mut Value,
) -> Result<(), ApiError> {
    match ownership {
        Ownership::Applies { config, ledger, force } => ledger.settle(writer, &resource.type_, config, force, old, new),
        Ownership::Noted => Ok(()),
        Ownership::Changes => {
            apply::updated(writer, &resource.type_, old, new);
            Ok(())
        }
    }
}

/// All that is wrong with an object. What it keeps to itself is not shown.
fn refusal(resource: &Resource, ctx: &Context<'_>, mut errors: Vec<FieldError>) -> ApiError {
    let confidential = resource.strategy.confidential_fields();
    for error in &mut errors {
        let root = error.field.as_str().split(['.', '[']).next().unwrap_or_default();
        if error.value.is_some() && confidential.contains(&root) {
            error.value = Some(json!("<redacted>"));
            // what follows the rule may quote the value
            error.detail.truncate(error.detail.find(':').unwrap_or(error.detail.len()));
        }
    }
    ApiError::invalid(&resource.description.group, &resource.description.kind, ctx.name, &errors)
}

/// The error of an update that names no resource version, for a kind that demands one.
pub(crate) fn version_required(resource: &Resource, name: &str) -> ApiError {
    let description = &resource.description;
    let error = FieldError::invalid(FieldPath::new("metadata.resourceVersion"), 0, "must be specified for an update");
    ApiError::invalid(&description.group, &description.kind, name, &[error])
}

/// Whether two objects are the same, the resource version and the times of managed fields aside.
pub(crate) fn is_unchanged(new: &Value, old: &Value) -> bool {
    let parts = |object: &Value| object.as_object().map_or(0, serde_json::Map::len);
    parts(new) == parts(old)
        && new.as_object().into_iter().flatten().all(|(key, value)| match (key.as_str(), old.get(key)) {
            ("metadata", Some(before)) => same_metadata(value, before),
            (_, before) => before == Some(value),
        })
}

fn same_metadata(new: &Value, old: &Value) -> bool {
    fn fields(metadata: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let fields = metadata.as_object().into_iter().flatten();
        fields.filter(|(key, _)| !matches!(key.as_str(), "resourceVersion" | "managedFields"))
    }
    fields(new).eq(fields(old)) && apply::same_but_for_times(new.get("managedFields"), old.get("managedFields"))
}

/// Makes `field` of `object` what it is in `source`.
fn take(object: &mut Value, source: &Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        match source.get(field) {
            Some(value) => map.insert(field.to_owned(), value.clone()),
            None => map.remove(field),
        };
    }
}

/// A status that is `null` is none. CRDs that are derived from Rust types allow it, and as a value it would slip past
/// whatever looks into the status.
fn drop_null_status(object: &mut Value) {
    if let Some(map) = object.as_object_mut()
        && map.get("status").is_some_and(Value::is_null)
    {
        map.remove("status");
    }
}

/// The fields of the status that only subresources write stay what they are, also where the new status is gone.
fn keep_protected_status(new: &mut Value, old: &Value, fields: &[&str]) {
    let Some(object) = new.as_object_mut() else { return };
    for field in fields {
        let kept = old.get("status").and_then(|status| status.get(field));
        if kept.is_none() && !object.contains_key("status") {
            continue;
        }
        // a status that is no object is left for validation to refuse
        if let Some(status) = object.entry("status").or_insert_with(|| json!({})).as_object_mut() {
            match kept {
                Some(kept) => status.insert((*field).to_owned(), kept.clone()),
                None => status.remove(*field),
            };
        }
    }
}

/// What only the server writes in metadata stays as it is, whatever a client sent.
fn keep_system_metadata(new: &mut Value, old: &Value) {
    for field in [
        "name",
        "namespace",
        "generateName",
        "uid",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
    ] {
        meta::set(new, field, meta::get(old, field).cloned());
    }
}

/// The next generation.
pub(crate) fn bump_generation(new: &mut Value, old: &Value) {
    let generation = meta::get(old, "generation").and_then(Value::as_i64).unwrap_or_default();
    meta::set(new, "generation", Some(json!(generation.saturating_add(1))));
}

fn validate_schema(resource: &Resource, stored: &Value) -> Vec<FieldError> {
    let schema = &resource.description.schema;
    if resource.conversion.is_some() {
        schema.validate(&resource.to_served(stored.clone()))
    } else {
        schema.validate(stored)
    }
}
