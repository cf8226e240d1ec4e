//! Which kinds are served where.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resource::Resource;

/// Two resources that claim one path.
#[derive(Debug, thiserror::Error)]
#[error("{plural} of {group_version} is served twice")]
pub struct DuplicateResource {
    group_version: String,
    plural: String,
}

/// The kinds that are served, by group, version and plural name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resources {
    groups: BTreeMap<String, BTreeMap<String, BTreeMap<String, Arc<Resource>>>>,
}

impl Resources {
    pub(crate) fn new(resources: Vec<Resource>) -> Result<Self, DuplicateResource> {
        let mut all = Self::default();
        for resource in resources {
            let description = &resource.description;
            let (group_version, plural) = (description.api_version(), description.plural.clone());
            let versions = all.groups.entry(description.group.clone()).or_default();
            let kinds = versions.entry(description.version.clone()).or_default();
            if kinds.insert(plural.clone(), Arc::new(resource)).is_some() {
                return Err(DuplicateResource { group_version, plural });
            }
        }
        Ok(all)
    }

    /// The resource at a path.
    pub(crate) fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.groups.get(group)?.get(version)?.get(plural)
    }

    /// Everything that is served.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups.values().flat_map(BTreeMap::values).flat_map(BTreeMap::values)
    }

    /// The named groups, without the core group.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str).filter(|group| !group.is_empty())
    }

    /// The versions of a group.
    pub(crate) fn versions(&self, group: &str) -> impl Iterator<Item = &str> {
        self.groups.get(group).into_iter().flat_map(BTreeMap::keys).map(String::as_str)
    }

    /// The kinds of one version of a group; `None` if there is no such version.
    pub(crate) fn kinds(&self, group: &str, version: &str) -> Option<impl Iterator<Item = &Arc<Resource>>> {
        self.groups.get(group)?.get(version).map(BTreeMap::values)
    }
}
