//! The last changes of one kind, kept in order for the watches of that kind.
//!
//! A bounded ring that all watches read from by position: a watch costs a cursor, not a buffer, and one that is too
//! slow finds its position overwritten. Read backwards, it gives the kind's state at a revision of the past.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use super::{Expired, Object};
use crate::storage::Revision;

/// One change of one object.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: Revision,
    /// The state before; nothing for a creation.
    pub previous: Option<Arc<Object>>,
    /// The state after; nothing for a deletion.
    pub current: Option<Arc<Object>>,
    departed: OnceLock<Arc<Object>>,
}

impl Event {
    pub(super) fn new(revision: Revision, previous: Option<Arc<Object>>, current: Option<Arc<Object>>) -> Self {
        Self { revision, previous, current, departed: OnceLock::new() }
    }

    /// The state before, with this event's revision as its resource version: what a watch shows of an object that is
    /// gone, or that its selector no longer matches. Encoded once for all watches.
    pub fn departed(&self) -> Option<&Arc<Object>> {
        let previous = self.previous.as_ref()?;
        Some(self.departed.get_or_init(|| Arc::new(previous.at_revision(self.revision))))
    }

    /// The namespace of the object.
    pub fn namespace(&self) -> Option<&str> {
        self.object().and_then(|object| object.namespace())
    }

    /// The object, in one of its states.
    pub(super) fn object(&self) -> Option<&Arc<Object>> {
        self.current.as_ref().or(self.previous.as_ref())
    }
}

/// The ring. Positions count events since the cache began and never repeat.
pub(super) struct History {
    events: VecDeque<Arc<Event>>,
    /// The position of the oldest event kept.
    first: u64,
    /// Every event after this revision is kept.
    start: Revision,
    /// Every single change after this revision is kept. Older events may each sum up several changes, which is enough
    /// for a watch, but does not tell the states in between.
    exact: Revision,
    capacity: usize,
}

impl History {
    /// An empty history that begins at `start`.
    pub(super) fn new(start: Revision, capacity: usize) -> Self {
        Self { events: VecDeque::new(), first: 0, start, exact: start, capacity }
    }

    pub(super) fn push(&mut self, event: Event) {
        if self.events.len() == self.capacity
            && let Some(oldest) = self.events.pop_front()
        {
            self.first += 1;
            self.start = oldest.revision;
        }
        self.events.push_back(Arc::new(event));
    }

    /// The position of the first event after `revision`.
    pub(super) fn position_after(&self, revision: Revision) -> Result<u64, Expired> {
        if revision < self.start {
            return Err(Expired { oldest: self.start });
        }
        let index = self.events.partition_point(|event| event.revision <= revision);
        Ok(self.first + index as u64)
    }

    /// The position after the newest event.
    pub(super) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The events from a position on.
    pub(super) fn since(&self, position: u64) -> Result<impl Iterator<Item = &Arc<Event>>, Expired> {
        let skip = position.checked_sub(self.first).ok_or(Expired { oldest: self.start })?;
        // a position is never past the end, so it fits
        Ok(self.events.range(usize::try_from(skip).unwrap_or(usize::MAX).min(self.events.len())..))
    }

    /// The events after `revision`, if they are all the changes there were.
    pub(super) fn changes_after(&self, revision: Revision) -> Result<impl Iterator<Item = &Arc<Event>>, Expired> {
        if revision < self.exact {
            return Err(Expired { oldest: self.exact });
        }
        self.since(self.position_after(revision)?)
    }

    /// Up to `revision` the events sum up changes that were not seen one by one.
    pub(super) fn summed_up_to(&mut self, revision: Revision) {
        self.exact = revision;
    }

    /// Forgets everything; the history begins anew at `start`, and every position given out so far is expired.
    pub(super) fn restart(&mut self, start: Revision) {
        self.first = self.end() + 1;
        self.events.clear();
        self.start = start;
        self.exact = start;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(revisions: &[u64], capacity: usize) -> History {
        let mut history = History::new(Revision(10), capacity);
        for revision in revisions {
            history.push(Event::new(Revision(*revision), None, None));
        }
        history
    }

    fn after(history: &History, revision: u64) -> Result<Vec<u64>, Expired> {
        let position = history.position_after(Revision(revision))?;
        Ok(history.since(position)?.map(|event| event.revision.0).collect())
    }

    #[test]
    fn serves_what_is_kept_and_nothing_else() {
        let history = history(&[11, 12, 12, 15], 4);
        assert_eq!(after(&history, 10), Ok(vec![11, 12, 12, 15]));
        assert_eq!(after(&history, 12), Ok(vec![15]));
        assert_eq!(after(&history, 20), Ok(vec![]));
        assert_eq!(after(&history, 9), Err(Expired { oldest: Revision(10) }));
    }

    #[test]
    fn a_revision_that_is_only_partly_kept_is_not_served_again() {
        let history = history(&[11, 12, 12, 15, 16], 3);
        assert_eq!(after(&history, 12), Ok(vec![15, 16]));
        assert_eq!(after(&history, 11), Err(Expired { oldest: Revision(12) }));
    }

    #[test]
    fn positions_expire_when_overwritten_and_on_a_restart() {
        let mut history = history(&[11, 12], 2);
        let position = history.position_after(Revision(10)).unwrap();
        assert!(history.since(position).is_ok());
        history.push(Event::new(Revision(13), None, None));
        assert!(history.since(position).is_err());
        let end = history.end();
        history.restart(Revision(50));
        assert!(history.since(end).is_err());
        assert_eq!(after(&history, 50), Ok(vec![]));
    }
}
