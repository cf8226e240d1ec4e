//! From a definition to the resources that serve its kind: one for each version that is served, all over the same stored
//! objects. Versions differ in their schemas alone: conversion is `None`, which rewrites `apiVersion`.

use std::sync::Arc;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames;
use serde_json::{Value, json};

use super::Crd;
use super::scale::Scale;
use crate::cache::Normaliser;
use crate::registry::{Definition, DescriptionError, Resource, ResourceDescription};
use crate::schema::Schema;
use crate::standard::raw_schema;
use crate::strategy::Conversion;

/// The kind of a definition, ready to be served.
pub(super) struct CustomKind {
    pub(super) resources: Vec<Arc<Resource>>,
    /// What the cached objects depend on. Where it changes, they are read from storage anew.
    pub(super) shape: Value,
}

/// Builds the resources of a definition under the names that it was given.
pub(super) fn build(crd: &Crd, names: &CustomResourceDefinitionNames) -> Result<CustomKind, DescriptionError> {
    let mut typed = crd.typed.clone();
    typed.spec.names = names.clone();
    let mut described = Vec::new();
    let mut stored = None;
    for (index, version) in typed.spec.versions.iter().enumerate() {
        let openapi = raw_schema(&crd.object, index).cloned().unwrap_or_else(|| json!({"type": "object"}));
        let mut description = ResourceDescription::from_version(&typed, version, openapi)?;
        description.defaults_are_written = true;
        if version.storage {
            stored = Some((description.api_version(), description.schema.clone(), description.openapi.clone()));
        }
        if version.served {
            let subresources = version.subresources.as_ref();
            described.push((description, subresources.and_then(|subresources| subresources.scale.clone())));
        }
    }
    let Some((api_version, schema, openapi)) = stored else {
        return Err(DescriptionError::NoVersion { crd: crd.name().to_owned() });
    };
    let fields: Vec<&str> = described
        .iter()
        .flat_map(|(description, _)| &description.selectable_fields)
        .map(|field| field.label.as_str())
        .collect();
    let shape = json!({
        "uid": crd.uid(), "scope": typed.spec.scope, "version": api_version, "schema": *openapi, "fields": fields,
    });
    let definition = Definition { name: crd.name().to_owned(), uid: crd.uid().to_owned() };
    let form = Form { api_version, schema };
    let normaliser: Normaliser = {
        let form = form.clone();
        Arc::new(move |object| form.apply(object))
    };
    let resources = described.into_iter().map(|(description, scale)| {
        let served = Form { api_version: description.api_version(), schema: description.schema.clone() };
        let mut resource = Resource::new(description).defined_by(definition.clone(), normaliser.clone());
        if served.api_version != form.api_version {
            resource = resource.converted(Rewrite { served, stored: form.api_version.clone() });
        }
        if let Some(scale) = scale {
            resource = resource.subresource("scale", Scale::new(&scale));
        }
        Arc::new(resource)
    });
    Ok(CustomKind { resources: resources.collect(), shape })
}

/// An object as a version shows it: with its fields alone, and with its defaults.
#[derive(Clone)]
struct Form {
    api_version: String,
    schema: Arc<Schema>,
}

impl Form {
    fn apply(&self, object: &mut Value) {
        set_api_version(object, &self.api_version);
        self.schema.prune(object);
        self.schema.apply_defaults(object);
    }
}

fn set_api_version(object: &mut Value, api_version: &str) {
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".to_owned(), api_version.into());
    }
}

/// Serves a version that is not the stored one.
struct Rewrite {
    served: Form,
    stored: String,
}

impl Conversion for Rewrite {
    fn to_served(&self, mut stored: Value) -> Value {
        self.served.apply(&mut stored);
        stored
    }

    fn to_stored(&self, mut served: Value) -> Value {
        set_api_version(&mut served, &self.stored);
        served
    }
}
