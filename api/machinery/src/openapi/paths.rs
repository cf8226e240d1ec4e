//! The requests that can be made, as OpenAPI 3 describes them.

use serde_json::{Map, Value, json};

use super::root;
use super::schemas::{group_version_kind, name, reference, shared_reference};
use crate::patch::{JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH};
use crate::registry::{Resource, ResourceDescription};
use crate::strategy::Method;

/// The parameters of lists and watches, with their types.
const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const GET: &[(&str, &str)] = &[("resourceVersion", "string")];
const WRITE: &[(&str, &str)] = &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: &[(&str, &str)] =
    &[("dryRun", "string"), ("gracePeriodSeconds", "integer"), ("propagationPolicy", "string")];

const JSON: &[&str] = &["application/json", "application/yaml"];

/// Adds the paths of a kind.
pub(super) fn add(paths: &mut Map<String, Value>, resource: &Resource) {
    let description = &resource.description;
    let (kind, list_kind) = (name(description, &description.kind), name(description, &description.list_kind));
    let (object, list, status) = (reference(&kind), reference(&list_kind), shared_reference("Status"));
    let group_version = root(&description.group, &description.version);
    let plural = &description.plural;
    let operation =
        |action: &str, verb: &str, parameters: &[(&str, &str)], body: Option<(&Value, &[&str])>, answer: &Value| {
            Operation { description, action, verb, parameters, body, answer }.to_json()
        };
    let patch_types: &[&str] = if description.nulls_are_absent {
        &[JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH]
    } else {
        &[JSON_PATCH, MERGE_PATCH]
    };
    let patch = shared_reference("Patch");
    let options = shared_reference("DeleteOptions");

    let (namespace, of_namespace): (_, &[&str]) =
        if description.is_namespaced() { ("/namespaces/{namespace}", &["namespace"]) } else { ("", &[]) };
    if description.is_namespaced() {
        let everywhere = json!({"get": operation("list", "listEverywhere", LIST, None, &list)});
        paths.insert(format!("/{group_version}/{plural}"), everywhere);
    }
    let collection = format!("/{group_version}{namespace}/{plural}");
    let mut all = json!({
        "get": operation("list", "list", LIST, None, &list),
        "post": operation("post", "create", WRITE, Some((&object, JSON)), &object),
        "delete": operation("deletecollection", "deleteCollection", DELETE, Some((&options, JSON)), &status),
    });
    all["parameters"] = path_parameters(of_namespace);
    paths.insert(collection.clone(), all);

    let named = [of_namespace, &["name"]].concat();
    let path = format!("{collection}/{{name}}");
    let mut one = json!({
        "get": operation("get", "read", GET, None, &object),
        "put": operation("put", "replace", WRITE, Some((&object, JSON)), &object),
        "patch": operation("patch", "patch", PATCH, Some((&patch, patch_types)), &object),
        "delete": operation("delete", "delete", DELETE, Some((&options, JSON)), &status),
    });
    one["parameters"] = path_parameters(&named);
    paths.insert(path.clone(), one);

    if description.status_subresource {
        let mut own = json!({
            "get": operation("get", "readStatus", GET, None, &object),
            "put": operation("put", "replaceStatus", WRITE, Some((&object, JSON)), &object),
            "patch": operation("patch", "patchStatus", PATCH, Some((&patch, patch_types)), &object),
        });
        own["parameters"] = path_parameters(&named);
        paths.insert(format!("{path}/status"), own);
    }
    let objects = resource.subresources.iter().map(|(name, handler)| (name, handler.methods()));
    let streams = resource.streams.iter().map(|(name, handler)| (name, handler.methods()));
    for (subresource, methods) in objects.chain(streams) {
        let mut own = json!({"parameters": path_parameters(&named)});
        for method in methods {
            let (key, action) = match method {
                Method::Get => ("get", "connect"),
                Method::Create => ("post", "post"),
                Method::Update => ("put", "put"),
                Method::Patch => ("patch", "patch"),
            };
            let verb = format!("{}{}", method.verb(), capitalised(subresource));
            own[key] = operation(action, &verb, &[], None, &status);
        }
        paths.insert(format!("{path}/{subresource}"), own);
    }
}

struct Operation<'a> {
    description: &'a ResourceDescription,
    /// As Kubernetes names it in `x-kubernetes-action`.
    action: &'a str,
    /// What makes the operation's id, together with the kind.
    verb: &'a str,
    parameters: &'a [(&'a str, &'a str)],
    /// The schema of the body, and its media types.
    body: Option<(&'a Value, &'a [&'a str])>,
    answer: &'a Value,
}

impl Operation<'_> {
    fn to_json(&self) -> Value {
        let description = self.description;
        let parameters: Vec<Value> = self
            .parameters
            .iter()
            .map(|(name, type_)| json!({"name": name, "in": "query", "schema": {"type": type_, "uniqueItems": true}}))
            .collect();
        let id = [&description.group, &description.version].map(|part| capitalised(part)).concat();
        let mut operation = json!({
            "operationId": format!("{}{id}{}", self.verb, description.kind),
            "parameters": parameters,
            "responses": {"200": {
                "description": "OK",
                "content": {"application/json": {"schema": self.answer}},
            }},
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": group_version_kind(description, &description.kind),
        });
        if let Some((schema, types)) = self.body {
            let content: Map<String, Value> =
                types.iter().map(|type_| ((*type_).to_owned(), json!({"schema": schema}))).collect();
            operation["requestBody"] = json!({"content": content});
        }
        operation
    }
}

fn path_parameters(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect()
}

/// `ucloud.ungleich.ch` as `UcloudUngleichCh`.
fn capitalised(text: &str) -> String {
    let words = text.split(['.', '-']);
    words
        .flat_map(|word| {
            let mut characters = word.chars();
            characters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(characters).collect::<Vec<_>>()
        })
        .collect()
}
