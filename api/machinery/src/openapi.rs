//! OpenAPI v3: an index at `/openapi/v3` and a document for each version of a group. kubectl reads from it whether writes
//! are validated by the server (`fieldValidation`), and explains fields with it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::OnceLock;

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value, json};

use crate::registry::{Resource, ResourceDescription, Resources};
use crate::standard::openapi_of;

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The documents, each built when it is asked for first.
#[derive(Default)]
pub(crate) struct OpenApi {
    documents: OnceLock<BTreeMap<String, Bytes>>,
}

impl OpenApi {
    /// The document at a path, as JSON; `None` if there is none.
    pub(crate) fn document(&self, resources: &Resources, path: &str) -> Option<Bytes> {
        let path = path.strip_prefix("/openapi/v3")?;
        self.documents.get_or_init(|| documents(resources)).get(path).cloned()
    }
}

/// All documents by their paths below `/openapi/v3`.
fn documents(resources: &Resources) -> BTreeMap<String, Bytes> {
    let mut paths = Map::new();
    let mut documents = BTreeMap::new();
    for group in resources.groups().chain([""]) {
        for version in resources.versions(group) {
            let Some(document) = group_version(resources, group, version) else {
                continue;
            };
            let text = document.to_string();
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            let root = root(group, version);
            let url = format!("/openapi/v3/{root}?hash={:016X}", hasher.finish());
            documents.insert(format!("/{root}"), text.into());
            paths.insert(root, json!({"serverRelativeURL": url}));
        }
    }
    documents.insert(String::new(), json!({"paths": paths}).to_string().into());
    documents
}

fn root(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_version(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for resource in resources.kinds(group, version)? {
        let description = &resource.description;
        schemas.insert(schema_name(description), schema(description));
        add_paths(&mut paths, resource);
    }
    schemas.insert(OBJECT_META.to_owned(), openapi_of::<ObjectMeta>());
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": root(group, version), "version": version},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn schema_name(description: &ResourceDescription) -> String {
    let group = if description.group.is_empty() { "core" } else { &description.group };
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{}.{}", reversed.join("."), description.version, description.kind)
}

fn group_version_kind(description: &ResourceDescription) -> Value {
    json!({"group": description.group, "version": description.version, "kind": description.kind})
}

/// The kind's schema with what every object has.
fn schema(description: &ResourceDescription) -> Value {
    let mut schema = (*description.openapi).clone();
    schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(description)]);
    for (field, text) in [("apiVersion", "The group and version of this kind."), ("kind", "The kind of this object.")] {
        schema["properties"][field] = json!({"type": "string", "description": text});
    }
    schema["properties"]["metadata"] = json!({
        "description": "Standard object metadata.",
        "allOf": [{"$ref": format!("#/components/schemas/{OBJECT_META}")}],
    });
    schema
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource) {
    let description = &resource.description;
    let namespace = if description.is_namespaced() { "/namespaces/{namespace}" } else { "" };
    let collection = format!("/{}{namespace}/{}", root(&description.group, &description.version), description.plural);
    let object = format!("{collection}/{{name}}");
    let operation = |action: &str, parameters: Value| {
        json!({
            "operationId": format!("{action}{}", description.kind),
            "parameters": parameters,
            "responses": {"default": {
                "description": "The object, or a Status",
                "content": {"application/json": {"schema": {
                    "$ref": format!("#/components/schemas/{}", schema_name(description)),
                }}},
            }},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": group_version_kind(description),
        })
    };
    paths.insert(
        collection,
        json!({
            "get": operation("list", parameters(&["labelSelector", "fieldSelector", "resourceVersion", "watch"])),
            "post": operation("post", parameters(&WRITE_PARAMETERS)),
        }),
    );
    let whole = json!({
        "get": operation("get", parameters(&["resourceVersion"])),
        "put": operation("put", parameters(&WRITE_PARAMETERS)),
        "patch": operation("patch", parameters(&WRITE_PARAMETERS)),
        "delete": operation("delete", parameters(&["dryRun", "gracePeriodSeconds", "propagationPolicy"])),
    });
    if description.status_subresource {
        let mut status = whole.clone();
        if let Some(map) = status.as_object_mut() {
            map.remove("delete");
        }
        paths.insert(format!("{object}/status"), status);
    }
    paths.insert(object, whole);
}

const WRITE_PARAMETERS: [&str; 2] = ["dryRun", "fieldValidation"];

fn parameters(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| {
            let type_ = match *name {
                "gracePeriodSeconds" => "integer",
                "watch" => "boolean",
                _ => "string",
            };
            json!({"name": name, "in": "query", "schema": {"type": type_, "uniqueItems": true}})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_finds_that_the_server_validates_fields() {
        let resources = Resources::new(crate::standard::resources().unwrap()).unwrap();
        let openapi = OpenApi::default();
        let read = |path: &str| -> Option<Value> {
            openapi.document(&resources, path).map(|document| serde_json::from_slice(&document).unwrap())
        };
        let index = read("/openapi/v3").unwrap();
        let url = index["paths"]["apis/coordination.k8s.io/v1"]["serverRelativeURL"].as_str().unwrap();
        let document = read(url.split('?').next().unwrap()).unwrap();
        let path = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}";
        let patch = &document["paths"][path]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Lease");
        assert!(patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "fieldValidation"));
        let lease = &document["components"]["schemas"]["io.k8s.coordination.v1.Lease"];
        assert_eq!(lease["properties"]["spec"]["properties"]["leaseDurationSeconds"]["type"], "integer");
    }
}
