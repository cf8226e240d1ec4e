//! Where objects live: a key-value store with one revision counter, compare-and-swap and a watch.
//!
//! The trait [`Storage`] is what the rest of the API server knows of etcd. [`EtcdStorage`] speaks to the real one,
//! [`MemoryStorage`] keeps the same promises in memory for component tests and simulations; one conformance suite runs
//! against both. Values are opaque bytes here: resource versions, labels and kinds are the business of the layers above.
//!
//! Keys have the form `/registry/<group or core>/<plural>/<namespace>/<name>`, or the same without namespace.

#[cfg(test)]
mod conformance;
mod error;
mod etcd;
mod memory;

use std::{fmt, num::ParseIntError, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use self::{
    error::StorageError,
    etcd::{EtcdConfig, EtcdStorage},
    memory::MemoryStorage,
};

/// The largest request that is sent to the store, in bytes: etcd's default for `--max-request-bytes`.
pub const MAX_REQUEST_BYTES: usize = 1536 * 1024;

/// What one write adds to its request besides keys and values (message framing, compares, lease), rounded up.
const REQUEST_OVERHEAD_BYTES: usize = 1024;

/// The most guards of one write. etcd carries out 128 operations in a transaction by default (`--max-txn-ops`).
pub const MAX_GUARDS: usize = 100;

/// The store's revision: one counter for all keys, which grows by one with each write. 0 means "before any write".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Revision {
    type Err = ParseIntError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// A key with its present value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredValue {
    /// The full key.
    pub key: String,
    /// The bytes as they were written.
    pub value: Bytes,
    /// The revision of the write that made this value.
    pub mod_revision: Revision,
}

/// A key that must still be as it was for a write to happen, besides the one that is written; it may be overwritten in the
/// same transaction, so that the write and what is kept about it (a quota's usage) change together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The full key.
    pub key: String,
    /// The revision of its last write, as the writer knows it.
    pub revision: Revision,
    /// What the key holds after the write; it stays as it is if nothing is given.
    pub put: Option<Bytes>,
}

impl Guard {
    /// The key must be as it was, and stays so.
    pub fn unchanged(key: impl Into<String>, revision: Revision) -> Self {
        Self { key: key.into(), revision, put: None }
    }

    /// The key must be as it was, and holds `value` afterwards.
    pub fn becomes(key: impl Into<String>, revision: Revision, value: Bytes) -> Self {
        Self { key: key.into(), revision, put: Some(value) }
    }
}

/// All values below a prefix, as they were at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The revision that the whole listing shows.
    pub revision: Revision,
    /// In key order.
    pub values: Vec<StoredValue>,
}

/// A part of what stood below a prefix at a revision of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastListing {
    /// In key order.
    pub values: Vec<StoredValue>,
    /// How many keys follow them.
    pub rest: usize,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageEvent {
    /// The key was created or overwritten.
    Put {
        /// The full key.
        key: String,
        /// The new value.
        value: Bytes,
        /// The revision of the write.
        revision: Revision,
        /// Whether the key did not exist before.
        created: bool,
    },
    /// The key was deleted, or its time to live ran out.
    Delete {
        /// The full key.
        key: String,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl StorageEvent {
    /// The key that changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put { revision, .. } | Self::Delete { revision, .. } => *revision,
        }
    }
}

/// What a watch delivers at once: everything below its prefix that happened after the batch before, up to `revision`.
///
/// A revision is never split over two batches. `events` is empty when only keys outside the prefix changed; the batch
/// then still proves that nothing below the prefix changed up to `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// Up to and including this revision the watcher now knows everything; grows from batch to batch.
    pub revision: Revision,
    /// In the order of their revisions.
    pub events: Vec<StorageEvent>,
}

/// A watch: batches until an error, after which it ends. To go on, watch again after the last batch's revision.
pub type WatchBatches = BoxStream<'static, Result<WatchBatch, StorageError>>;

/// A key-value store with revisions. Each write is one transaction and answers with the revision of that transaction.
///
/// A write happens only if each of its guards still holds (no more than [`MAX_GUARDS`], of different keys than its own), else
/// it ends in [`StorageError::GuardChanged`]; what is wrong with its own key is told first.
///
/// A write whose answer is lost is looked up again, and ends in [`StorageError::OutcomeUnknown`] where that does not tell;
/// no write is ever sent twice.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Creates the key.
    ///
    /// With `ttl` the store deletes it after that time, or a little later (a twentieth of it, at most a minute, and the
    /// store's own second or two), since keys share leases.
    ///
    /// # Errors
    /// [`StorageError::AlreadyExists`] if there is such a key.
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError>;

    /// Overwrites the key if its last write was at `expected`. With `ttl` its time to live begins anew; without, what is
    /// left of it stays.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] with the present value, or [`StorageError::NotFound`].
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError>;

    /// Deletes the key if its last write was at `expected`.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] with the present value, or [`StorageError::NotFound`].
    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError>;

    /// The key's value after every write that was answered before this call (linearizable).
    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError>;

    /// All keys that begin with `prefix`, at one revision that includes every write answered before this call.
    async fn list(&self, prefix: &str) -> Result<Listing, StorageError>;

    /// Up to `limit` of the keys that begin with `prefix` and come after the key `after`, as they were at `revision`.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] if that past is no longer kept; a store that keeps none says so always.
    async fn list_past(
        &self,
        prefix: &str,
        after: &str,
        revision: Revision,
        limit: usize,
    ) -> Result<PastListing, StorageError> {
        let _ = (prefix, after, limit);
        Err(StorageError::Compacted { asked: revision, oldest: Revision(0) })
    }

    /// A revision that includes every write answered before this call (linearizable). Cheap: no value is read.
    async fn current_revision(&self) -> Result<Revision, StorageError>;

    /// All changes of keys that begin with `prefix` after the revision `after`, first those of the past.
    ///
    /// # Errors
    /// [`StorageError::Compacted`] (here or as the stream's last item) if that past is no longer kept,
    /// [`StorageError::FutureRevision`] if the store has not come as far as `after`.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError>;
}

/// Refuses what etcd would refuse for its size, before anything is sent.
fn check_size(key: &str, value: &[u8], guards: &[Guard]) -> Result<(), StorageError> {
    // each key stands in the compare, in the put and in the read of a failed compare
    let guarded = guards.iter().map(|guard| guard.put.as_ref().map_or(0, Bytes::len) + 3 * guard.key.len());
    let size = value.len() + 3 * key.len() + guarded.sum::<usize>() + REQUEST_OVERHEAD_BYTES;
    if size > MAX_REQUEST_BYTES || guards.len() > MAX_GUARDS {
        return Err(StorageError::TooLarge { key: key.to_owned(), size, limit: MAX_REQUEST_BYTES });
    }
    Ok(())
}
