//! What a kind looks like from outside: names, scope, schema, columns, selectable fields.
//!
//! Every kind is served from a [`ResourceDescription`], and most descriptions come from a `CustomResourceDefinition`: those of
//! kinds that a program derives at build time in the same way as, later, those that users create.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use serde_json::Value;

use crate::jsonpath::{JsonPath, JsonPathError};
use crate::meta;
use crate::schema::{Schema, SchemaError};
use crate::table::age;

/// Whether objects of a kind live in namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace each.
    Namespaced,
    /// Beside the namespaces.
    Cluster,
}

/// A column of `kubectl get`. The first one names the object.
#[derive(Debug, Clone)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date` (shown as an age).
    pub type_: String,
    /// The OpenAPI format, e.g. `name` for the column that identifies the row.
    pub format: String,
    /// What the column shows.
    pub description: String,
    /// 0 is always shown, greater ones only by `-o wide`.
    pub priority: i32,
    /// Where the cell's value comes from.
    pub cell: Cell,
}

/// Where a cell's value comes from.
#[derive(Debug, Clone)]
pub enum Cell {
    /// A path in the served object. Of type `date` it is shown as an age.
    Path(JsonPath),
    /// A function of the served object; the result is shown as it is.
    Computed(fn(&Value) -> Value),
}

impl Column {
    /// A column of a CRD, or one in the same form.
    pub fn from_crd(column: &CustomResourceColumnDefinition) -> Result<Self, JsonPathError> {
        Ok(Self {
            name: column.name.clone(),
            type_: column.type_.clone(),
            format: column.format.clone().unwrap_or_default(),
            description: column.description.clone().unwrap_or_default(),
            priority: column.priority.unwrap_or_default(),
            cell: Cell::Path(JsonPath::parse(&column.json_path)?),
        })
    }

    /// The column that names the object.
    pub fn name() -> Self {
        Self {
            name: "Name".to_owned(),
            type_: "string".to_owned(),
            format: "name".to_owned(),
            description: "The object's name, unique in its namespace.".to_owned(),
            priority: 0,
            cell: Cell::Computed(|object| meta::text(object, "name").into()),
        }
    }

    /// The column that tells how long ago the object was created.
    pub fn age() -> Self {
        Self {
            name: "Age".to_owned(),
            type_: "date".to_owned(),
            format: String::new(),
            description: "How long ago the object was created.".to_owned(),
            priority: 0,
            cell: Cell::Computed(|object| age(meta::text(object, "creationTimestamp"), Timestamp::now()).into()),
        }
    }
}

/// A field that field selectors may name.
#[derive(Debug, Clone)]
pub struct SelectableField {
    /// The name that clients use in selectors, e.g. `status.binding.host`.
    pub label: String,
    /// The name under which the stored object's value is indexed; the same as `label` unless the kind is served in
    /// another form than it is stored in.
    pub stored: String,
    /// Where the value is in the stored object. A field that is not there counts as the empty string.
    pub path: JsonPath,
}

/// A description that cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// No version of the CRD is served and stored.
    #[error("CRD {crd} has no version that is both served and stored")]
    NoVersion {
        /// The CRD's name.
        crd: String,
    },
    /// The CRD's scope is not one of the two that exist.
    #[error("CRD {crd} has the scope {scope:?}; it must be Namespaced or Cluster")]
    Scope {
        /// The CRD's name.
        crd: String,
        /// What it says.
        scope: String,
    },
    /// The schema cannot be used.
    #[error("CRD {crd} has a schema that cannot be used")]
    Schema {
        /// The CRD's name.
        crd: String,
        /// Why not.
        #[source]
        source: SchemaError,
    },
    /// A printer column or a selectable field has a path that cannot be read.
    #[error("CRD {crd} names a path that cannot be read")]
    Path {
        /// The CRD's name.
        crd: String,
        /// Why not.
        #[source]
        source: JsonPathError,
    },
}

/// A kind as one version of its group serves it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "they are properties of a kind that do not depend on each other")]
pub struct ResourceDescription {
    /// The API group; empty for the core group.
    pub group: String,
    /// The version, e.g. `v1alpha1`.
    pub version: String,
    /// The kind, e.g. `VM`.
    pub kind: String,
    /// The kind of a list, e.g. `VMList`.
    pub list_kind: String,
    /// The plural name that stands in paths, e.g. `vms`.
    pub plural: String,
    /// The singular name, e.g. `vm`.
    pub singular: String,
    /// What users may type instead of the plural.
    pub short_names: Vec<String>,
    /// Groups of kinds to get together, e.g. `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub scope: Scope,
    /// What objects must look like, apart from `metadata`.
    pub schema: Arc<Schema>,
    /// The schema as clients are told it (OpenAPI v3).
    pub openapi: Arc<Value>,
    /// The columns of `kubectl get`.
    pub columns: Vec<Column>,
    /// What field selectors may name besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<SelectableField>,
    /// Whether `status` is written through its own subresource and through nothing else.
    pub status_subresource: bool,
    /// Whether `metadata.generation` counts the changes outside `metadata` and `status`.
    pub generations: bool,
    /// Whether a field that is `null` counts as absent, as it does for the kinds that are compiled into Kubernetes.
    pub nulls_are_absent: bool,
    /// Whether the defaults of the schema are written into objects, as Kubernetes does for kinds that a
    /// CustomResourceDefinition defines. Kinds that are built in apply theirs when they read a spec.
    pub defaults_are_written: bool,
}

impl ResourceDescription {
    /// The description of a CRD's stored version.
    pub fn from_crd(crd: &CustomResourceDefinition) -> Result<Self, DescriptionError> {
        let name = || crd.metadata.name.clone().unwrap_or_default();
        let mut versions = crd.spec.versions.iter();
        let version = versions
            .find(|version| version.served && version.storage)
            .ok_or_else(|| DescriptionError::NoVersion { crd: name() })?;
        Self::from_version(crd, version, raw_schema(version))
    }

    /// The description of one of a CRD's versions, whose schema is `openapi`.
    pub(crate) fn from_version(
        crd: &CustomResourceDefinition,
        version: &CustomResourceDefinitionVersion,
        openapi: Value,
    ) -> Result<Self, DescriptionError> {
        let name = crd.metadata.name.clone().unwrap_or_default();
        let spec = &crd.spec;
        let scope = match spec.scope.as_str() {
            "Namespaced" => Scope::Namespaced,
            "Cluster" => Scope::Cluster,
            other => {
                return Err(DescriptionError::Scope { crd: name, scope: other.to_owned() });
            }
        };
        let schema =
            Schema::compile(&openapi).map_err(|source| DescriptionError::Schema { crd: name.clone(), source })?;
        let path_error = |source| DescriptionError::Path { crd: name.clone(), source };
        let names = &spec.names;
        Ok(Self {
            group: spec.group.clone(),
            version: version.name.clone(),
            kind: names.kind.clone(),
            list_kind: names.list_kind.clone().unwrap_or_else(|| format!("{}List", names.kind)),
            plural: names.plural.clone(),
            singular: names.singular.clone().unwrap_or_else(|| names.kind.to_lowercase()),
            short_names: names.short_names.clone().unwrap_or_default(),
            categories: names.categories.clone().unwrap_or_default(),
            scope,
            schema: Arc::new(schema),
            openapi: Arc::new(openapi),
            columns: columns(version).map_err(path_error)?,
            selectable_fields: selectable_fields(version).map_err(path_error)?,
            status_subresource: version.subresources.as_ref().is_some_and(|subresources| subresources.status.is_some()),
            generations: true,
            nulls_are_absent: false,
            defaults_are_written: false,
        })
    }

    /// `GROUP/VERSION`, or `v1` for the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether objects live in namespaces.
    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }
}

fn raw_schema(version: &CustomResourceDefinitionVersion) -> Value {
    version
        .schema
        .as_ref()
        .and_then(|validation| validation.open_api_v3_schema.as_ref())
        .and_then(|schema| serde_json::to_value(schema).ok())
        .unwrap_or_else(|| serde_json::json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}))
}

/// The columns of a CRD's version: the name first, then what it declares; without any, the age alone.
fn columns(version: &CustomResourceDefinitionVersion) -> Result<Vec<Column>, JsonPathError> {
    let mut columns = vec![Column::name()];
    match version.additional_printer_columns.as_deref() {
        None | Some([]) => columns.push(Column::age()),
        Some(declared) => {
            for column in declared {
                columns.push(Column::from_crd(column)?);
            }
        }
    }
    Ok(columns)
}

fn selectable_fields(version: &CustomResourceDefinitionVersion) -> Result<Vec<SelectableField>, JsonPathError> {
    version
        .selectable_fields
        .iter()
        .flatten()
        .map(|field| {
            let label = field.json_path.trim_start_matches('.').to_owned();
            Ok(SelectableField { stored: label.clone(), label, path: JsonPath::parse(&field.json_path)? })
        })
        .collect()
}
