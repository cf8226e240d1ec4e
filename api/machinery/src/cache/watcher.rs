//! One client's watch of one kind: a cursor into the kind's history.

use std::sync::Arc;

use tokio::sync::watch;

use super::{KindCache, history::Event};
use crate::storage::Revision;

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchEnd {
    /// The watch was too slow, or the history was lost: the client has to list again.
    #[error("the changes that come next are no longer kept")]
    Expired,
    /// The cache was shut down, or its kind went or changed its form: the client may watch again from where it was.
    #[error("the watch was closed, since the server is shutting down or serves the kind no more")]
    Closed,
}

/// Follows the changes of a kind.
pub struct Watcher {
    kind: Arc<KindCache>,
    changed: watch::Receiver<()>,
    namespace: Option<String>,
    /// The position in the history of the event that comes next.
    position: u64,
    /// The revision asked for at first, or that of the newest event passed.
    seen: Revision,
}

impl Watcher {
    pub(super) fn new(
        kind: Arc<KindCache>,
        changed: watch::Receiver<()>,
        namespace: Option<String>,
        position: u64,
        seen: Revision,
    ) -> Self {
        Self { kind, changed, namespace, position, seen }
    }

    /// Waits for the next changes and returns all there are, in order. Cancelling loses nothing.
    ///
    /// # Errors
    /// Why there will be no more.
    pub async fn next(&mut self) -> Result<Vec<Arc<Event>>, WatchEnd> {
        loop {
            self.changed.mark_unchanged();
            let events = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
            // the sender lives in the kind, which this watch holds
            self.changed.changed().await.map_err(|_| WatchEnd::Closed)?;
        }
    }

    /// Up to which revision everything has been delivered; for bookmarks.
    pub fn revision(&self) -> Revision {
        let state = self.kind.read();
        if state.history().end() > self.position {
            return self.seen;
        }
        self.seen.max(self.kind.revision_of(&state))
    }

    /// What has come since, without waiting.
    fn take(&mut self) -> Result<Vec<Arc<Event>>, WatchEnd> {
        let state = self.kind.read();
        let mut seen = self.seen;
        let mut events = Vec::new();
        for event in state.history().since(self.position).map_err(|_| WatchEnd::Expired)? {
            // a client may begin at a revision that the cache has yet to reach
            if event.revision <= self.seen {
                continue;
            }
            seen = event.revision;
            if self.namespace.is_none() || self.namespace.as_deref() == event.namespace() {
                events.push(event.clone());
            }
        }
        // what came before the end is told still
        if events.is_empty() && state.closed() {
            return Err(WatchEnd::Closed);
        }
        self.position = state.history().end();
        self.seen = seen;
        Ok(events)
    }
}
