//! Which kinds the cache holds. They may come and go while it is read and fed.
//!
//! A kind that comes is fed before it is filled: what the watch brings meanwhile is kept until the list of what the store
//! holds is there, and is put on top of it. The list is asked for after the kind stands in the set, and the feed looks the
//! set up after it got a batch; so whatever the feed took to an older set is in the list.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::kind::{Listed, ListedObject};
use super::{Cache, KindCache, KindConfig, Shared};
use crate::storage::StorageError;

/// A kind of the cache.
pub(super) struct Entry {
    pub(super) config: KindConfig,
    pub(super) kind: Arc<KindCache>,
}

/// The kinds of the cache at one moment, by their prefixes.
#[derive(Clone, Default)]
pub(super) struct Kinds {
    /// Those that are read.
    pub(super) serving: BTreeMap<String, Arc<Entry>>,
    /// Those that are being filled; another form of the same kind may be served meanwhile.
    pub(super) filling: BTreeMap<String, Arc<Entry>>,
}

/// The kind among `kinds` that a key belongs to.
pub(super) fn kind_of<'a>(kinds: &'a BTreeMap<String, Arc<Entry>>, key: &str) -> Option<&'a Arc<Entry>> {
    // no kind's prefix begins with another's, so it can only be the last one before the key
    let (prefix, entry) = kinds.range::<str, _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
    key.starts_with(prefix.as_str()).then_some(entry)
}

impl Kinds {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.serving.values().chain(self.filling.values())
    }
}

/// Changes the set, and answers what it was before.
fn change(kinds: &ArcSwap<Kinds>, change: impl Fn(&mut Kinds)) -> Arc<Kinds> {
    kinds.rcu(|current| {
        let mut next = Kinds::clone(current);
        change(&mut next);
        next
    })
}

impl Cache {
    /// Holds one more kind, or the same one in another form. When this returns, everything that the store held at the time
    /// of the call is there. A form that was there before is served until then; its watches end.
    ///
    /// # Errors
    /// Of the store; the set of kinds is then what it was.
    pub async fn add(&self, config: KindConfig) -> Result<(), StorageError> {
        let prefix = config.prefix.clone();
        let kind = Arc::new(KindCache::filling(self.shared.progress.subscribe(), self.shared.history));
        let entry = Arc::new(Entry { config, kind });
        change(&self.shared.kinds, |kinds| drop(kinds.filling.insert(prefix.clone(), entry.clone())));
        let filled = self.shared.fill(&entry).await;
        let before = change(&self.shared.kinds, |kinds| {
            kinds.filling.remove(&prefix);
            if filled.is_ok() {
                kinds.serving.insert(prefix.clone(), entry.clone());
            }
        });
        if filled.is_ok()
            && let Some(old) = before.serving.get(&prefix)
        {
            old.kind.close();
        }
        filled
    }

    /// Holds a kind no more: its watches end.
    pub fn remove(&self, prefix: &str) {
        let before = change(&self.shared.kinds, |kinds| drop(kinds.serving.remove(prefix)));
        if let Some(old) = before.serving.get(prefix) {
            old.kind.close();
        }
        self.shared.lock_undecodable().retain(|key| !key.starts_with(prefix));
    }
}

impl Shared {
    async fn fill(&self, entry: &Entry) -> Result<(), StorageError> {
        let prefix = &entry.config.prefix;
        let listing = self.storage.list(prefix).await?;
        let mut listed = Listed::new();
        for stored in listing.values {
            let path: Box<str> = stored.key[prefix.len()..].into();
            let object = self.decode(entry, &path, &stored).map_or(ListedObject::Undecodable, ListedObject::Decoded);
            listed.insert(path, object);
        }
        entry.kind.fill(listed, listing.revision);
        Ok(())
    }
}
