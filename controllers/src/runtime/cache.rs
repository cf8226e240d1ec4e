//! One kind, kept in memory by a watch and shared by all controllers that read it.
//!
//! Each kind is watched once per process. An object that cannot be read as its kind is logged and counted, and the last
//! readable version is kept: it neither stalls the watch nor looks as if it were gone. Whoever decides to destroy
//! something reads again from the server first; a cache alone is never a proof of absence.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::ExponentialBuilder;
use futures::StreamExt as _;
use kube::{
    Api,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        reflector::{Lookup, ObjectRef, Store, store::Writer},
        watcher::{self, ExponentialBackoff},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Kind, metrics::Metrics, uid_of};

/// How an object changed. Making one again under the same name is two changes: the old one goes, the new one comes.
#[derive(Debug)]
pub struct Change<K> {
    /// The object as it was known before; none if it is new.
    pub old: Option<Arc<K>>,
    /// The object as it is; none if it is gone.
    pub new: Option<Arc<K>>,
}

impl<K: Kind> Change<K> {
    /// The object itself, in its newest form.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Whether what `aspect` shows of the object differs before and after.
    pub fn differs<T: PartialEq>(&self, aspect: impl Fn(&K) -> T) -> bool {
        self.old.as_deref().map(&aspect) != self.new.as_deref().map(&aspect)
    }
}

type Listener<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// The objects of one kind, as of the last event of their watch.
pub struct Cache<K: Kind> {
    store: Store<K>,
    listeners: Arc<Mutex<Vec<Listener<K>>>>,
    complete: CancellationToken,
}

impl<K: Kind> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), listeners: Arc::clone(&self.listeners), complete: self.complete.clone() }
    }
}

impl<K: Kind> Cache<K> {
    /// An empty cache, and what fills it.
    pub fn new() -> (Self, Feed<K>) {
        let writer = Writer::<K>::default();
        let cache = Self { store: writer.as_reader(), listeners: Arc::default(), complete: CancellationToken::new() };
        (cache.clone(), Feed { cache, writer, listed: HashMap::new() })
    }

    /// Calls `listener` after each change, in the order of the changes. It must not block. Listeners that come after
    /// the feed was started miss what was before.
    pub fn on_change(&self, listener: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// The object of this name; `namespace` is none for kinds of the whole installation.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        self.store.get(&object_ref(namespace, name))
    }

    /// All objects, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// kube's own view of the cache.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Waits until the first list is complete, and every listener has been told of every object in it.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + use<K> {
        self.complete.clone().cancelled_owned()
    }

    fn notify(&self, change: &Change<K>) {
        for listener in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(change);
        }
    }
}

/// The reference to an object by its name.
pub fn object_ref<K: Kind>(namespace: Option<&str>, name: &str) -> ObjectRef<K> {
    let reference = ObjectRef::new(name);
    match namespace {
        Some(namespace) => reference.within(namespace),
        None => reference,
    }
}

/// Fills a [`Cache`] from a watch.
pub struct Feed<K: Kind> {
    cache: Cache<K>,
    writer: Writer<K>,
    listed: HashMap<ObjectRef<K>, K>,
}

impl<K: Kind> Feed<K> {
    /// Follows the watch for ever. When the server is away it keeps asking, at most 5 s apart.
    pub async fn run(mut self, api: Api<DeserializeGuard<K>>, metrics: Arc<Metrics>) {
        let kind = K::kind(&()).into_owned();
        let waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(Duration::from_secs(5))
            .with_jitter()
            .without_max_times();
        let events = watcher::watcher(api, watcher::Config::default()).backoff(ExponentialBackoff::from(waits));
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    for invalid in self.accept(event) {
                        metrics.malformed_object(&kind);
                        error!(kind, object = %invalid.reference, error = invalid.error, "object ignored: it cannot be read");
                    }
                }
                Err(error) => {
                    metrics.watch_error(&kind);
                    warn!(kind, %error, "watch interrupted, going on");
                }
            }
        }
    }

    /// Takes in one event, and tells which objects could not be read.
    pub(super) fn accept(&mut self, event: watcher::Event<DeserializeGuard<K>>) -> Vec<Malformed<K>> {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut malformed = Vec::new();
        match event {
            Apply(guard) => match readable(guard) {
                Ok(object) => self.apply(object),
                Err(bad) => malformed.push(*bad),
            },
            Delete(guard) => {
                let (reference, uid) = match &guard.0 {
                    Ok(object) => (object.to_object_ref(()), object.meta().uid.clone()),
                    Err(bad) => (reference_of(&bad.metadata), bad.metadata.uid.clone()),
                };
                self.delete(&reference, uid.as_deref());
            }
            Init => self.listed.clear(),
            InitApply(guard) => match readable(guard) {
                Ok(object) => drop(self.listed.insert(object.to_object_ref(()), object)),
                Err(bad) => {
                    if let Some(last_readable) = self.cache.store.get(&bad.reference) {
                        self.listed.insert(bad.reference.clone(), K::clone(&last_readable));
                    }
                    malformed.push(*bad);
                }
            },
            InitDone => self.replace(),
        }
        malformed
    }

    fn apply(&mut self, object: K) {
        let reference = object.to_object_ref(());
        let old = self.cache.store.get(&reference);
        self.writer.apply_watcher_event(&watcher::Event::Apply(object));
        self.changed(old, self.cache.store.get(&reference));
    }

    fn delete(&mut self, reference: &ObjectRef<K>, uid: Option<&str>) {
        // a deletion that arrives late must not take the successor of the same name with it
        if let Some(old) = self.cache.store.get(reference).filter(|old| old.meta().uid.as_deref() == uid) {
            self.writer.apply_watcher_event(&watcher::Event::Delete(K::clone(&old)));
            self.changed(Some(old), None);
        }
    }

    fn replace(&mut self) {
        let before: HashMap<_, _> =
            self.cache.store.state().into_iter().map(|object| (object.to_object_ref(()), object)).collect();
        self.writer.apply_watcher_event(&watcher::Event::Init);
        for (_, object) in self.listed.drain() {
            self.writer.apply_watcher_event(&watcher::Event::InitApply(object));
        }
        self.writer.apply_watcher_event(&watcher::Event::InitDone);
        for (reference, old) in &before {
            if self.cache.store.get(reference).is_none() {
                self.changed(Some(Arc::clone(old)), None);
            }
        }
        for new in self.cache.store.state() {
            let old = before.get(&new.to_object_ref(()));
            let same = old.is_some_and(|old| old.meta().resource_version == new.meta().resource_version);
            if !same {
                self.changed(old.cloned(), Some(new));
            }
        }
        self.cache.complete.cancel();
    }

    fn changed(&self, old: Option<Arc<K>>, new: Option<Arc<K>>) {
        match (old, new) {
            (Some(old), Some(new)) if uid_of(&*old) != uid_of(&*new) => {
                self.cache.notify(&Change { old: Some(old), new: None });
                self.cache.notify(&Change { old: None, new: Some(new) });
            }
            (old, new) => self.cache.notify(&Change { old, new }),
        }
    }
}

/// An object that is not what its kind says.
pub(super) struct Malformed<K: Kind> {
    reference: ObjectRef<K>,
    error: String,
}

fn reference_of<K: Kind>(meta: &kube::core::ObjectMeta) -> ObjectRef<K> {
    object_ref(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default())
}

fn readable<K: Kind>(guard: DeserializeGuard<K>) -> Result<K, Box<Malformed<K>>> {
    guard.0.map_err(|bad| Box::new(Malformed { reference: reference_of(&bad.metadata), error: bad.error }))
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
    use serde_json::json;
    use ucloud_types::Host;

    use super::*;

    fn host(name: &str, uid: &str, version: &str) -> DeserializeGuard<Host> {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host",
            "metadata": {"name": name, "uid": uid, "resourceVersion": version}, "spec": {},
        }))
        .unwrap()
    }

    fn bad_host(name: &str) -> DeserializeGuard<Host> {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host",
            "metadata": {"name": name, "uid": "u", "resourceVersion": "9"}, "spec": {"roles": 7},
        }))
        .unwrap()
    }

    type Seen = Arc<Mutex<Vec<String>>>;

    fn watched() -> (Cache<Host>, Feed<Host>, Seen) {
        let (cache, feed) = Cache::new();
        let seen = Seen::default();
        let log = Arc::clone(&seen);
        cache.on_change(move |change: &Change<Host>| {
            let uid = |object: &Option<Arc<Host>>| object.as_deref().map_or("-".to_owned(), |h| uid_of(h).to_owned());
            log.lock().unwrap().push(format!("{}>{}", uid(&change.old), uid(&change.new)));
        });
        (cache, feed, seen)
    }

    fn take(seen: &Seen) -> Vec<String> {
        let mut list = std::mem::take(&mut *seen.lock().unwrap());
        list.sort();
        list
    }

    /// Pattern 9: an empty cache is not an empty installation, and neither is one of which listeners know only a part.
    #[test]
    fn is_ready_only_when_every_listener_knows_everything() {
        use futures::FutureExt as _;
        let (cache, mut feed, seen) = watched();
        let ready = cache.clone();
        let was_ready = Arc::new(Mutex::new(None));
        let log = Arc::clone(&was_ready);
        cache.on_change(move |_| *log.lock().unwrap() = Some(ready.ready().now_or_never().is_some()));
        for event in [Init, InitApply(host("a", "1", "1"))] {
            feed.accept(event);
        }
        assert!(cache.ready().now_or_never().is_none());
        feed.accept(InitDone);
        assert_eq!(*was_ready.lock().unwrap(), Some(false), "not before the last listener returned");
        assert!(cache.ready().now_or_never().is_some());
        assert_eq!(take(&seen).len(), 1);
    }

    #[test]
    fn a_new_list_tells_what_came_changed_and_went() {
        let (cache, mut feed, seen) = watched();
        for event in [Init, InitApply(host("a", "1", "1")), InitApply(host("b", "2", "2")), InitDone] {
            feed.accept(event);
        }
        assert_eq!(take(&seen), ["->1", "->2"]);
        for event in
            [Init, InitApply(host("a", "1", "1")), InitApply(host("c", "3", "3")), InitApply(host("d", "4", "4"))]
        {
            feed.accept(event);
        }
        assert!(take(&seen).is_empty(), "an incomplete list says nothing");
        assert!(cache.get(None, "b").is_some(), "an incomplete list removes nothing");
        feed.accept(InitDone);
        assert_eq!(take(&seen), ["->3", "->4", "2>-"], "a is unchanged and no news");
    }

    /// Pattern 4: an object that is made again under one name is another object, even if its deletion was never seen.
    #[test]
    fn a_change_of_uid_is_a_deletion_and_a_creation() {
        let (_cache, mut feed, seen) = watched();
        feed.accept(Apply(host("a", "1", "1")));
        take(&seen);
        feed.accept(Apply(host("a", "2", "5")));
        assert_eq!(take(&seen), ["->2", "1>-"]);
    }

    /// Pattern 1, seen from a cache: an old deletion does not take the successor away.
    #[test]
    fn a_late_deletion_spares_the_successor() {
        let (cache, mut feed, seen) = watched();
        feed.accept(Apply(host("a", "2", "5")));
        take(&seen);
        feed.accept(Delete(host("a", "1", "3")));
        assert!(take(&seen).is_empty());
        assert!(cache.get(None, "a").is_some());
    }

    #[test]
    fn an_unreadable_object_neither_stalls_nor_vanishes() {
        let (cache, mut feed, seen) = watched();
        feed.accept(Apply(host("a", "u", "1")));
        take(&seen);
        assert_eq!(feed.accept(Apply(bad_host("a"))).len(), 1);
        for event in [Init, InitApply(bad_host("a")), InitApply(bad_host("new")), InitDone] {
            feed.accept(event);
        }
        assert!(take(&seen).is_empty());
        assert!(cache.get(None, "a").is_some(), "the last readable version is kept");
        assert!(cache.get(None, "new").is_none());
    }
}
