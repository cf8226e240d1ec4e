//! The watch cache: everything the store holds, in memory, kept current by one watch over the whole store.
//!
//! Reads and watches are served from here, without the store. The store is only asked how far it has come, and only
//! for a client that needs to see every write answered so far ([`Cache::wait_fresh`]). An object is encoded once, when
//! it arrives, and shared by all who read or watch it.
//!
//! `feed` fills the cache, `object`, `stored` and `fields` read what is stored, `kinds` says which kinds it holds, `kind` holds the objects of one with their recent history, `page`
//! reads them as they are or were, `past` asks the store for what is older than the history, `watcher` is a client's cursor
//! into that history, `freshness` shares the question how far the store has come.

mod feed;
mod fields;
mod freshness;
mod history;
mod kind;
mod kinds;
mod object;
mod page;
mod past;
mod stored;
#[cfg(test)]
mod tests;
mod watcher;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use self::stored::Encoded;
pub use self::{
    fields::Fields,
    history::Event,
    kind::KindCache,
    object::{DecodeError, Object, Pairs},
    page::{Cut, Page},
    past::NoPast,
    watcher::{WatchEnd, Watcher},
};
use self::{
    freshness::Freshness,
    kinds::{Entry, Kinds},
};
use crate::storage::{Revision, Storage, StorageError};

/// What all keys of the cache begin with.
const REGISTRY: &str = "/registry/";

/// How many changes are kept per kind. A watch that is further behind has to list again.
const HISTORY_EVENTS: usize = 8192;

/// How long a reader waits for the cache to reach a revision.
const WAIT_LIMIT: Duration = Duration::from_secs(3);

/// Brings an object, as it is stored, into the form in which it is served.
pub type Normaliser = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// A kind that the cache holds.
#[derive(Clone)]
pub struct KindConfig {
    /// What the keys of its objects begin with, such as `/registry/ucloud.ungleich.ch/vms/`; ends with a slash.
    pub prefix: String,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Its selectable fields.
    pub fields: Fields,
    /// What is done to an object before it is kept.
    pub normalise: Option<Normaliser>,
}

/// The history does not reach back to the revision asked for: list again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the changes after that revision are no longer kept (oldest revision to watch from: {oldest})")]
pub struct Expired {
    /// A watch may begin here, or later.
    pub oldest: Revision,
}

/// The cache has not reached a revision in time: it lags behind the store, or there is no such revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("revision {wanted} was not reached within {} s, the cache is at {reached}", WAIT_LIMIT.as_secs())]
pub struct Stale {
    /// The revision waited for.
    pub wanted: Revision,
    /// The revision the cache is at.
    pub reached: Revision,
}

/// Why a consistent read could not be served.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NotFresh {
    /// The store did not tell how far it has come.
    #[error("the store does not tell its current revision")]
    Store(#[source] Arc<StorageError>),
    /// The cache did not follow in time.
    #[error(transparent)]
    Stale(#[from] Stale),
}

/// The watch cache of all kinds.
pub struct Cache {
    shared: Arc<Shared>,
    stop: CancellationToken,
}

/// What the cache's users and its feed share.
struct Shared {
    storage: Arc<dyn Storage>,
    kinds: ArcSwap<Kinds>,
    /// How many changes are kept of each kind.
    history: usize,
    /// Everything up to here has been taken in by all kinds; 0 until the first list.
    progress: watch::Sender<Revision>,
    freshness: Freshness,
    /// The keys of stored values that are no objects of their kinds.
    undecodable: Mutex<BTreeSet<String>>,
}

impl Cache {
    /// Begins to fill a cache of `kinds` from `storage`, in a task that runs until [`Cache::shutdown`]. Needs a tokio runtime.
    pub fn new(storage: Arc<dyn Storage>, kinds: Vec<KindConfig>) -> Arc<Self> {
        Self::with_history(storage, kinds, HISTORY_EVENTS)
    }

    fn with_history(storage: Arc<dyn Storage>, kinds: Vec<KindConfig>, history: usize) -> Arc<Self> {
        let progress = watch::Sender::new(Revision(0));
        let entries = kinds.into_iter().map(|config| {
            let kind = Arc::new(KindCache::new(progress.subscribe(), history));
            (config.prefix.clone(), Arc::new(Entry { config, kind }))
        });
        let kinds = Kinds { serving: entries.collect(), ..Kinds::default() };
        let shared = Arc::new(Shared {
            storage,
            kinds: ArcSwap::from_pointee(kinds),
            history,
            progress,
            freshness: Freshness::default(),
            undecodable: Mutex::default(),
        });
        let stop = CancellationToken::new();
        tokio::spawn(feed::run(shared.clone(), stop.clone()));
        Arc::new(Self { shared, stop })
    }

    /// The kind whose keys begin with `prefix`.
    pub fn kind(&self, prefix: &str) -> Option<Arc<KindCache>> {
        self.shared.kinds.load().serving.get(prefix).map(|entry| entry.kind.clone())
    }

    /// Whether the cache has been filled once. It stays so while the store is away.
    pub fn is_synced(&self) -> bool {
        self.revision() > Revision(0)
    }

    /// Up to which revision the cache knows everything.
    pub fn revision(&self) -> Revision {
        self.shared.revision()
    }

    /// Waits until the cache includes `revision`, such as that of a write just made.
    ///
    /// # Errors
    /// [`Stale`] after 3 s: Kubernetes' "too large resource version".
    pub async fn wait_for(&self, revision: Revision) -> Result<(), Stale> {
        let mut progress = self.shared.progress.subscribe();
        let reached = progress.wait_for(|reached| *reached >= revision);
        match tokio::time::timeout(WAIT_LIMIT, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stale { wanted: revision, reached: self.revision() }),
        }
    }

    /// Waits until the cache includes every write that was answered before this call, and returns a revision that does.
    ///
    /// # Errors
    /// [`NotFresh`] if the store does not answer, or the cache does not follow within 3 s.
    pub async fn wait_fresh(&self) -> Result<Revision, NotFresh> {
        let current = self.shared.freshness.current_revision(&self.shared.storage).await.map_err(NotFresh::Store)?;
        self.wait_for(current).await?;
        Ok(current)
    }

    /// How many stored values are no objects; the log names them. None in a sound installation.
    pub fn undecodable(&self) -> usize {
        self.shared.lock_undecodable().len()
    }

    /// Stops the filling and ends all watches. What is in the cache can still be read.
    pub fn shutdown(&self) {
        self.stop.cancel();
        for entry in self.shared.kinds.load().iter() {
            entry.kind.close();
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Shared {
    fn revision(&self) -> Revision {
        *self.progress.borrow()
    }

    fn lock_undecodable(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.undecodable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unreadable(&self, key: &str) {
        self.lock_undecodable().insert(key.to_owned());
    }

    fn readable(&self, key: &str) {
        self.lock_undecodable().remove(key);
    }

    fn forget_unreadable(&self) {
        self.lock_undecodable().clear();
    }
}
