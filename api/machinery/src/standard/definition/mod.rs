//! CustomResourceDefinitions (apiextensions.k8s.io/v1): kinds that come and go at run time. What is here says what a
//! definition may be; `crate::custom` serves the kinds.

mod structural;
#[cfg(test)]
mod tests;
mod validate;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::{Names, StandardKindError, describe};
use crate::custom::{CLEANUP_FINALIZER, set_condition};
use crate::meta;
use crate::registry::{Cell, Column, DEFINITIONS, DEFINITIONS_GROUP, Resource, Scope};
use crate::status::{FieldError, FieldPath};
use crate::strategy::{Context, Strategy};

pub(crate) use validate::{raw_schema, simple_path};

/// Serves definitions, but none of the kinds that are `built_in` (by group and plural).
pub(crate) fn resource(built_in: Vec<(String, String)>) -> Result<Resource, StandardKindError> {
    let mut description = describe::<CustomResourceDefinition>(&Names {
        group: DEFINITIONS_GROUP,
        kind: "CustomResourceDefinition",
        plural: DEFINITIONS,
        singular: "customresourcedefinition",
        short: &["crd", "crds"],
        scope: Scope::Cluster,
        status_subresource: true,
    })?;
    description.categories = vec!["api-extensions".to_owned()];
    description.generations = true;
    let created = Column {
        name: "Created At".to_owned(),
        type_: "date".to_owned(),
        format: String::new(),
        description: "When the definition was created.".to_owned(),
        priority: 0,
        cell: Cell::Computed(|object| meta::text(object, "creationTimestamp").into()),
    };
    description.columns = vec![Column::name(), created];
    Ok(Resource::new(description).strategy(DefinitionStrategy { built_in }))
}

/// Where schemas stand in a definition. They hold each other without end, so they are checked by hand.
pub(super) const RECURSIVE: &str =
    "/properties/spec/properties/versions/items/properties/schema/properties/openAPIV3Schema";

struct DefinitionStrategy {
    built_in: Vec<(String, String)>,
}

fn typed(object: &Value) -> Result<CustomResourceDefinition, FieldError> {
    serde_json::from_value(object.clone())
        .map_err(|error| FieldError::invalid(FieldPath::new("spec"), "", &format!("cannot be read: {error}")))
}

/// What follows from the rest, as Kubernetes writes it out.
fn set_defaults(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) else { return };
    let Some(kind) = names.get("kind").and_then(Value::as_str).map(str::to_owned) else { return };
    names.entry("singular").or_insert_with(|| kind.to_lowercase().into());
    names.entry("listKind").or_insert_with(|| format!("{kind}List").into());
}

fn storage_version(object: &Value) -> Option<Value> {
    let versions = object.pointer("/spec/versions").and_then(Value::as_array)?;
    versions.iter().find(|version| version["storage"] == true).map(|version| version["name"].clone())
}

impl DefinitionStrategy {
    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let crd = match typed(object) {
            Ok(crd) => crd,
            Err(error) => return vec![error],
        };
        let mut errors = validate::check(object, &crd);
        let shadows = |(group, plural): &(String, String)| *group == crd.spec.group && *plural == crd.spec.names.plural;
        if self.built_in.iter().any(shadows) {
            let why = format!(
                "{}.{} is built into this server: it needs no CustomResourceDefinition and takes none",
                crd.spec.names.plural, crd.spec.group
            );
            errors.push(FieldError::forbidden(FieldPath::new("metadata.name"), &why));
        }
        if let Some(Ok(old)) = old.map(typed) {
            errors.extend(validate::check_update(&crd, &old));
            errors.extend(validate::check_stored_versions(&crd));
        }
        errors
    }
}

impl Strategy for DefinitionStrategy {
    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        set_defaults(object);
        object["status"] = json!({"storedVersions": storage_version(object).into_iter().collect::<Vec<_>>()});
    }

    fn prepare_for_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        set_defaults(new);
        if let Some(version) = storage_version(new)
            && let Some(stored) = new.pointer_mut("/status/storedVersions").and_then(Value::as_array_mut)
            && !stored.contains(&version)
        {
            stored.push(version);
        }
        // only the server knows when the last object is gone
        if meta::is_terminating(old)
            && meta::finalizers(old).contains(&CLEANUP_FINALIZER)
            && !meta::finalizers(new).contains(&CLEANUP_FINALIZER)
        {
            add_finalizer(new);
        }
    }

    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        self.validate(object, None)
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        // one that goes is not held up by a rule that is newer than it
        if meta::is_terminating(old) && meta::same_intent(new, old) {
            return Vec::new();
        }
        self.validate(new, Some(old))
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        match typed(new) {
            Ok(crd) => validate::check_stored_versions(&crd),
            Err(error) => vec![error],
        }
    }

    fn warnings(&self, _: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| meta::same_intent(new, old)) {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        let versions = new.pointer("/spec/versions").and_then(Value::as_array).map_or(0, Vec::len);
        for index in 0..versions {
            let Some(schema) = raw_schema(new, index) else { continue };
            let at = format!("spec.versions[{index}].schema.openAPIV3Schema");
            let unknown = structural::unknown_keywords(schema);
            warnings.extend(unknown.iter().map(|path| format!("unknown field \"{at}.{path}\"")));
            if structural::has_rules(schema) {
                warnings.push(format!("{at}: this server does not enforce x-kubernetes-validations"));
            }
        }
        warnings
    }

    fn holds_deletion(&self, object: &Value) -> bool {
        // the objects go first; from then on the finalizer holds it
        !meta::is_terminating(object)
    }

    fn prepare_for_deletion(&self, object: &mut Value) {
        add_finalizer(object);
        let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        set_condition(object, "Terminating", true, "InstanceDeletionPending", message, Timestamp::now());
    }
}

fn add_finalizer(object: &mut Value) {
    let mut finalizers: Vec<Value> = meta::finalizers(object).into_iter().map(Value::from).collect();
    if !finalizers.iter().any(|name| name == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.into());
    }
    meta::set(object, "finalizers", Some(finalizers.into()));
}
