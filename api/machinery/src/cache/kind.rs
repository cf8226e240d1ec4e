//! All objects of one kind: the present state, its revision and its recent history under one lock, so that what is read
//! together belongs together.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::watch;

use super::{
    Expired, Object, Watcher,
    history::{Event, History},
};
use crate::storage::Revision;

/// The objects of one kind and the history of their changes.
pub struct KindCache {
    state: RwLock<State>,
    /// How far the whole cache has come; it is moved on only after every kind has taken in what happened up to there.
    progress: watch::Receiver<Revision>,
    /// Bumped after each change, to wake the watches.
    changed: watch::Sender<()>,
}

/// What the lock guards.
pub(super) struct State {
    objects: BTreeMap<Box<str>, Arc<Object>>,
    /// The revision of the newest change of this kind, or of the list it was filled from.
    revision: Revision,
    history: History,
    closed: bool,
    /// What came before the kind was filled, if it is not filled yet.
    early: Option<Vec<Change>>,
}

/// A change of one object of the kind, decoded.
pub(super) struct Change {
    /// `<namespace>/<name>` or `<name>`.
    pub(super) path: Box<str>,
    pub(super) revision: Revision,
    /// The new state; nothing for a deletion.
    pub(super) object: Option<Arc<Object>>,
}

/// The objects of a kind in a list of the store.
pub(super) type Listed = BTreeMap<Box<str>, ListedObject>;

/// One object in a list of the store.
pub(super) enum ListedObject {
    /// As it is now.
    Decoded(Arc<Object>),
    /// There, but its bytes could not be read. The last readable state, if there is one, stays.
    Undecodable,
}

impl KindCache {
    pub(super) fn new(progress: watch::Receiver<Revision>, history: usize) -> Self {
        let state = State {
            objects: BTreeMap::new(),
            revision: Revision(0),
            // nothing can be watched before the first list
            history: History::new(Revision(u64::MAX), history),
            closed: false,
            early: None,
        };
        Self { state: RwLock::new(state), progress, changed: watch::Sender::new(()) }
    }

    /// A kind that comes while the cache is fed: changes wait until it is filled.
    pub(super) fn filling(progress: watch::Receiver<Revision>, history: usize) -> Self {
        let kind = Self::new(progress, history);
        kind.write().early = Some(Vec::new());
        kind
    }

    /// One object.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<Object>> {
        let state = self.read();
        match namespace {
            Some(namespace) => state.objects.get(format!("{namespace}/{name}").as_str()).cloned(),
            None => state.objects.get(name).cloned(),
        }
    }

    /// All objects, or those of one namespace, in the order of their keys, and the revision at which the list is exactly so.
    pub fn list(&self, namespace: Option<&str>) -> (Revision, Vec<Arc<Object>>) {
        let state = self.read();
        let objects = match namespace {
            None => state.objects.values().cloned().collect(),
            Some(namespace) => {
                let prefix = format!("{namespace}/");
                let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
                let in_namespace =
                    state.objects.range::<str, _>(from).take_while(|(path, _)| path.starts_with(&prefix));
                in_namespace.map(|(_, object)| object.clone()).collect()
            }
        };
        (self.revision_of(&state), objects)
    }

    /// The changes after `after`, of all objects or of those of one namespace.
    ///
    /// # Errors
    /// [`Expired`] if not all of them are kept: the client has to list again.
    pub fn watch(self: &Arc<Self>, namespace: Option<String>, after: Revision) -> Result<Watcher, Expired> {
        // subscribed before the position is taken, so that no change falls between
        let changed = self.changed.subscribe();
        let position = self.read().history.position_after(after)?;
        Ok(Watcher::new(self.clone(), changed, namespace, position, after))
    }

    /// Up to which revision the kind's content is known. Grows with the whole store, also while the kind is idle.
    pub fn revision(&self) -> Revision {
        self.revision_of(&self.read())
    }

    /// The revision of the kind's newest change, or of the list that it was filled from.
    pub fn changed_at(&self) -> Revision {
        self.read().revision
    }

    /// How many objects there are.
    pub fn count(&self) -> usize {
        self.read().objects.len()
    }

    /// Takes in changes, in their order, as one step.
    pub(super) fn apply(&self, changes: Vec<Change>) {
        let mut state = self.write();
        match &mut state.early {
            Some(early) => early.extend(changes),
            None => changes.into_iter().for_each(|change| state.apply(change)),
        }
        drop(state);
        self.wake();
    }

    /// Takes in the first list, and then what came since. A kind that a list of the whole store has filled meanwhile
    /// is as new as it should be.
    pub(super) fn fill(&self, listed: Listed, at: Revision) {
        let mut state = self.write();
        let Some(early) = state.early.take() else { return };
        state.restart(listed, at);
        early.into_iter().filter(|change| change.revision > at).for_each(|change| state.apply(change));
        drop(state);
        self.wake();
    }

    /// No watch gets anything any more.
    pub(super) fn close(&self) {
        self.write().closed = true;
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.changed.send_replace(());
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        // a panic while it was held for writing cannot leave it inconsistent: changes are made of infallible steps
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The revision of the state, which is locked: the cache's progress cannot pass a change that this kind has not taken in.
    pub(super) fn revision_of(&self, state: &State) -> Revision {
        state.revision.max(*self.progress.borrow())
    }
}

impl State {
    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn objects(&self) -> &BTreeMap<Box<str>, Arc<Object>> {
        &self.objects
    }

    pub(super) fn closed(&self) -> bool {
        self.closed
    }

    fn apply(&mut self, change: Change) {
        let Change { path, revision, object } = change;
        self.revision = revision;
        let previous = match &object {
            Some(object) => self.objects.insert(path, object.clone()),
            // a deletion of what was never readable concerns nobody
            None => match self.objects.remove(&path) {
                Some(last) => Some(last),
                None => return,
            },
        };
        self.history.push(Event::new(revision, previous, object));
    }

    /// Takes in a list after the changes between were lost, and tells the watches the difference.
    ///
    /// Several changes of one object become one. What is gone is told at the list's revision, what was deleted and
    /// created anew is told as both.
    pub(super) fn catch_up(&mut self, listed: Listed, at: Revision) {
        for change in self.difference(listed, at) {
            self.apply(change);
        }
        self.revision = at;
        self.history.summed_up_to(at);
    }

    fn difference(&self, listed: Listed, at: Revision) -> Vec<Change> {
        let gone = self.objects.keys().filter(|path| !listed.contains_key(*path));
        let mut changes: Vec<Change> =
            gone.map(|path| Change { path: path.clone(), revision: at, object: None }).collect();
        for (path, object) in listed {
            let ListedObject::Decoded(object) = object else { continue };
            let revision = object.resource_version();
            match self.objects.get(&path) {
                Some(known) if known.resource_version() == revision => continue,
                Some(known) if known.uid() != object.uid() => {
                    // it was gone at the latest directly before its successor's last write
                    let gone = Revision(revision.0.saturating_sub(1));
                    changes.push(Change { path: path.clone(), revision: gone, object: None });
                }
                _ => {}
            }
            changes.push(Change { path, revision, object: Some(object) });
        }
        changes.sort_by_key(|change| change.revision);
        changes
    }

    /// Takes in a list that has no connection to what was known before: every watch is expired.
    pub(super) fn restart(&mut self, listed: Listed, at: Revision) {
        let decoded = |(path, object)| match object {
            ListedObject::Decoded(object) => Some((path, object)),
            ListedObject::Undecodable => None,
        };
        self.objects = listed.into_iter().filter_map(decoded).collect();
        self.revision = at;
        self.history.restart(at);
        self.early = None;
    }
}
