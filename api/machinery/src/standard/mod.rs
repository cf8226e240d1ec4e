//! Kinds of Kubernetes that every server has: namespaces, events, leases, secrets, config maps, quotas, definitions of other
//! kinds, and the reviews by which clients ask who they are and what they may do. They are described like all others; what
//! Kubernetes does for them specially stands in their strategies.

mod config_map;
mod data;
mod definition;
mod event;
mod lease;
mod merging;
mod namespace;
mod resource_quota;
mod review;
mod secret;

use std::sync::Arc;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::jsonpath::{JsonPath, JsonPathError};
use crate::registry::{Column, Resource, ResourceDescription, Scope, SelectableField};
use crate::schema::{Schema, SchemaError};

pub(crate) use definition::{raw_schema, resource as definitions, simple_path};
pub(crate) use namespace::new_namespace;

/// A standard kind that cannot be described: a fault of this program.
#[derive(Debug, thiserror::Error)]
pub enum StandardKindError {
    /// Its schema.
    #[error("the schema of a standard kind cannot be used")]
    Schema(#[from] SchemaError),
    /// One of its columns or selectable fields.
    #[error("a path of a standard kind cannot be read")]
    Path(#[from] JsonPathError),
}

/// All standard kinds but the definitions of others, which have to know what else is built in.
pub(crate) fn resources() -> Result<Vec<Resource>, StandardKindError> {
    let mut all = vec![
        namespace::resource()?,
        event::core()?,
        event::events_k8s_io()?,
        lease::resource()?,
        config_map::resource()?,
        secret::resource()?,
        resource_quota::resource()?,
    ];
    all.extend(review::resources()?);
    Ok(all)
}

/// What the descriptions of standard kinds differ in.
struct Names {
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    scope: Scope,
    status_subresource: bool,
}

/// Describes a kind of Kubernetes by its Rust type.
fn describe<K: JsonSchema>(names: &Names) -> Result<ResourceDescription, StandardKindError> {
    let mut openapi = openapi_of::<K>();
    if let Some(schema) = openapi.pointer_mut(definition::RECURSIVE) {
        *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    merging::mark(names.kind, &mut openapi);
    Ok(ResourceDescription {
        group: names.group.to_owned(),
        version: "v1".to_owned(),
        kind: names.kind.to_owned(),
        list_kind: format!("{}List", names.kind),
        plural: names.plural.to_owned(),
        singular: names.singular.to_owned(),
        short_names: names.short.iter().map(ToString::to_string).collect(),
        categories: Vec::new(),
        scope: names.scope,
        schema: Arc::new(Schema::compile(&openapi)?),
        openapi: Arc::new(openapi),
        columns: vec![Column::name(), Column::age()],
        selectable_fields: Vec::new(),
        status_subresource: names.status_subresource,
        generations: false,
        nulls_are_absent: true,
        defaults_are_written: false,
    })
}

/// The OpenAPI schema of a Rust type, with everything it refers to written out in place.
pub(crate) fn openapi_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(map) = schema.as_object_mut() {
        map.remove("title");
        // of types that hold themselves
        map.remove("components");
        map.remove("$defs");
    }
    schema
}

/// Fields that can be selected by under their own names.
fn selectable(paths: &[&str]) -> Result<Vec<SelectableField>, JsonPathError> {
    paths
        .iter()
        .map(|path| {
            Ok(SelectableField {
                label: (*path).to_owned(),
                stored: (*path).to_owned(),
                path: JsonPath::parse(&format!(".{path}"))?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_standard_kind_can_be_described() {
        let resources = resources().unwrap();
        let names: Vec<String> = resources.iter().map(|resource| resource.prefix().to_owned()).collect();
        assert_eq!(
            names,
            [
                "/registry/core/namespaces/",
                "/registry/core/events/",
                "/registry/core/events/",
                "/registry/coordination.k8s.io/leases/",
                "/registry/core/configmaps/",
                "/registry/core/secrets/",
                "/registry/core/resourcequotas/",
                "/registry/authorization.k8s.io/selfsubjectaccessreviews/",
                "/registry/authorization.k8s.io/subjectaccessreviews/",
                "/registry/authorization.k8s.io/localsubjectaccessreviews/",
                "/registry/authorization.k8s.io/selfsubjectrulesreviews/",
                "/registry/authentication.k8s.io/selfsubjectreviews/",
            ]
        );
    }

    #[test]
    fn lists_and_maps_merge_as_in_kubernetes() {
        let marks = |kind: &str| {
            let resources = resources().unwrap();
            let of_kind = resources.iter().filter(|resource| resource.description.kind == kind);
            of_kind.map(|resource| resource.description.openapi.to_string()).collect::<Vec<_>>().concat()
        };
        assert!(marks("Namespace").contains(r#""x-kubernetes-list-map-keys":["type"]"#));
        // related in both forms of events, and the object that each is about
        assert_eq!(marks("Event").matches(r#""x-kubernetes-map-type":"atomic""#).count(), 4);
    }
}
