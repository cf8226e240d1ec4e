//! Fills the cache: lists the store once, then follows its one watch, and mends both when the store fails.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    DecodeError, KindCache, Object, REGISTRY, Shared,
    kind::{Change, Listed, ListedObject},
    kinds::{Entry, kind_of},
};
use crate::storage::{Listing, Revision, StorageError, StorageEvent, StoredValue, WatchBatch};

/// The first wait after a failure, in which a store that is only restarting comes back.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest wait between two attempts, before jitter at most doubles it; shorter than readers wait for the cache.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Keeps the cache filled until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let mut retries = backoff();
    let mut need = Need::List(Reason::Start);
    while !stop.is_cancelled() {
        let attempt = async {
            match need {
                Need::List(reason) => list(&shared, reason).await,
                Need::Watch(after) => follow(&shared, after).await,
            }
        };
        let end = tokio::select! {
            end = attempt => end,
            () = stop.cancelled() => return,
        };
        let Failed { moved_on, next, error } = match end {
            Ok(next) => {
                (need, retries) = (next, backoff());
                continue;
            }
            Err(failed) => failed,
        };
        need = next.unwrap_or(need);
        if moved_on {
            retries = backoff();
        }
        let wait = retries.next().unwrap_or(RETRY_MAX);
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            revision = %shared.revision(),
            "the watch cache lost its store, it goes on in {wait:?}"
        );
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(RETRY_MIN)
        .with_max_delay(RETRY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// What the cache needs next.
#[derive(Clone, Copy)]
enum Need {
    List(Reason),
    /// The changes after this revision.
    Watch(Revision),
}

/// Why the cache lists.
#[derive(Clone, Copy)]
enum Reason {
    /// It is empty.
    Start,
    /// The store no longer keeps the changes that come next.
    Compacted,
    /// The store's history is another one than before.
    Replaced,
}

/// An attempt that ended with an error.
struct Failed {
    /// Whether it brought something before.
    moved_on: bool,
    /// What is needed now, if it is not the same as before.
    next: Option<Need>,
    error: StorageError,
}

async fn list(shared: &Shared, reason: Reason) -> Result<Need, Failed> {
    let listing = shared.storage.list(REGISTRY).await.map_err(|error| Failed { moved_on: false, next: None, error })?;
    let at = listing.revision;
    // a list that is older than what is known cannot follow on it
    let replaced = matches!(reason, Reason::Replaced) || at < shared.revision();
    shared.take_listing(listing, matches!(reason, Reason::Compacted) && !replaced);
    Ok(Need::Watch(at))
}

async fn follow(shared: &Shared, after: Revision) -> Result<Need, Failed> {
    let (mut moved_on, mut seen) = (false, after);
    let error = match shared.storage.watch(REGISTRY, after).await {
        Ok(mut batches) => loop {
            match batches.next().await {
                Some(Ok(batch)) => {
                    (moved_on, seen) = (true, batch.revision);
                    shared.take_batch(&batch);
                }
                Some(Err(error)) => break error,
                None => break StorageError::unavailable("the watch ended"),
            }
        },
        Err(error) => error,
    };
    let next = match error {
        StorageError::Compacted { .. } => Need::List(Reason::Compacted),
        StorageError::FutureRevision { .. } => Need::List(Reason::Replaced),
        _ => Need::Watch(seen),
    };
    Err(Failed { moved_on, next: Some(next), error })
}

impl Shared {
    /// Takes in what the watch brought: each kind in one step, then the progress of the whole.
    fn take_batch(&self, batch: &WatchBatch) {
        // after the batch was received: see `kinds`
        let kinds = self.kinds.load_full();
        for kinds in [&kinds.serving, &kinds.filling] {
            let mut by_kind: BTreeMap<&str, (&KindCache, Vec<Change>)> = BTreeMap::new();
            for event in &batch.events {
                let Some(entry) = kind_of(kinds, event.key()) else { continue };
                let Some(change) = self.change(entry, event) else { continue };
                let changes = by_kind.entry(&entry.config.prefix);
                changes.or_insert_with(|| (&entry.kind, Vec::new())).1.push(change);
            }
            for (kind, changes) in by_kind.into_values() {
                kind.apply(changes);
            }
        }
        self.progress.send_replace(batch.revision);
    }

    /// The change in an event of a kind; nothing if it cannot be read.
    fn change(&self, entry: &Entry, event: &StorageEvent) -> Option<Change> {
        let path: Box<str> = event.key()[entry.config.prefix.len()..].into();
        let (revision, object) = match event {
            StorageEvent::Put { key, value, revision, .. } => {
                let stored = StoredValue { key: key.clone(), value: value.clone(), mod_revision: *revision };
                (*revision, Some(self.decode(entry, &path, &stored)?))
            }
            StorageEvent::Delete { key, revision } => {
                self.readable(key);
                (*revision, None)
            }
        };
        Some(Change { path, revision, object })
    }

    /// Takes in a list of the whole store. All kinds are moved at once, so that none is ahead of another.
    fn take_listing(&self, listing: Listing, continues: bool) {
        self.forget_unreadable();
        // after the list was received: see `kinds`
        let kinds = self.kinds.load_full();
        let sets = [(&kinds.serving, continues), (&kinds.filling, false)];
        let mut found = sets.map(|_| BTreeMap::<&str, Listed>::new());
        // what is stored is let go piece by piece, so that a large list is not in memory twice
        for stored in listing.values {
            for ((kinds, _), by_kind) in sets.iter().zip(&mut found) {
                let Some(entry) = kind_of(kinds, &stored.key) else { continue };
                let prefix = entry.config.prefix.as_str();
                let path: Box<str> = stored.key[prefix.len()..].into();
                let object =
                    self.decode(entry, &path, &stored).map_or(ListedObject::Undecodable, ListedObject::Decoded);
                by_kind.entry(prefix).or_default().insert(path, object);
            }
        }
        let mut lists = Vec::new();
        for ((kinds, continues), mut by_kind) in sets.into_iter().zip(found) {
            for (prefix, entry) in kinds {
                lists.push((&entry.kind, by_kind.remove(prefix.as_str()).unwrap_or_default(), continues));
            }
        }
        let mut locked = Vec::new();
        for (kind, listed, continues) in lists {
            let mut state = kind.write();
            if continues {
                state.catch_up(listed, listing.revision);
            } else {
                state.restart(listed, listing.revision);
            }
            locked.push(state);
        }
        self.progress.send_replace(listing.revision);
        drop(locked);
        for entry in kinds.iter() {
            entry.kind.wake();
        }
    }

    /// The object in a stored value; if it cannot be read, that is logged and remembered.
    pub(super) fn decode(&self, entry: &Entry, path: &str, stored: &StoredValue) -> Option<Arc<Object>> {
        let config = &entry.config;
        let object = Object::from_stored(&stored.value, stored.mod_revision, &config.fields, config.normalise.as_ref());
        let object = object.and_then(|object| {
            let placed = object.path() == path && object.namespace().is_some() == config.namespaced;
            if placed { Ok(object) } else { Err(DecodeError::Misplaced(object.path())) }
        });
        match object {
            Ok(object) => {
                self.readable(&stored.key);
                Some(Arc::new(object))
            }
            Err(error) => {
                tracing::error!(
                    key = stored.key,
                    revision = %stored.mod_revision,
                    error = &error as &dyn std::error::Error,
                    "an object in the store cannot be read, its last readable state is served"
                );
                self.unreadable(&stored.key);
                None
            }
        }
    }
}
