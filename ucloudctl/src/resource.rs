//! The kinds that the server has, and how users name them and their objects: `vm`, `vms`, `networks,images`,
//! `vm/web`, `vm web db`.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource;
use kube::Client;

use crate::server::percent_encode;

/// A kind of object that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for Kubernetes' core.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The kind, such as VM.
    pub kind: String,
    /// The name in paths, such as vms.
    pub plural: String,
    /// The name of one, such as vm.
    pub singular: String,
    short_names: Vec<String>,
    categories: Vec<String>,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
}

impl Resource {
    /// `ucloud.ungleich.ch/v1alpha1`, or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// The name that output has for an object: `vm.ucloud.ungleich.ch/web`.
    pub fn display(&self, name: &str) -> String {
        let singular = if self.singular.is_empty() { self.kind.to_lowercase() } else { self.singular.clone() };
        if self.group.is_empty() { format!("{singular}/{name}") } else { format!("{singular}.{}/{name}", self.group) }
    }

    /// The path of all objects, in one namespace or in all.
    pub fn collection_path(&self, namespace: Option<&str>) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let version = self.api_version();
        match namespace.filter(|_| self.namespaced) {
            Some(namespace) => format!("{root}/{version}/namespaces/{}/{}", percent_encode(namespace), self.plural),
            None => format!("{root}/{version}/{}", self.plural),
        }
    }

    /// The path of one object.
    pub fn object_path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.collection_path(Some(namespace)), percent_encode(name))
    }

    fn is_called(&self, word: &str) -> bool {
        let word = word.to_lowercase();
        let (name, group) = word.split_once('.').unwrap_or((&word, ""));
        (self.plural == name
            || self.singular == name
            || self.kind.to_lowercase() == name
            || self.short_names.iter().any(|s| s == name))
            && (group.is_empty() || self.group == group || format!("{}.{}", self.version, self.group) == group)
    }
}

/// All kinds that the server has.
pub struct Catalog {
    resources: Vec<Resource>,
}

impl Catalog {
    /// Asks the server.
    pub async fn fetch(client: &Client) -> Result<Self, kube::Error> {
        let mut resources = Vec::new();
        for version in client.list_core_api_versions().await?.versions {
            let list = client.list_core_api_resources(&version).await?;
            resources.extend(list.resources.into_iter().filter_map(|r| resource("", &version, r)));
        }
        for group in client.list_api_groups().await?.groups {
            let Some(preferred) = group.preferred_version.or_else(|| group.versions.into_iter().next()) else {
                continue;
            };
            let list = client.list_api_group_resources(&preferred.group_version).await?;
            resources.extend(list.resources.into_iter().filter_map(|r| resource(&group.name, &preferred.version, r)));
        }
        // ucloud's own kinds come first where a short word could mean several
        resources.sort_by_key(|r| r.group != ucloud_types::GROUP);
        Ok(Self { resources })
    }

    /// The kinds that a word means: one kind, or all of a category.
    pub fn resolve(&self, word: &str) -> anyhow::Result<Vec<&Resource>> {
        if let Some(resource) = self.resources.iter().find(|r| r.is_called(word)) {
            return Ok(vec![resource]);
        }
        let all: Vec<_> = self.resources.iter().filter(|r| r.categories.iter().any(|c| c == word)).collect();
        anyhow::ensure!(!all.is_empty(), "the server has no kind {word:?}; it has {}", self.names());
        Ok(all)
    }

    /// The kind with this apiVersion and kind, as a manifest names it.
    pub fn of_manifest(&self, api_version: &str, kind: &str) -> anyhow::Result<&Resource> {
        self.resources.iter().find(|r| r.api_version() == api_version && r.kind == kind).ok_or_else(|| {
            anyhow::anyhow!("the server has no kind {kind:?} in {api_version:?}; it has {}", self.names())
        })
    }

    fn names(&self) -> String {
        self.resources
            .iter()
            .map(|r| r.plural.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// What the words of a command line mean, in their order: kinds, each with the names that were given.
    pub fn targets(&self, words: &[String]) -> anyhow::Result<Vec<Target>> {
        if words.iter().any(|w| w.contains('/')) {
            return words
                .iter()
                .map(|word| match word.split_once('/') {
                    Some((kind, name)) if !kind.is_empty() && !name.is_empty() && !name.contains('/') => {
                        Ok(Target { resource: self.one(kind)?, names: vec![name.to_owned()] })
                    }
                    _ => anyhow::bail!("{word:?} is not KIND/NAME"),
                })
                .collect();
        }
        anyhow::ensure!(words.iter().all(|word| !word.is_empty()), "an object's name is empty");
        let Some((kinds, names)) = words.split_first() else { return Ok(Vec::new()) };
        let mut targets = Vec::new();
        for kind in kinds.split(',') {
            for resource in self.resolve(kind)? {
                targets.push(Target { resource: resource.clone(), names: names.to_vec() });
            }
        }
        Ok(targets)
    }

    /// The same, where every object must be named.
    pub fn named_targets(&self, words: &[String]) -> anyhow::Result<Vec<Target>> {
        let targets = self.targets(words)?;
        if let Some(target) = targets.iter().find(|t| t.names.is_empty()) {
            anyhow::bail!("name what you mean: {} NAME", target.resource.singular);
        }
        Ok(targets)
    }

    /// The one kind that a word means.
    pub fn one(&self, word: &str) -> anyhow::Result<Resource> {
        match self.resolve(word)?.as_slice() {
            [resource] => Ok((*resource).clone()),
            _ => anyhow::bail!("{word:?} means several kinds; name one"),
        }
    }
}

/// A kind and the names of those of its objects that are meant; none for all.
pub struct Target {
    pub resource: Resource,
    pub names: Vec<String>,
}

fn resource(group: &str, version: &str, found: APIResource) -> Option<Resource> {
    let usable = !found.name.contains('/') && found.verbs.iter().any(|v| v == "get");
    usable.then(|| Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: found.kind,
        plural: found.name,
        singular: found.singular_name,
        short_names: found.short_names.unwrap_or_default(),
        categories: found.categories.unwrap_or_default(),
        namespaced: found.namespaced,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let make = |group: &str, kind: &str, plural: &str, short: &[&str], namespaced| Resource {
            group: group.into(),
            version: "v1".into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            short_names: short.iter().map(|s| (*s).to_owned()).collect(),
            categories: if group.is_empty() { vec![] } else { vec!["ucloud".into()] },
            namespaced,
        };
        Catalog {
            resources: vec![
                make("u.ch", "VM", "vms", &[], true),
                make("u.ch", "Host", "hosts", &[], false),
                make("", "Namespace", "namespaces", &["ns"], false),
            ],
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn words_mean_kinds_and_names() {
        let catalog = catalog();
        let meant = |text| -> Vec<(String, Vec<String>)> {
            catalog.targets(&words(text)).unwrap().into_iter().map(|t| (t.resource.plural, t.names)).collect()
        };
        assert_eq!(meant("vm"), [("vms".into(), vec![])]);
        assert_eq!(meant("VMs web db"), [("vms".into(), words("web db"))]);
        assert_eq!(meant("vms.u.ch,ns"), [("vms".into(), vec![]), ("namespaces".into(), vec![])]);
        assert_eq!(meant("vm/web host/h1"), [("vms".into(), words("web")), ("hosts".into(), words("h1"))]);
        assert_eq!(meant("ucloud"), [("vms".into(), vec![]), ("hosts".into(), vec![])]);
        for wrong in ["pods", "vm/", "/web", "vm/a/b", "vm/web db", "ucloud/web"] {
            assert!(catalog.targets(&words(wrong)).is_err(), "{wrong}");
        }
        assert!(catalog.targets(&["vm".into(), String::new()]).is_err());
        assert!(catalog.named_targets(&words("vm")).is_err());
    }

    #[test]
    fn paths_are_kubernetes_paths() {
        let catalog = catalog();
        let vm = catalog.one("vm").unwrap();
        assert_eq!(vm.object_path("default", "web"), "/apis/u.ch/v1/namespaces/default/vms/web");
        assert_eq!(vm.collection_path(None), "/apis/u.ch/v1/vms");
        assert_eq!(vm.display("web"), "vm.u.ch/web");
        let ns = catalog.one("ns").unwrap();
        assert_eq!(ns.object_path("default", "../x"), "/api/v1/namespaces/..%2Fx");
        assert_eq!(ns.display("x"), "namespace/x");
    }
}
