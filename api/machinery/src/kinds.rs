//! The kinds that are served at this moment: those that are built in, and those that CustomResourceDefinitions define.
//!
//! A request takes the set as it is when it comes; the set is replaced as a whole, so looking a kind up costs no lock.
//! What is derived from the set (the OpenAPI documents) belongs to it, and is built anew for the next one.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::watch;

use crate::cache::KindCache;
use crate::openapi::OpenApi;
use crate::registry::{DEFINITIONS, DEFINITIONS_GROUP, Freshness, Resource, Resources, Store, storage_prefix};
use crate::status::ApiError;
use crate::storage::Revision;

/// How long a request for a kind that is not served waits for a definition that is stored already.
const LOADING: Duration = Duration::from_secs(3);

/// The definitions in the cache.
fn definitions(store: &Store) -> Option<Arc<KindCache>> {
    store.cache.kind(&storage_prefix(DEFINITIONS_GROUP, DEFINITIONS))
}

/// One set of kinds.
#[derive(Default)]
pub(crate) struct Served {
    pub(crate) resources: Resources,
    pub(crate) openapi: OpenApi,
}

/// The kinds that are served.
pub(crate) struct Kinds {
    built_in: Resources,
    served: ArcSwap<Served>,
    /// Up to which revision of the store definitions have led to kinds; 0 until the first ones have.
    loaded: watch::Sender<Revision>,
}

impl Kinds {
    /// The kinds that are built in, until others are defined.
    pub(crate) fn new(built_in: Resources) -> Self {
        let served = Served { resources: built_in.clone(), ..Served::default() };
        Self { built_in, served: ArcSwap::from_pointee(served), loaded: watch::Sender::new(Revision(0)) }
    }

    pub(crate) fn built_in(&self) -> &Resources {
        &self.built_in
    }

    /// What is served now.
    pub(crate) fn current(&self) -> Guard<Arc<Served>> {
        self.served.load()
    }

    /// Serves `custom` beside what is built in.
    pub(crate) fn replace(&self, custom: impl IntoIterator<Item = Arc<Resource>>) {
        self.served.store(Arc::new(Served { resources: self.built_in.with(custom), ..Served::default() }));
    }

    /// Tells that all definitions as of `revision` have led to kinds.
    pub(crate) fn loaded_to(&self, revision: Revision) {
        self.loaded.send_replace(revision);
    }

    /// Whether what was defined when the server started is served.
    pub(crate) fn is_loaded(&self) -> bool {
        *self.loaded.borrow() > Revision(0)
    }

    /// The kind at a path. One whose definition was stored before this call, also through another server, is found.
    pub(crate) async fn find(
        &self,
        store: &Store,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Result<Arc<Resource>, ApiError> {
        let find = || self.current().resources.get(group, version, plural).cloned();
        let found = find();
        if let Some(found) = &found
            && found.definition.is_none()
        {
            return Ok(found.clone());
        }
        // the groups of definitions are domains
        let Some(definitions) = definitions(store).filter(|_| group.contains('.')) else {
            return Err(ApiError::no_such_path());
        };
        if let Some(found) = found
            && let Some(definition) = &found.definition
            && definitions.get(None, &definition.name).is_some_and(|object| object.uid() == definition.uid)
        {
            return Ok(found);
        }
        store.reach(Freshness::Consistent).await?;
        if definitions.get(None, &format!("{plural}.{group}")).is_some() {
            let newest = definitions.changed_at();
            let mut loaded = self.loaded.subscribe();
            let loading = loaded.wait_for(|loaded| *loaded >= newest);
            if tokio::time::timeout(LOADING, loading).await.is_err() {
                return Err(ApiError::unavailable("the kind is being loaded").with_retry_after(1));
            }
        }
        find().ok_or_else(ApiError::no_such_path)
    }
}
