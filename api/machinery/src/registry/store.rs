//! Reading objects of any kind, from the cache; and the parts that reads and writes share.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::failure;
use super::quota::Turns;
use super::resource::{Resource, storage_prefix};
use crate::cache::{Cache, Fields, KindCache, KindConfig, Normaliser, Object};
use crate::jsonpath::JsonPath;
use crate::meta::names::NO_NAMESPACE;
use crate::status::ApiError;
use crate::storage::{Revision, Storage};
use crate::strategy::Lister;

/// How new what a read shows must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It includes every write that was answered before the read (no resourceVersion given).
    Consistent,
    /// Whatever the cache holds (`resourceVersion=0`).
    Any,
    /// At this revision or later.
    NotOlderThan(Revision),
}

/// Storage and the cache in front of it.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) cache: Arc<Cache>,
    pub(crate) turns: Arc<Turns>,
}

impl Store {
    /// Begins to cache the kinds of `resources`.
    pub(crate) fn new<'a>(storage: Arc<dyn Storage>, resources: impl Iterator<Item = &'a Resource>) -> Self {
        let cache = Cache::new(storage.clone(), kind_configs(resources));
        Self { storage, cache, turns: Arc::default() }
    }

    /// Waits until the cache is as new as asked.
    pub(crate) async fn reach(&self, freshness: Freshness) -> Result<(), ApiError> {
        match freshness {
            Freshness::Any => self.filled().await,
            Freshness::Consistent => {
                self.cache.wait_fresh().await.map_err(|error| failure::of_fresh_read(&error))?;
                Ok(())
            }
            Freshness::NotOlderThan(revision) => {
                self.cache.wait_for(revision).await.map_err(|stale| failure::of_stale_read(&stale))
            }
        }
    }

    /// Waits until the cache has been filled once: before, an object that is not in it may be there all the same.
    pub(crate) async fn filled(&self) -> Result<(), ApiError> {
        if self.cache.is_synced() {
            return Ok(());
        }
        let filled = self.cache.wait_for(Revision(1)).await;
        filled.map_err(|_| ApiError::unavailable("the cache is not filled yet").with_retry_after(1))
    }

    /// The cache of a resource's kind.
    pub(crate) fn kind(&self, resource: &Resource) -> Result<Arc<KindCache>, ApiError> {
        self.cache
            .kind(resource.prefix())
            // the kind went while the request was on its way
            .ok_or_else(ApiError::no_such_path)
    }

    /// One object from the cache as it is.
    pub(crate) fn cached(&self, resource: &Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cache.kind(resource.prefix())?.get(optional(namespace), name)
    }
}

impl Lister for Store {
    fn get(&self, group: &str, resource: &str, namespace: Option<&str>, name: &str) -> Option<Value> {
        let object = self.cache.kind(&storage_prefix(group, resource))?.get(namespace, name)?;
        decode(&object)
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Value> {
        let Some(kind) = self.cache.kind(&storage_prefix(group, resource)) else {
            return Vec::new();
        };
        kind.list(namespace).1.iter().filter_map(|object| decode(object)).collect()
    }
}

/// A cached object as a value.
fn decode(object: &Object) -> Option<Value> {
    // the cache wrote these bytes itself, from a value
    serde_json::from_slice(object.json()).ok()
}

/// A cached object as a value, or the error of a server that cannot read what it wrote.
pub(crate) fn decode_cached(object: &Object) -> Result<Value, ApiError> {
    decode(object).ok_or_else(|| ApiError::internal(format!("the cached object {} is not JSON", object.name())))
}

/// A namespace as the cache takes it.
pub(crate) fn optional(namespace: &str) -> Option<&str> {
    (namespace != NO_NAMESPACE).then_some(namespace)
}

/// Whether a kind has namespaces, its selectable fields, and what is done to its objects.
type Kind = (bool, Vec<(String, JsonPath)>, Option<Normaliser>);

/// What the cache has to hold: one kind for each prefix in storage, with the selectable fields of all resources that
/// serve it.
pub(crate) fn kind_configs<'a>(resources: impl Iterator<Item = &'a Resource>) -> Vec<KindConfig> {
    let mut by_prefix: BTreeMap<String, Kind> = BTreeMap::new();
    for resource in resources.filter(|resource| resource.review.is_none()) {
        let description = &resource.description;
        let (_, fields, _) = by_prefix
            .entry(resource.prefix().to_owned())
            .or_insert_with(|| (description.is_namespaced(), Vec::new(), resource.normaliser.clone()));
        for field in &description.selectable_fields {
            if fields.iter().all(|(known, _)| *known != field.stored) {
                fields.push((field.stored.clone(), field.path.clone()));
            }
        }
    }
    by_prefix
        .into_iter()
        .map(|(prefix, (namespaced, fields, normalise))| KindConfig {
            prefix,
            namespaced,
            fields: Fields::new(fields),
            normalise,
        })
        .collect()
}
