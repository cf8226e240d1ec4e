//! Parts of a kind's past from the store: for lists that were begun before this server was, or so long ago that the
//! history in memory does not reach back to them.

use std::sync::Arc;

use super::{Cache, Cut, KindConfig, Object, Page};
use crate::storage::{Revision, Storage, StorageError, StoredValue};

/// How many objects are asked for at once.
const ASK: usize = 500;

/// Why a state of the past cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum NoPast {
    /// Neither the cache nor the store keeps it.
    #[error("that state is no longer kept")]
    Gone,
    /// The kind is not one of the cache's.
    #[error("{0} is not cached")]
    UnknownKind(String),
    /// The store had to be asked, and did not answer.
    #[error("the store does not tell its past")]
    Store(#[source] StorageError),
}

impl Cache {
    /// A part of the kind whose keys begin with `prefix`: from memory, or from the store if it is of a past that memory
    /// does not reach back to. The cache must have come as far as the revision asked for.
    ///
    /// # Errors
    /// [`NoPast`], when neither has it.
    pub async fn page(
        &self,
        prefix: &str,
        cut: &Cut<'_>,
        matches: impl Fn(&Object) -> bool + Send + Sync,
    ) -> Result<Page, NoPast> {
        let entry = self.shared.kinds.load().serving.get(prefix).cloned();
        let entry = entry.ok_or_else(|| NoPast::UnknownKind(prefix.to_owned()))?;
        match (entry.kind.page(cut, &matches), cut.at) {
            (Ok(page), _) => Ok(page),
            (Err(_), Some(at)) => {
                let stored = stored_page(&*self.shared.storage, at, cut, &entry.config, &matches).await;
                stored.map_err(|error| match error {
                    StorageError::Compacted { .. } | StorageError::FutureRevision { .. } => NoPast::Gone,
                    other => NoPast::Store(other),
                })
            }
            (Err(_), None) => Err(NoPast::Gone),
        }
    }
}

async fn stored_page(
    storage: &dyn Storage,
    at: Revision,
    cut: &Cut<'_>,
    config: &KindConfig,
    matches: impl Fn(&Object) -> bool,
) -> Result<Page, StorageError> {
    let prefix = match cut.namespace {
        Some(namespace) => format!("{}{namespace}/", config.prefix),
        None => config.prefix.clone(),
    };
    let mut after = format!("{prefix}{}", cut.after);
    let mut page = Page { revision: at, objects: Vec::new(), rest: 0 };
    loop {
        let wanted = match cut.limit {
            Some(limit) if cut.count => limit.saturating_sub(page.objects.len()).clamp(1, ASK),
            // nobody knows how many of them match
            _ => ASK,
        };
        let listing = storage.list_past(&prefix, &after, at, wanted).await?;
        if let Some(last) = listing.values.last() {
            after.clone_from(&last.key);
        }
        for stored in listing.values {
            // what cannot be read is told where it is read first, when the cache takes it in
            let Some(object) = decode(&stored, config).filter(|object| matches(object)) else { continue };
            if cut.limit.is_some_and(|limit| page.objects.len() >= limit) {
                page.rest = 1;
                return Ok(page);
            }
            page.objects.push(Arc::new(object));
        }
        let full = cut.limit.is_some_and(|limit| page.objects.len() >= limit);
        if listing.rest == 0 || (full && cut.count) {
            page.rest = listing.rest;
            return Ok(page);
        }
    }
}

fn decode(stored: &StoredValue, config: &KindConfig) -> Option<Object> {
    Object::from_stored(&stored.value, stored.mod_revision, &config.fields, config.normalise.as_ref()).ok()
}
