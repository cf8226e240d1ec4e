//! Finds out what became of a write whose answer was lost.
//!
//! A compare-and-swap can only be applied directly after the revision it expects. So the key's first change after that
//! revision tells everything: it is this write, or this write has lost for good. Only while the key still is as
//! expected nothing is known, because the request may still be on its way. What the write's guards became needs no look
//! of its own: it was done together with the write, or not at all.

use bytes::Bytes;
use etcd_client::{EventType, GetOptions, WatchOptions};

use super::{EtcdStorage, i64_revision, members::REQUEST_TIMEOUT, revision, stored};
use crate::storage::{Revision, StorageError, StoredValue};

/// What was tried.
#[derive(Clone, Copy)]
pub(super) enum Attempt<'a> {
    /// Put `value` after `expected`; 0 for a key that was not there.
    Put {
        /// The value sent.
        value: &'a Bytes,
        /// The revision in the compare.
        expected: Revision,
    },
    /// Delete the key after `expected`.
    Delete {
        /// The revision in the compare.
        expected: Revision,
    },
}

/// What became of it.
pub(super) enum Outcome {
    /// It was applied at this revision. Should somebody else have made the very same change, that is the same.
    Applied(Revision),
    /// Another write came first, so it never will be.
    Lost {
        /// What is under the key now.
        current: Option<StoredValue>,
        /// The first of the guards that was written or deleted, where that is known.
        changed: Option<String>,
    },
}

impl EtcdStorage {
    /// Nothing is returned while nothing is known: not applied so far, or no longer to be seen.
    pub(super) async fn outcome_of(&self, key: &str, attempt: Attempt<'_>) -> Result<Option<Outcome>, StorageError> {
        let etcd_key = self.etcd_key(key);
        let mut found = self.members.get(etcd_key.as_bytes(), &GetOptions::new()).await?;
        let now = found.take_kvs().pop();
        let expected = match attempt {
            Attempt::Put { expected, .. } | Attempt::Delete { expected } => expected,
        };
        if expected == Revision(0) {
            return self.outcome_of_create(&etcd_key, attempt, now).await;
        }
        if now.as_ref().is_some_and(|now| revision(now.mod_revision()) == expected) {
            return Ok(None);
        }
        let current = now.map(|now| stored(key, now));
        let (at, change) = self.first_change(&etcd_key, expected).await?;
        let ours = match (attempt, change) {
            (Attempt::Put { value, .. }, Some(put)) => put == value.as_ref(),
            (Attempt::Delete { .. }, None) => true,
            _ => false,
        };
        Ok(Some(if ours { Outcome::Applied(at) } else { Outcome::Lost { current, changed: None } }))
    }

    /// A create may be applied later than another's create and delete, so only a key that is there tells something.
    async fn outcome_of_create(
        &self,
        etcd_key: &str,
        attempt: Attempt<'_>,
        now: Option<etcd_client::KeyValue>,
    ) -> Result<Option<Outcome>, StorageError> {
        let (Some(now), Attempt::Put { value, .. }) = (now, attempt) else {
            return Ok(None);
        };
        let created = now.create_revision();
        let options = GetOptions::new().with_revision(created);
        let first = self.members.get(etcd_key.as_bytes(), &options).await?.take_kvs().pop();
        let ours = first.is_some_and(|first| first.value() == value.as_ref());
        Ok(ours.then(|| Outcome::Applied(revision(created))))
    }

    /// The key's first change after `after`, which the caller knows to exist: its revision, and the value unless it was deleted.
    async fn first_change(&self, etcd_key: &str, after: Revision) -> Result<(Revision, Option<Vec<u8>>), StorageError> {
        let options = WatchOptions::new().with_start_revision(i64_revision(after) + 1);
        let mut stream = self.members.watch(etcd_key.as_bytes(), &options, after).await?;
        let find = async {
            loop {
                let answer = stream.message().await.map_err(|error| StorageError::Unavailable(Box::new(error)))?;
                let answer = answer.ok_or_else(|| StorageError::unavailable("etcd closed the watch"))?;
                if answer.canceled() {
                    return Err(StorageError::unavailable(answer.cancel_reason().to_owned()));
                }
                if let Some(event) = answer.events().first()
                    && let Some(kv) = event.kv()
                {
                    let value = (event.event_type() == EventType::Put).then(|| kv.value().to_vec());
                    return Ok((revision(kv.mod_revision()), value));
                }
            }
        };
        tokio::time::timeout(REQUEST_TIMEOUT, find)
            .await
            .map_err(|_| StorageError::unavailable("etcd did not tell the key's history in time"))?
    }
}
