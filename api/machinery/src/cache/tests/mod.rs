//! The cache over the store in memory, with faults put in between.

mod coming;
mod consistency;
mod faults;
mod fresh_reads;
mod pages;
mod serving;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::*;
use crate::jsonpath::JsonPath;
use crate::storage::{Guard, Listing, MemoryStorage, PastListing, Storage, StoredValue, WatchBatches};

const THINGS: &str = "/registry/example.org/things/";
const NODES: &str = "/registry/example.org/nodes/";
const PATIENCE: Duration = Duration::from_secs(30);

fn kinds() -> Vec<KindConfig> {
    let fields = Fields::new(vec![("spec.host".to_owned(), JsonPath::parse(".spec.host").unwrap())]);
    [(THINGS, true), (NODES, false)]
        .map(|(prefix, namespaced)| KindConfig {
            prefix: prefix.to_owned(),
            namespaced,
            fields: fields.clone(),
            normalise: None,
        })
        .into()
}

/// The stored form of a thing, whose path is `namespace/name`, or of a node.
fn stored(path: &str, uid: &str, host: &str) -> Bytes {
    let mut metadata = json!({"uid": uid, "labels": {"host": host}});
    match path.split_once('/') {
        Some((namespace, name)) => {
            metadata["namespace"] = namespace.into();
            metadata["name"] = name.into();
        }
        None => metadata["name"] = path.into(),
    }
    serde_json::to_vec(&json!({"metadata": metadata, "spec": {"host": host}})).unwrap().into()
}

/// A store in memory that can be cut off, slowed down and replaced.
struct Faulty {
    inner: Mutex<MemoryStorage>,
    cut: watch::Sender<bool>,
    lists: AtomicUsize,
    watches: AtomicUsize,
    revision_reads: AtomicUsize,
    /// Each read of the revision takes one permit.
    revision_permits: Semaphore,
}

impl Faulty {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(MemoryStorage::new()),
            cut: watch::Sender::new(false),
            lists: AtomicUsize::new(0),
            watches: AtomicUsize::new(0),
            revision_reads: AtomicUsize::new(0),
            revision_permits: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn memory(&self) -> MemoryStorage {
        self.inner.lock().unwrap().clone()
    }

    /// The store, unless it is cut off.
    fn reach(&self) -> Result<MemoryStorage, StorageError> {
        if *self.cut.borrow() { Err(StorageError::unavailable("cut off")) } else { Ok(self.memory()) }
    }
}

#[async_trait]
impl Storage for Faulty {
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.reach()?.create(key, value, ttl, guards).await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.reach()?.update(key, value, expected, ttl, guards).await
    }

    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError> {
        self.reach()?.delete(key, expected, guards).await
    }

    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        self.reach()?.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        let listing = self.reach()?.list(prefix).await;
        self.lists.fetch_add(1, Ordering::SeqCst);
        listing
    }

    async fn list_past(
        &self,
        prefix: &str,
        after: &str,
        revision: Revision,
        limit: usize,
    ) -> Result<PastListing, StorageError> {
        self.reach()?.list_past(prefix, after, revision, limit).await
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.revision_reads.fetch_add(1, Ordering::SeqCst);
        self.revision_permits.acquire().await.unwrap().forget();
        self.reach()?.current_revision().await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        let mut cut = self.cut.subscribe();
        let memory = self.reach()?;
        self.watches.fetch_add(1, Ordering::SeqCst);
        let batches = memory.watch(prefix, after).await?;
        let end = async move {
            let _ = cut.wait_for(|cut| *cut).await;
        };
        let last = stream::once(async { Err(StorageError::unavailable("cut off")) });
        Ok(batches.take_until(Box::pin(end)).chain(last).boxed())
    }
}

struct Bench {
    store: Arc<Faulty>,
    cache: Arc<Cache>,
}

impl Bench {
    async fn start() -> Self {
        Self::with_history(HISTORY_EVENTS).await
    }

    async fn with_history(history: usize) -> Self {
        let store = Faulty::new();
        let cache = Cache::with_history(store.clone(), kinds(), history);
        cache.wait_for(Revision(1)).await.unwrap();
        Self { store, cache }
    }

    fn things(&self) -> Arc<KindCache> {
        self.cache.kind(THINGS).unwrap()
    }

    async fn create(&self, path: &str, uid: &str) -> Revision {
        self.store.memory().create(&format!("{THINGS}{path}"), stored(path, uid, "h0"), None, &[]).await.unwrap()
    }

    /// Writes past the cut, as another API server would. The UID stays.
    async fn update(&self, path: &str, host: &str) -> Revision {
        let (key, memory) = (format!("{THINGS}{path}"), self.store.memory());
        let current = memory.get(&key).await.unwrap().unwrap();
        let object: Value = serde_json::from_slice(&current.value).unwrap();
        let uid = object["metadata"]["uid"].as_str().unwrap();
        memory.update(&key, stored(path, uid, host), current.mod_revision, None, &[]).await.unwrap()
    }

    async fn delete(&self, path: &str) -> Revision {
        let (key, memory) = (format!("{THINGS}{path}"), self.store.memory());
        let current = memory.get(&key).await.unwrap().unwrap();
        memory.delete(&key, current.mod_revision, &[]).await.unwrap()
    }

    /// Cuts the cache off from its store, and waits until its watch has ended.
    async fn cut(&self) {
        self.store.cut.send_replace(true);
        let ended = async {
            while self.store.cut.receiver_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.unwrap();
    }

    fn mend(&self) {
        self.store.cut.send_replace(false);
    }

    /// Waits longer than a reader would, for a machine that is busy.
    async fn caught_up(&self, revision: Revision) {
        let caught_up = async { while self.cache.wait_for(revision).await.is_err() {} };
        tokio::time::timeout(PATIENCE, caught_up).await.expect("the cache catches up");
    }

    /// What the store holds, as the cache should show it.
    async fn expected(&self) -> Vec<(String, Revision)> {
        let listing = self.store.memory().list(THINGS).await.unwrap();
        listing.values.into_iter().map(|value| (value.key[THINGS.len()..].to_owned(), value.mod_revision)).collect()
    }
}

fn shown(objects: &[Arc<Object>]) -> Vec<(String, Revision)> {
    objects.iter().map(|object| (object.path(), object.resource_version())).collect()
}

async fn next(watcher: &mut Watcher) -> Result<Vec<Arc<Event>>, WatchEnd> {
    tokio::time::timeout(PATIENCE, watcher.next()).await.expect("something happens")
}

/// Events until the watch has seen a revision.
async fn events_until(watcher: &mut Watcher, revision: Revision) -> Vec<Arc<Event>> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    while events.last().is_none_or(|last| last.revision < revision) {
        events.extend(next(watcher).await.unwrap());
    }
    events
}

/// What an event says: its revision, and path and UID before and after.
fn told(event: &Event) -> (u64, Option<String>, Option<String>) {
    let name = |object: &Option<Arc<Object>>| object.as_ref().map(|it| format!("{} {}", it.path(), it.uid()));
    (event.revision.0, name(&event.previous), name(&event.current))
}

fn version_in_json(object: &Object) -> String {
    let value: Value = serde_json::from_slice(object.json()).unwrap();
    value["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}
