//! Discovery: which groups, versions and kinds there are, for kubectl and every other client. Group by group, or all at
//! once (aggregated, `apidiscovery.k8s.io`).

mod aggregated;

use serde_json::{Value, json};

use crate::registry::{Resource, ResourceDescription, Resources};
use crate::rest::DiscoveryForm;

/// The Kubernetes version whose API conventions are kept.
const KUBERNETES: (&str, &str) = ("1", "33");

/// What `/version` tells.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    /// What follows the Kubernetes version, e.g. `ucloud-0.1.0`.
    pub(crate) product: String,
}

impl Version {
    pub(crate) fn to_json(&self) -> Value {
        let (major, minor) = KUBERNETES;
        json!({
            "major": major,
            "minor": minor,
            "gitVersion": format!("v{major}.{minor}.0+{}", self.product),
            "gitCommit": "",
            "gitTreeState": "clean",
            "buildDate": "",
            "goVersion": "",
            "compiler": "rustc",
            "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        })
    }
}

/// A document and its media type.
pub(crate) struct Document {
    pub(crate) content_type: &'static str,
    pub(crate) body: Value,
}

/// The document at a path; `None` if there is none.
pub(crate) fn document(resources: &Resources, path: &str, form: DiscoveryForm) -> Option<Document> {
    let plain = |body| Some(Document { content_type: "application/json", body });
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    match (segments.as_slice(), form) {
        (["api"], DiscoveryForm::Aggregated(version)) => Some(aggregated::core(resources, version)),
        (["apis"], DiscoveryForm::Aggregated(version)) => Some(aggregated::named(resources, version)),
        (["api"], DiscoveryForm::Plain) => {
            let versions: Vec<&str> = resources.versions("").collect();
            plain(json!({"kind": "APIVersions", "versions": versions, "serverAddressByClientCIDRs": []}))
        }
        (["apis"], DiscoveryForm::Plain) => {
            let groups: Vec<Value> = resources.groups().map(|group| api_group(resources, group)).collect();
            plain(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        (["apis", group], _) if resources.groups().any(|known| known == *group) => {
            let mut body = api_group(resources, group);
            body["kind"] = "APIGroup".into();
            body["apiVersion"] = "v1".into();
            plain(body)
        }
        (["api", version], _) => plain(resource_list(resources, "", version)?),
        (["apis", group, version], _) => plain(resource_list(resources, group, version)?),
        _ => None,
    }
}

fn api_group(resources: &Resources, group: &str) -> Value {
    let versions: Vec<Value> = resources
        .versions(group)
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn resource_list(resources: &Resources, group: &str, version: &str) -> Option<Value> {
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut entries = Vec::new();
    for resource in resources.kinds(group, version)? {
        let description = &resource.description;
        let mut entry = json!({
            "name": description.plural,
            "singularName": description.singular,
            "namespaced": description.is_namespaced(),
            "kind": description.kind,
            "verbs": resource.verbs(),
        });
        if !description.short_names.is_empty() {
            entry["shortNames"] = json!(description.short_names);
        }
        if !description.categories.is_empty() {
            entry["categories"] = json!(description.categories);
        }
        entries.push(entry);
        for subresource in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{}", description.plural, subresource.name),
                "singularName": "",
                "namespaced": description.is_namespaced(),
                "kind": subresource.kind,
                "verbs": subresource.verbs,
            });
            if let Some((group, version)) = subresource.group_version {
                (entry["group"], entry["version"]) = (group.into(), version.into());
            }
            entries.push(entry);
        }
    }
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}))
}

struct Subresource<'a> {
    name: &'a str,
    kind: &'a str,
    /// Of the kind, where they are not those of the resource.
    group_version: Option<(&'static str, &'static str)>,
    verbs: Vec<&'static str>,
}

fn subresources(resource: &Resource) -> Vec<Subresource<'_>> {
    let description: &ResourceDescription = &resource.description;
    let mut all = Vec::new();
    if description.status_subresource {
        let verbs = vec!["get", "patch", "update"];
        all.push(Subresource { name: "status", kind: &description.kind, group_version: None, verbs });
    }
    all.extend(resource.subresources.iter().map(|(name, handler)| Subresource {
        name,
        kind: handler.kind(),
        group_version: handler.group_version(),
        verbs: handler.methods().iter().map(|method| method.verb()).collect(),
    }));
    all.extend(resource.streams.iter().map(|(name, handler)| Subresource {
        name,
        kind: handler.kind(),
        group_version: None,
        verbs: handler.methods().iter().map(|method| method.verb()).collect(),
    }));
    all
}
