//! The aggregated form: every group with its versions and kinds in one document.

use serde_json::{Value, json};

use super::{Document, subresources};
use crate::registry::{Resource, Resources};

/// `/api`: the core group.
pub(super) fn core(resources: &Resources, version: &'static str) -> Document {
    list(version, &[group(resources, "")])
}

/// `/apis`: all other groups.
pub(super) fn named(resources: &Resources, version: &'static str) -> Document {
    list(version, &resources.groups().map(|name| group(resources, name)).collect::<Vec<_>>())
}

fn list(version: &'static str, items: &[Value]) -> Document {
    let content_type = match version {
        "v2beta1" => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        _ => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
    };
    let body = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    });
    Document { content_type, body }
}

fn group(resources: &Resources, name: &str) -> Value {
    let versions: Vec<Value> = resources
        .versions(name)
        .map(|version| {
            let kinds: Vec<Value> =
                resources.kinds(name, version).into_iter().flatten().map(|resource| kind(resource)).collect();
            json!({"version": version, "resources": kinds, "freshness": "Current"})
        })
        .collect();
    let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn kind(resource: &Resource) -> Value {
    let description = &resource.description;
    let response_kind = |kind: &str| json!({"group": description.group, "version": description.version, "kind": kind});
    let subresources: Vec<Value> = subresources(resource)
        .iter()
        .map(|subresource| {
            json!({
                "subresource": subresource.name,
                "responseKind": match subresource.group_version {
                    Some((group, version)) => json!({"group": group, "version": version, "kind": subresource.kind}),
                    None => response_kind(subresource.kind),
                },
                "verbs": subresource.verbs,
            })
        })
        .collect();
    let mut entry = json!({
        "resource": description.plural,
        "responseKind": response_kind(&description.kind),
        "scope": if description.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": description.singular,
        "verbs": resource.verbs(),
    });
    for (field, value) in [
        ("shortNames", json!(description.short_names)),
        ("categories", json!(description.categories)),
        ("subresources", subresources.into()),
    ] {
        if value != json!([]) {
            entry[field] = value;
        }
    }
    entry
}
