//! The store in memory: what etcd promises, without etcd. For component tests and simulations; nothing survives the process.
//!
//! One map, one revision counter, and the list of past changes that watches read from by position. A watch holds no
//! buffer: it is woken when the revision moves and takes what is new from the shared list.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::sync::watch;

use super::{
    Guard, Listing, PastListing, Revision, Storage, StorageError, StorageEvent, StoredValue, WatchBatch, WatchBatches,
    check_size,
};

/// How many past changes are kept; older ones are compacted away. A watch that falls behind further has to list again.
const HISTORY_LIMIT: usize = 16_384;

/// A [`Storage`] in memory. Clones share the same data.
#[derive(Clone)]
pub struct MemoryStorage {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// The newest revision; wakes the watches.
    revision: watch::Sender<Revision>,
}

#[derive(Default)]
struct State {
    revision: Revision,
    keys: BTreeMap<String, Entry>,
    history: VecDeque<StorageEvent>,
    /// Changes at and below this revision are no longer in `history`.
    compacted: Revision,
}

struct Entry {
    value: Bytes,
    mod_revision: Revision,
    /// The write that gave the key its time to live, if it has one.
    expires_by: Option<Revision>,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    /// An empty store, at revision 1 as a new etcd is.
    pub fn new() -> Self {
        let state = State { revision: Revision(1), ..State::default() };
        let revision = watch::Sender::new(state.revision);
        Self { shared: Arc::new(Shared { state: Mutex::new(state), revision }) }
    }

    /// Forgets the changes up to and including `revision`, as etcd's compaction does. Present values stay.
    pub fn compact(&self, revision: Revision) {
        let mut state = self.shared.lock();
        state.compacted = state.compacted.max(revision.min(state.revision));
        while state.history.front().is_some_and(|event| event.revision() <= state.compacted) {
            state.history.pop_front();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // a panic of another thread cannot leave the state half-written: each change is a few infallible steps
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the key go after `ttl`, unless it is deleted or gets another time to live before.
    fn expire_after(self: &Arc<Self>, state: &mut State, key: &str, ttl: Duration) {
        let Some(entry) = state.keys.get_mut(key) else { return };
        let write = entry.mod_revision;
        entry.expires_by = Some(write);
        let (shared, key) = (Arc::downgrade(self), key.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(ttl).await;
            if let Some(shared) = shared.upgrade() {
                shared.expire(&key, write);
            }
        });
    }

    /// Deletes the key if it still has the time to live that the write at `given` gave it.
    fn expire(&self, key: &str, given: Revision) {
        let mut state = self.lock();
        if state.keys.get(key).is_some_and(|entry| entry.expires_by == Some(given)) {
            self.apply_delete(&mut state, key, &[]);
        }
    }

    /// Writes the key, and what the guards become, at one revision.
    fn apply_put(&self, state: &mut State, key: &str, value: Bytes, guards: &[Guard]) -> Revision {
        let revision = Self::apply_guards(state, guards);
        Self::put_at(state, revision, key, value);
        self.announce(state);
        revision
    }

    fn apply_delete(&self, state: &mut State, key: &str, guards: &[Guard]) -> Revision {
        let revision = Self::apply_guards(state, guards);
        state.keys.remove(key);
        Self::record(state, StorageEvent::Delete { key: key.to_owned(), revision });
        self.announce(state);
        revision
    }

    /// Begins the next revision with what the guards become.
    fn apply_guards(state: &mut State, guards: &[Guard]) -> Revision {
        let revision = Revision(state.revision.0 + 1);
        for guard in guards {
            if let Some(value) = &guard.put {
                Self::put_at(state, revision, &guard.key, value.clone());
            }
        }
        revision
    }

    fn put_at(state: &mut State, revision: Revision, key: &str, value: Bytes) {
        let before = state.keys.get(key);
        let (created, expires_by) = (before.is_none(), before.and_then(|entry| entry.expires_by));
        state.keys.insert(key.to_owned(), Entry { value: value.clone(), mod_revision: revision, expires_by });
        Self::record(state, StorageEvent::Put { key: key.to_owned(), value, revision, created });
    }

    fn record(state: &mut State, event: StorageEvent) {
        state.revision = event.revision();
        state.history.push_back(event);
        if state.history.len() > HISTORY_LIMIT
            && let Some(oldest) = state.history.pop_front()
        {
            state.compacted = oldest.revision();
        }
    }

    /// Wakes the watches: the revision is complete.
    fn announce(&self, state: &State) {
        self.revision.send_replace(state.revision);
    }
}

impl State {
    /// The compare of a compare-and-swap.
    fn expect(&self, key: &str, expected: Revision) -> Result<(), StorageError> {
        let entry = self.keys.get(key).ok_or_else(|| StorageError::NotFound { key: key.to_owned() })?;
        if entry.mod_revision == expected {
            return Ok(());
        }
        Err(StorageError::Conflict { key: key.to_owned(), expected, current: entry.stored(key) })
    }

    /// What stood below `prefix` at `revision`.
    fn past(&self, prefix: &str, revision: Revision) -> Result<BTreeMap<String, StoredValue>, StorageError> {
        let below = self.keys.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let mut past: BTreeMap<String, StoredValue> = below
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| (key.clone(), entry.stored(key)))
            .collect();
        let after = self.history.partition_point(|event| event.revision() <= revision);
        let mut seen = BTreeSet::new();
        for event in self.history.range(after..).filter(|event| event.key().starts_with(prefix)) {
            let key = event.key();
            // the first change after the revision tells whether the key was there
            if !seen.insert(key) {
                continue;
            }
            past.remove(key);
            match self.history.range(..after).rev().find(|event| event.key() == key) {
                Some(StorageEvent::Put { value, revision, .. }) => {
                    let stored = StoredValue { key: key.to_owned(), value: value.clone(), mod_revision: *revision };
                    past.insert(key.to_owned(), stored);
                }
                Some(StorageEvent::Delete { .. }) => {}
                None if matches!(event, StorageEvent::Put { created: true, .. }) => {}
                None => return Err(StorageError::Compacted { asked: revision, oldest: self.compacted }),
            }
        }
        Ok(past)
    }

    /// Whether every guard's key is as the writer knows it.
    fn expect_guards(&self, guards: &[Guard]) -> Result<(), StorageError> {
        let holds =
            |guard: &&Guard| self.keys.get(&guard.key).is_some_and(|entry| entry.mod_revision == guard.revision);
        match guards.iter().find(|guard| !holds(guard)) {
            None => Ok(()),
            Some(guard) => Err(StorageError::GuardChanged { key: guard.key.clone() }),
        }
    }

    /// What happened below `prefix` after `after`.
    fn changes(&self, prefix: &str, after: Revision) -> Result<WatchBatch, StorageError> {
        if after < self.compacted {
            return Err(StorageError::Compacted { asked: after, oldest: self.compacted });
        }
        let first = self.history.partition_point(|event| event.revision() <= after);
        let events = self.history.range(first..).filter(|event| event.key().starts_with(prefix)).cloned().collect();
        Ok(WatchBatch { revision: self.revision, events })
    }
}

impl Entry {
    fn stored(&self, key: &str) -> StoredValue {
        StoredValue { key: key.to_owned(), value: self.value.clone(), mod_revision: self.mod_revision }
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        check_size(key, &value, guards)?;
        let mut state = self.shared.lock();
        if state.keys.contains_key(key) {
            return Err(StorageError::AlreadyExists { key: key.to_owned() });
        }
        state.expect_guards(guards)?;
        let revision = self.shared.apply_put(&mut state, key, value, guards);
        if let Some(ttl) = ttl {
            self.shared.expire_after(&mut state, key, ttl);
        }
        Ok(revision)
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        check_size(key, &value, guards)?;
        let mut state = self.shared.lock();
        state.expect(key, expected)?;
        state.expect_guards(guards)?;
        let revision = self.shared.apply_put(&mut state, key, value, guards);
        if let Some(ttl) = ttl {
            self.shared.expire_after(&mut state, key, ttl);
        }
        Ok(revision)
    }

    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError> {
        check_size(key, &[], guards)?;
        let mut state = self.shared.lock();
        state.expect(key, expected)?;
        state.expect_guards(guards)?;
        Ok(self.shared.apply_delete(&mut state, key, guards))
    }

    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        Ok(self.shared.lock().keys.get(key).map(|entry| entry.stored(key)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        let state = self.shared.lock();
        let values = state
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| entry.stored(key))
            .collect();
        Ok(Listing { revision: state.revision, values })
    }

    async fn list_past(
        &self,
        prefix: &str,
        after: &str,
        revision: Revision,
        limit: usize,
    ) -> Result<PastListing, StorageError> {
        let state = self.shared.lock();
        if revision > state.revision {
            return Err(StorageError::FutureRevision { asked: revision, current: state.revision });
        }
        if revision < state.compacted {
            return Err(StorageError::Compacted { asked: revision, oldest: state.compacted });
        }
        let mut values = state.past(prefix, revision)?.into_values().filter(|value| value.key.as_str() > after);
        let page = values.by_ref().take(limit).collect();
        Ok(PastListing { values: page, rest: values.count() })
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        Ok(self.shared.lock().revision)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        {
            let state = self.shared.lock();
            if after > state.revision {
                return Err(StorageError::FutureRevision { asked: after, current: state.revision });
            }
            if after < state.compacted {
                return Err(StorageError::Compacted { asked: after, oldest: state.compacted });
            }
        }
        let cursor = Cursor {
            // weak, so that a watch does not keep a store alive that nobody can write to any more
            shared: Arc::downgrade(&self.shared),
            revision: self.shared.revision.subscribe(),
            prefix: prefix.to_owned(),
            after,
        };
        Ok(stream::unfold(Some(cursor), async |cursor| {
            let mut cursor = cursor?;
            let batch = cursor.next().await;
            let rest = batch.is_ok().then_some(cursor);
            Some((batch, rest))
        })
        .boxed())
    }
}

/// One watch's place in the history.
struct Cursor {
    shared: std::sync::Weak<Shared>,
    revision: watch::Receiver<Revision>,
    prefix: String,
    after: Revision,
}

impl Cursor {
    async fn next(&mut self) -> Result<WatchBatch, StorageError> {
        let after = self.after;
        let gone = || StorageError::unavailable("the store in memory was dropped");
        self.revision.wait_for(|revision| *revision > after).await.map_err(|_| gone())?;
        let shared = self.shared.upgrade().ok_or_else(gone)?;
        let batch = shared.lock().changes(&self.prefix, self.after)?;
        self.after = batch.revision;
        Ok(batch)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::storage::conformance;

    #[tokio::test]
    async fn keeps_the_promises_of_a_store() {
        conformance::run_all(async || {
            let storage = MemoryStorage::new();
            let compact = storage.clone();
            conformance::Subject {
                storage: Arc::new(storage),
                compact: Box::new(move |revision| {
                    compact.compact(revision);
                    Box::pin(async {})
                }),
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_watch_that_falls_behind_the_kept_history_ends_compacted() {
        let storage = MemoryStorage::new();
        let mut watch = storage.watch("/registry/", Revision(1)).await.unwrap();
        let mut revision = storage.create("/registry/a", Bytes::from_static(b"0"), None, &[]).await.unwrap();
        for _ in 0..HISTORY_LIMIT {
            revision = storage.update("/registry/a", Bytes::from_static(b"1"), revision, None, &[]).await.unwrap();
        }
        assert!(matches!(watch.next().await, Some(Err(StorageError::Compacted { .. }))));
        assert!(watch.next().await.is_none(), "a failed watch ends");
    }
}
