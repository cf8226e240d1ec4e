//! Follows etcd's changes from a revision on, and notices when etcd falls silent.
//!
//! The watch covers all of etcd and drops foreign keys here, so that each change moves the revision forward, whoever
//! made it: only events prove how far the watch has come. etcd's progress notifications do not (they run ahead of the
//! events in versions that are in use), they only show that somebody answers.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::{StreamExt as _, stream};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::{i64_revision, members::Members, plain_key, revision};
use crate::storage::{Revision, StorageError, StorageEvent, WatchBatch, WatchBatches};

/// How often etcd is asked for a sign of life.
const SIGN_OF_LIFE_INTERVAL: Duration = Duration::from_secs(4);
/// A watch on which nothing at all arrives for so long is given up.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);

/// Opens a watch of the keys that begin with `cluster` and `prefix`; keys in events are without `cluster`.
pub(super) async fn watch(
    members: &Members,
    cluster: String,
    prefix: String,
    after: Revision,
) -> Result<WatchBatches, StorageError> {
    // a watch from the future would wait in silence, while an etcd restored from a backup writes the same revisions anew
    let current = members.current_revision().await?;
    if current < after {
        return Err(StorageError::FutureRevision { asked: after, current });
    }
    // Beginning at `after` itself, whose events are dropped, makes etcd refuse unless it has everything after it: some
    // versions lose a deletion at the very revision of a compaction.
    let options = WatchOptions::new().with_all_keys().with_start_revision(i64_revision(after).max(1));
    let stream = members.watch(b"", &options, after).await?;
    let mut sign_of_life = tokio::time::interval(SIGN_OF_LIFE_INTERVAL);
    sign_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let watcher =
        Watcher { stream, sign_of_life, heard: Instant::now(), filter: Filter { cluster, prefix, last: after } };
    Ok(stream::unfold(Some(watcher), async |watcher| {
        let mut watcher = watcher?;
        let batch = watcher.next().await;
        let rest = batch.is_ok().then_some(watcher);
        Some((batch, rest))
    })
    .boxed())
}

struct Watcher {
    stream: WatchStream,
    sign_of_life: Interval,
    /// When anything last arrived.
    heard: Instant,
    filter: Filter,
}

impl Watcher {
    async fn next(&mut self) -> Result<WatchBatch, StorageError> {
        loop {
            let message = tokio::select! {
                message = self.stream.message() => message,
                _ = self.sign_of_life.tick() => {
                    if self.heard.elapsed() > SILENCE_LIMIT {
                        let limit = SILENCE_LIMIT.as_secs();
                        return Err(StorageError::unavailable(format!("nothing came from etcd on the watch for {limit} s")));
                    }
                    self.stream.request_progress().await.map_err(|error| StorageError::Unavailable(Box::new(error)))?;
                    continue;
                }
            };
            let answer = message
                .map_err(|error| StorageError::Unavailable(Box::new(error)))?
                .ok_or_else(|| StorageError::unavailable("etcd closed the watch"))?;
            self.heard = Instant::now();
            if answer.canceled() {
                return Err(self.canceled(&answer));
            }
            if let Some(batch) = self.filter.batch(answer.events().iter().filter_map(change)) {
                return Ok(batch);
            }
        }
    }

    fn canceled(&self, answer: &WatchResponse) -> StorageError {
        if answer.compact_revision() > 0 {
            return StorageError::Compacted { asked: self.filter.last, oldest: revision(answer.compact_revision()) };
        }
        StorageError::unavailable(format!("etcd ended the watch: {}", answer.cancel_reason()))
    }
}

/// One change as etcd tells it.
struct Change<'a> {
    revision: Revision,
    key: &'a [u8],
    /// Value, and whether the key is new; nothing if it was deleted.
    put: Option<(&'a [u8], bool)>,
}

fn change(event: &etcd_client::Event) -> Option<Change<'_>> {
    let kv = event.kv()?;
    let put = (event.event_type() == EventType::Put).then(|| (kv.value(), kv.version() == 1));
    Some(Change { revision: revision(kv.mod_revision()), key: kv.key(), put })
}

/// Makes batches of changes: each change once, in order, only what is below the prefix.
struct Filter {
    cluster: String,
    prefix: String,
    /// Everything up to here has been delivered.
    last: Revision,
}

impl Filter {
    /// The batch for one answer of etcd; nothing if the answer holds nothing new.
    fn batch<'a>(&mut self, changes: impl Iterator<Item = Change<'a>>) -> Option<WatchBatch> {
        // etcd 3.4 repeats events after a reconnect and may go back in time
        let last = self.last;
        let mut changes: Vec<Change<'a>> = changes.filter(|change| change.revision > last).collect();
        changes.sort_by_key(|change| change.revision);
        self.last = changes.last()?.revision;
        let events = changes.into_iter().filter_map(|change| self.event(&change)).collect();
        Some(WatchBatch { revision: self.last, events })
    }

    fn event(&self, change: &Change<'_>) -> Option<StorageEvent> {
        let key = plain_key(&self.cluster, change.key).filter(|key| key.starts_with(&self.prefix))?;
        let revision = change.revision;
        Some(match change.put {
            Some((value, created)) => {
                StorageEvent::Put { key, value: Bytes::copy_from_slice(value), revision, created }
            }
            None => StorageEvent::Delete { key, revision },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: u64, key: &str) -> Change<'_> {
        Change { revision: Revision(revision), key: key.as_bytes(), put: Some((b"v", false)) }
    }

    fn revisions(batch: &WatchBatch) -> Vec<u64> {
        batch.events.iter().map(|event| event.revision().0).collect()
    }

    #[test]
    fn repeated_and_old_events_are_dropped() {
        let mut filter = Filter { cluster: String::new(), prefix: "/registry/".into(), last: Revision(5) };
        let batch =
            filter.batch([put(5, "/registry/a"), put(7, "/registry/a"), put(6, "/registry/b")].into_iter()).unwrap();
        assert_eq!((batch.revision, revisions(&batch)), (Revision(7), vec![6, 7]));
        assert!(filter.batch([put(6, "/registry/b"), put(7, "/registry/a")].into_iter()).is_none());
    }

    #[test]
    fn foreign_keys_move_the_revision_on() {
        let mut filter = Filter { cluster: "/here".into(), prefix: "/registry/".into(), last: Revision(5) };
        let batch = filter.batch([put(6, "/elsewhere/registry/a"), put(7, "/here/other")].into_iter()).unwrap();
        assert_eq!((batch.revision, batch.events.len()), (Revision(7), 0));
        let batch = filter.batch([put(8, "/here/registry/a")].into_iter()).unwrap();
        assert_eq!(batch.events[0].key(), "/registry/a");
    }
}
