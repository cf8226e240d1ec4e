//! What can go wrong between the API server and its store, told apart by what the caller has to do next.

use super::{Revision, StoredValue};

/// A cause from below: the client library's error, or text.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what was asked.
///
/// Unless it is [`StorageError::OutcomeUnknown`], a write that failed was not applied and will not be.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A create found the key in use.
    #[error("key {key} exists already")]
    AlreadyExists {
        /// The key that was to be created.
        key: String,
    },
    /// A write found one of its guards written or deleted since the revision that the caller knows.
    #[error("key {key} was changed, on which the write depends")]
    GuardChanged {
        /// The guard's key.
        key: String,
    },
    /// The key of an update or delete is not there.
    #[error("key {key} does not exist")]
    NotFound {
        /// The key that was asked for.
        key: String,
    },
    /// The key was written after the revision that the caller knows.
    #[error("key {key} was changed at revision {}, expected was {expected}", current.mod_revision)]
    Conflict {
        /// The key that was to be written.
        key: String,
        /// The revision that the caller took for the last one.
        expected: Revision,
        /// The value as it is now, from the same transaction as the failed compare.
        current: StoredValue,
    },
    /// The history after the asked revision is no longer kept: list again.
    #[error("the changes after revision {asked} are no longer kept by the store (oldest: {oldest})")]
    Compacted {
        /// The revision that was asked for.
        asked: Revision,
        /// The oldest revision that is still kept, 0 if not known.
        oldest: Revision,
    },
    /// The store is behind a revision that it gave out before: it was restored from a backup, or replaced. List again.
    #[error("the store is at revision {current}, behind revision {asked}: it was restored from a backup or replaced")]
    FutureRevision {
        /// The revision that was asked for.
        asked: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// The request would be larger than the store accepts; nothing was sent.
    #[error("the write of key {key} takes {size} bytes, the limit is {limit}")]
    TooLarge {
        /// The key that was to be written.
        key: String,
        /// Size of the request in bytes, rounded up.
        size: usize,
        /// The largest size allowed, in bytes.
        limit: usize,
    },
    /// The store's database is full; reads go on. An operator has to compact, defragment and disarm the alarm.
    #[error("the store's database is full: compact and defragment it, then disarm its alarm")]
    NoSpace,
    /// The store cannot be reached or has no leader. A write was not applied. Trying again later is safe.
    #[error("the store is not available")]
    Unavailable(#[source] Cause),
    /// The answer to a write was lost, and the key does not tell whether the write was or will yet be applied: read again later.
    #[error("it is not known whether the write of key {key} was applied")]
    OutcomeUnknown {
        /// The key that was to be written.
        key: String,
        /// What kept the answer away.
        source: Cause,
    },
    /// The store refused the request for a reason that trying again does not cure: credentials, configuration, an unknown key encoding.
    #[error("the store refused the request")]
    Refused(#[source] Cause),
}

impl StorageError {
    /// The store cannot be reached, for a reason given in words.
    pub(crate) fn unavailable(reason: impl Into<Cause>) -> Self {
        Self::Unavailable(reason.into())
    }
}
