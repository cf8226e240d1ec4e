//! Which kinds are served where.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::resource::Resource;
use super::version::by_priority;

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
            if !all.insert(Arc::new(resource)) {
                return Err(DuplicateResource { group_version, plural });
            }
        }
        Ok(all)
    }

    /// These and `more`, of which each that claims a path that is taken already is left out.
    pub(crate) fn with(&self, more: impl IntoIterator<Item = Arc<Resource>>) -> Self {
        let mut all = self.clone();
        for resource in more {
            all.insert(resource);
        }
        all
    }

    /// Adds a resource, unless its path is taken.
    fn insert(&mut self, resource: Arc<Resource>) -> bool {
        let description = &resource.description;
        let versions = self.groups.entry(description.group.clone()).or_default();
        let kinds = versions.entry(description.version.clone()).or_default();
        if kinds.contains_key(&description.plural) {
            return false;
        }
        kinds.insert(description.plural.clone(), resource);
        true
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

    /// The versions of a group, the one to prefer first.
    pub(crate) fn versions(&self, group: &str) -> impl Iterator<Item = &str> {
        let mut versions: Vec<&str> =
            self.groups.get(group).into_iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
        versions.sort_by(|a, b| by_priority(a, b));
        versions.into_iter()
    }

    /// The kinds of one version of a group; `None` if there is no such version.
    pub(crate) fn kinds(&self, group: &str, version: &str) -> Option<impl Iterator<Item = &Arc<Resource>>> {
        self.groups.get(group)?.get(version).map(BTreeMap::values)
    }
}
