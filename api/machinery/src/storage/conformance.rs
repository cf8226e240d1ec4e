//! What every [`Storage`] promises, as one suite that runs against each of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt as _,
    future::{BoxFuture, join_all},
};

use super::{Guard, MAX_REQUEST_BYTES, Revision, Storage, StorageError, StorageEvent, StoredValue, WatchBatches};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A fresh, empty store, and what only an operator can do to it.
pub(super) struct Subject {
    pub(super) storage: Arc<dyn Storage>,
    /// Forgets the changes up to a revision.
    pub(super) compact: Box<dyn Fn(Revision) -> BoxFuture<'static, ()>>,
}

/// Runs every case, each on a fresh store.
pub(super) async fn run_all(fresh: impl AsyncFn() -> Subject) {
    create_finds_out_whether_the_key_is_in_use(&*fresh().await.storage).await;
    update_and_delete_compare_the_revision(&*fresh().await.storage).await;
    each_write_moves_the_revision_by_one(&*fresh().await.storage).await;
    list_shows_exactly_the_prefix_in_order(&*fresh().await.storage).await;
    list_is_one_revision_while_others_write(fresh().await.storage).await;
    the_past_can_be_listed_until_it_is_compacted(fresh().await).await;
    of_eight_writers_none_loses_an_update(fresh().await.storage).await;
    watch_brings_the_past_and_the_present(&*fresh().await.storage).await;
    watch_of_a_compacted_past_is_refused(fresh().await).await;
    watch_of_the_future_is_refused(&*fresh().await.storage).await;
    what_has_a_time_to_live_goes(&*fresh().await.storage).await;
    a_write_depends_on_its_guards(&*fresh().await.storage).await;
    what_guards_become_is_written_with_the_key_or_not_at_all(&*fresh().await.storage).await;
    what_is_too_large_is_refused_before_it_is_sent(&*fresh().await.storage).await;
}

async fn the_past_can_be_listed_until_it_is_compacted(subject: Subject) {
    let storage = &*subject.storage;
    let text = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let mut written = BTreeMap::new();
    for name in ["a", "b", "c", "d"] {
        let key = format!("/registry/g/past/{name}");
        written.insert(name, storage.create(&key, text("old"), None, &[]).await.unwrap());
    }
    storage.create("/registry/g/pastries/x", text("other"), None, &[]).await.unwrap();
    let then = storage.current_revision().await.unwrap();
    storage.update("/registry/g/past/b", text("new"), written["b"], None, &[]).await.unwrap();
    storage.delete("/registry/g/past/c", written["c"], &[]).await.unwrap();
    let new = storage.create("/registry/g/past/e", text("new"), None, &[]).await.unwrap();
    storage.update("/registry/g/past/e", text("newer"), new, None, &[]).await.unwrap();

    let past = async |after: &str, limit| {
        let listing = storage.list_past("/registry/g/past/", after, then, limit).await.unwrap();
        let told = listing.values.iter().map(|it| {
            let name = it.key.trim_start_matches("/registry/g/past/");
            format!("{name} {} {}", it.mod_revision == written[name], String::from_utf8_lossy(&it.value))
        });
        (told.collect::<Vec<_>>(), listing.rest)
    };
    assert_eq!(
        past("", 9).await,
        (["a true old", "b true old", "c true old", "d true old"].map(str::to_owned).into(), 0)
    );
    assert_eq!(past("", 2).await.1, 2);
    assert_eq!(past("/registry/g/past/b", 1).await, (vec!["c true old".to_owned()], 1));
    let now = storage.current_revision().await.unwrap();
    (subject.compact)(now).await;
    let compacted = storage.list_past("/registry/g/past/", "", then, 9).await;
    assert!(matches!(compacted, Err(StorageError::Compacted { .. })), "{compacted:?}");
    assert!(storage.list_past("/registry/g/past/", "", now, 9).await.unwrap().values.len() == 4);
}

/// Reads events until `enough`, and checks what holds for every watch.
pub(super) async fn events_until(
    watch: &mut WatchBatches,
    mut enough: impl FnMut(&[StorageEvent]) -> bool,
) -> Vec<StorageEvent> {
    let mut events: Vec<StorageEvent> = Vec::new();
    let mut last = Revision(0);
    while !enough(&events) {
        let batch = tokio::time::timeout(PATIENCE, watch.next()).await;
        let batch = batch.unwrap_or_else(|_| panic!("no batch in time; so far: {events:?}")).unwrap().unwrap();
        assert!(batch.revision > last, "batches move forward");
        assert!(batch.events.iter().all(|event| event.revision() > last), "no revision is split or repeated");
        assert!(batch.events.iter().all(|event| event.revision() <= batch.revision));
        assert!(batch.events.is_sorted_by_key(StorageEvent::revision));
        last = batch.revision;
        events.extend(batch.events);
    }
    events
}

/// The state that events lead to.
pub(super) fn replay<'a>(events: impl IntoIterator<Item = &'a StorageEvent>) -> BTreeMap<String, StoredValue> {
    let mut state = BTreeMap::new();
    for event in events {
        match event.clone() {
            StorageEvent::Put { key, value, revision, created } => {
                assert_eq!(created, !state.contains_key(&key), "created is told rightly for {key}");
                state.insert(key.clone(), StoredValue { key, value, mod_revision: revision });
            }
            StorageEvent::Delete { key, .. } => {
                assert!(state.remove(&key).is_some(), "only what exists is deleted");
            }
        }
    }
    state
}

fn text(value: &str) -> Bytes {
    Bytes::copy_from_slice(value.as_bytes())
}

async fn create_finds_out_whether_the_key_is_in_use(storage: &dyn Storage) {
    let key = "/registry/g/things/n/a";
    assert_eq!(storage.get(key).await.unwrap(), None);
    let revision = storage.create(key, text("1"), None, &[]).await.unwrap();
    let stored = StoredValue { key: key.into(), value: text("1"), mod_revision: revision };
    assert_eq!(storage.get(key).await.unwrap(), Some(stored.clone()));
    let again = storage.create(key, text("2"), None, &[]).await;
    assert!(matches!(again, Err(StorageError::AlreadyExists { key: ref k }) if k == key), "{again:?}");
    assert_eq!(storage.get(key).await.unwrap(), Some(stored));
    storage.delete(key, revision, &[]).await.unwrap();
    storage.create(key, text("3"), None, &[]).await.unwrap();
}

async fn update_and_delete_compare_the_revision(storage: &dyn Storage) {
    let key = "/registry/g/things/n/a";
    let missing = storage.update(key, text("1"), Revision(1), None, &[]).await;
    assert!(matches!(missing, Err(StorageError::NotFound { .. })), "{missing:?}");
    let missing = storage.delete(key, Revision(1), &[]).await;
    assert!(matches!(missing, Err(StorageError::NotFound { .. })), "{missing:?}");

    let first = storage.create(key, text("1"), None, &[]).await.unwrap();
    let second = storage.update(key, text("2"), first, None, &[]).await.unwrap();
    let now = StoredValue { key: key.into(), value: text("2"), mod_revision: second };
    for late in [storage.update(key, text("3"), first, None, &[]).await, storage.delete(key, first, &[]).await] {
        let Err(StorageError::Conflict { current, expected, .. }) = late else { panic!("{late:?}") };
        assert_eq!((current, expected), (now.clone(), first));
    }
    assert_eq!(storage.get(key).await.unwrap(), Some(now));
    let deleted = storage.delete(key, second, &[]).await.unwrap();
    assert!(deleted > second);
    assert_eq!(storage.get(key).await.unwrap(), None);
}

async fn each_write_moves_the_revision_by_one(storage: &dyn Storage) {
    let start = storage.current_revision().await.unwrap();
    let a = storage.create("/registry/g/things/n/a", text("1"), None, &[]).await.unwrap();
    let b = storage.update("/registry/g/things/n/a", text("2"), a, None, &[]).await.unwrap();
    assert_eq!(storage.current_revision().await.unwrap(), b);
    let c = storage.delete("/registry/g/things/n/a", b, &[]).await.unwrap();
    assert_eq!([a, b, c], [1, 2, 3].map(|step| Revision(start.0 + step)));
    storage.delete("/registry/g/things/n/a", c, &[]).await.unwrap_err();
    assert_eq!(storage.current_revision().await.unwrap(), c, "what fails moves nothing");
}

async fn list_shows_exactly_the_prefix_in_order(storage: &dyn Storage) {
    // more than two pages
    let keys: Vec<String> = (0..1201).map(|n| format!("/registry/g/things/n/{n:04}")).collect();
    for key in keys.iter().rev() {
        storage.create(key, text(key), None, &[]).await.unwrap();
    }
    storage.create("/registry/g/thing", text(""), None, &[]).await.unwrap();
    storage.create("/registry/g/thingsandmore/n/a", text(""), None, &[]).await.unwrap();
    let last = storage.create("/registry/g/things0", text(""), None, &[]).await.unwrap();

    let listing = storage.list("/registry/g/things/").await.unwrap();
    assert_eq!(listing.revision, last);
    assert_eq!(listing.values.iter().map(|value| &value.key).collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
    assert!(listing.values.iter().all(|value| value.value == value.key));
    assert_eq!(storage.list("/registry/g/nothing/").await.unwrap().values, []);
    assert_eq!(storage.list("/registry/").await.unwrap().values.len(), keys.len() + 3);
}

async fn list_is_one_revision_while_others_write(storage: Arc<dyn Storage>) {
    let start = storage.current_revision().await.unwrap();
    let keys: Vec<String> = (0..600).map(|n| format!("/registry/g/things/n/{n:04}")).collect();
    let mut revisions = Vec::new();
    for key in &keys {
        revisions.push(storage.create(key, text("0"), None, &[]).await.unwrap());
    }
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (storage, stop, keys) = (storage.clone(), stop.clone(), keys.clone());
        async move {
            // back and forth, so that a list of several moments would mix old and new
            for index in (0..keys.len()).rev().chain(0..keys.len()).cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                revisions[index] = storage.update(&keys[index], text("1"), revisions[index], None, &[]).await.unwrap();
            }
        }
    });
    let mut listings = Vec::new();
    for _ in 0..5 {
        listings.push(storage.list("/registry/").await.unwrap());
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    assert!(listings.is_sorted_by_key(|listing| listing.revision));

    let mut watch = storage.watch("/registry/", start).await.unwrap();
    let newest = storage.current_revision().await.unwrap();
    let events = events_until(&mut watch, |events| events.last().is_some_and(|last| last.revision() == newest)).await;
    for listing in listings {
        let then = replay(events.iter().take_while(|event| event.revision() <= listing.revision));
        assert_eq!(listing.values, then.into_values().collect::<Vec<_>>());
    }
}

async fn of_eight_writers_none_loses_an_update(storage: Arc<dyn Storage>) {
    const KEY: &str = "/registry/g/things/n/counter";
    const EACH: usize = 25;
    storage.create(KEY, text("0"), None, &[]).await.unwrap();
    let writers = (0..8).map(|_| {
        let storage = storage.clone();
        tokio::spawn(async move {
            let mut done = Vec::new();
            let mut current = storage.get(KEY).await.unwrap().unwrap();
            while done.len() < EACH {
                let count: usize = std::str::from_utf8(&current.value).unwrap().parse().unwrap();
                let next = text(&(count + 1).to_string());
                match storage.update(KEY, next.clone(), current.mod_revision, None, &[]).await {
                    Ok(revision) => {
                        done.push(revision);
                        current = StoredValue { key: KEY.into(), value: next, mod_revision: revision };
                    }
                    Err(StorageError::Conflict { current: newer, .. }) => current = newer,
                    Err(error) => panic!("{error}"),
                }
            }
            done
        })
    });
    let revisions: Vec<Revision> = join_all(writers).await.into_iter().flat_map(|writer| writer.unwrap()).collect();
    assert_eq!(revisions.iter().collect::<BTreeSet<_>>().len(), 8 * EACH, "each write has its own revision");
    assert_eq!(storage.get(KEY).await.unwrap().unwrap().value, (8 * EACH).to_string());
}

async fn watch_brings_the_past_and_the_present(storage: &dyn Storage) {
    let start = storage.current_revision().await.unwrap();
    let (a, b) = ("/registry/g/things/n/a", "/registry/g/things/n/b");
    let created = storage.create(a, text("1"), None, &[]).await.unwrap();
    let updated = storage.update(a, text("2"), created, None, &[]).await.unwrap();
    storage.create("/registry/g/others/n/a", text("x"), None, &[]).await.unwrap();
    let deleted = storage.delete(a, updated, &[]).await.unwrap();
    let mut expected = vec![
        StorageEvent::Put { key: a.into(), value: text("1"), revision: created, created: true },
        StorageEvent::Put { key: a.into(), value: text("2"), revision: updated, created: false },
        StorageEvent::Delete { key: a.into(), revision: deleted },
    ];
    let mut watch = storage.watch("/registry/g/things/", start).await.unwrap();
    assert_eq!(events_until(&mut watch, |events| events.len() == 3).await, expected);

    let mut later = storage.watch("/registry/g/things/", created).await.unwrap();
    assert_eq!(events_until(&mut later, |events| events.len() == 2).await, expected[1..]);

    let revision = storage.create(b, text("3"), None, &[]).await.unwrap();
    expected = vec![StorageEvent::Put { key: b.into(), value: text("3"), revision, created: true }];
    for watch in [&mut watch, &mut later] {
        assert_eq!(events_until(watch, |events| !events.is_empty()).await, expected);
    }
}

async fn watch_of_a_compacted_past_is_refused(subject: Subject) {
    let storage = &*subject.storage;
    let start = storage.current_revision().await.unwrap();
    let a = storage.create("/registry/g/things/n/a", text("1"), None, &[]).await.unwrap();
    let b = storage.update("/registry/g/things/n/a", text("2"), a, None, &[]).await.unwrap();
    let c = storage.delete("/registry/g/things/n/a", b, &[]).await.unwrap();
    let d = storage.create("/registry/g/things/n/b", text("3"), None, &[]).await.unwrap();
    (subject.compact)(c).await;
    for gone in [start, a, b] {
        let error = match storage.watch("/registry/", gone).await {
            Ok(mut watch) => tokio::time::timeout(PATIENCE, watch.next()).await.unwrap().unwrap().map(|_| ()),
            Err(error) => Err(error),
        };
        assert!(matches!(error, Err(StorageError::Compacted { asked, .. }) if asked == gone), "{error:?}");
    }
    let mut watch = storage.watch("/registry/", c).await.unwrap();
    let events = events_until(&mut watch, |events| !events.is_empty()).await;
    assert_eq!(events.iter().map(StorageEvent::revision).collect::<Vec<_>>(), [d]);
    assert_eq!(storage.list("/registry/").await.unwrap().values.len(), 1);
}

async fn watch_of_the_future_is_refused(storage: &dyn Storage) {
    let now = storage.current_revision().await.unwrap();
    let future = storage.watch("/registry/", Revision(now.0 + 1)).await.err();
    assert!(
        matches!(future, Some(StorageError::FutureRevision { asked, current }) if asked.0 == now.0 + 1 && current == now),
        "{future:?}"
    );
}

async fn what_has_a_time_to_live_goes(storage: &dyn Storage) {
    let start = storage.current_revision().await.unwrap();
    let ttl = Some(Duration::from_secs(2));
    let (short, changed, stays) = ("/registry/g/things/n/a", "/registry/g/things/n/b", "/registry/g/things/n/c");
    storage.create(short, text("1"), ttl, &[]).await.unwrap();
    let created = storage.create(changed, text("1"), ttl, &[]).await.unwrap();
    let updated = storage.update(changed, text("2"), created, None, &[]).await.unwrap();
    storage.create(stays, text("1"), None, &[]).await.unwrap();
    let renewed = "/registry/g/things/n/d";
    let first = storage.create(renewed, text("1"), ttl, &[]).await.unwrap();
    storage.update(renewed, text("2"), first, Some(Duration::from_hours(1)), &[]).await.unwrap();
    assert_eq!(storage.list("/registry/").await.unwrap().values.len(), 4);

    let mut watch = storage.watch("/registry/", start).await.unwrap();
    let events = events_until(&mut watch, |events| {
        events.iter().filter(|event| matches!(event, StorageEvent::Delete { .. })).count() == 2
    })
    .await;
    assert_eq!(replay(&events).into_keys().collect::<Vec<_>>(), [stays, renewed]);
    assert!(events.iter().any(|event| event.revision() == updated));
    assert_eq!(storage.get(short).await.unwrap(), None);
    assert_eq!(storage.get(changed).await.unwrap(), None);
}

async fn a_write_depends_on_its_guards(storage: &dyn Storage) {
    let (key, other) = ("/registry/g/things/n/a", "/registry/core/namespaces/n");
    let guard = |revision| [Guard::unchanged(other, revision)];
    let changed = |result: &Result<Revision, StorageError>| matches!(result, Err(StorageError::GuardChanged { key }) if key == other);
    let missing = storage.create(key, text("1"), None, &guard(Revision(1))).await;
    assert!(changed(&missing), "{missing:?}");
    let first = storage.create(other, text("1"), None, &[]).await.unwrap();
    let second = storage.update(other, text("2"), first, None, &[]).await.unwrap();
    let late = storage.create(key, text("1"), None, &guard(first)).await;
    assert!(changed(&late), "{late:?}");
    assert_eq!(storage.get(key).await.unwrap(), None);
    let created = storage.create(key, text("1"), None, &guard(second)).await.unwrap();
    assert_eq!(created, Revision(second.0 + 1));
    // what is wrong with the key itself is told first
    for guard in [guard(first), guard(second)] {
        let again = storage.create(key, text("1"), None, &guard).await;
        assert!(matches!(again, Err(StorageError::AlreadyExists { .. })), "{again:?}");
        for late in
            [storage.update(key, text("2"), first, None, &guard).await, storage.delete(key, first, &guard).await]
        {
            assert!(matches!(late, Err(StorageError::Conflict { .. })), "{late:?}");
        }
    }
    for late in [
        storage.update(key, text("2"), created, None, &guard(first)).await,
        storage.delete(key, created, &guard(first)).await,
    ] {
        assert!(changed(&late), "{late:?}");
    }
    assert_eq!(storage.get(key).await.unwrap().unwrap().mod_revision, created, "nothing was written");
    storage.update(key, text("2"), created, None, &guard(second)).await.unwrap();
    storage.delete(other, second, &[]).await.unwrap();
    let gone = storage.create("/registry/g/things/n/b", text("1"), None, &guard(second)).await;
    assert!(changed(&gone), "{gone:?}");
}

async fn what_guards_become_is_written_with_the_key_or_not_at_all(storage: &dyn Storage) {
    let (key, count, other) = ("/registry/g/things/n/a", "/registry/g/counts/n/a", "/registry/g/counts/n/b");
    let start = storage.create(count, text("0"), None, &[]).await.unwrap();
    let other_at = storage.create(other, text("x"), None, &[]).await.unwrap();
    let counted = |value: &str, at| Guard::becomes(count, at, text(value));
    let before = storage.current_revision().await.unwrap();
    let stale = [counted("1", start), Guard::unchanged(other, start)];
    let refused = storage.create(key, text("1"), None, &stale).await;
    assert!(matches!(&refused, Err(StorageError::GuardChanged { key }) if key == other), "{refused:?}");
    assert_eq!(storage.current_revision().await.unwrap(), before, "nothing was written");

    let mut watch = storage.watch("/registry/", before).await.unwrap();
    let created =
        storage.create(key, text("1"), None, &[counted("1", start), Guard::unchanged(other, other_at)]).await.unwrap();
    assert_eq!(created, Revision(before.0 + 1), "one revision for both");
    let updated = storage.update(key, text("2"), created, None, &[counted("2", created)]).await.unwrap();
    let late = storage.delete(key, updated, &[counted("9", created)]).await;
    assert!(matches!(late, Err(StorageError::GuardChanged { .. })), "{late:?}");
    let deleted = storage.delete(key, updated, &[counted("0", updated)]).await.unwrap();
    let now = storage.get(count).await.unwrap().unwrap();
    assert_eq!((now.value, now.mod_revision), (text("0"), deleted));
    assert_eq!(storage.get(other).await.unwrap().unwrap().mod_revision, other_at);

    let events = events_until(&mut watch, |events| events.len() == 6).await;
    let revisions: Vec<Revision> = events.iter().map(StorageEvent::revision).collect();
    assert_eq!(revisions, [created, created, updated, updated, deleted, deleted]);
    let of_count = events.iter().filter(|event| event.key() == count).count();
    assert_eq!(of_count, 3);
}

async fn what_is_too_large_is_refused_before_it_is_sent(storage: &dyn Storage) {
    let (key, before) = ("/registry/g/things/n/a", storage.current_revision().await.unwrap());
    let large = Bytes::from(vec![b'x'; MAX_REQUEST_BYTES]);
    let refused = storage.create(key, large.clone(), None, &[]).await;
    assert!(matches!(refused, Err(StorageError::TooLarge { limit: MAX_REQUEST_BYTES, .. })), "{refused:?}");
    // the largest that passes is taken by the store as well
    let overhead = super::REQUEST_OVERHEAD_BYTES + 3 * key.len();
    let fits = large.slice(overhead..);
    let created = storage.create(key, fits.clone(), None, &[]).await.unwrap();
    let refused = storage.update(key, large, created, None, &[]).await;
    assert!(matches!(refused, Err(StorageError::TooLarge { .. })), "{refused:?}");
    storage.update(key, fits.clone(), created, None, &[]).await.unwrap();
    // and several of them are not too much for one list and one watch
    for key in ["/registry/g/things/n/b", "/registry/g/things/n/c", "/registry/g/things/n/d"] {
        storage.create(key, fits.clone(), None, &[]).await.unwrap();
    }
    assert_eq!(storage.list("/registry/").await.unwrap().values.len(), 4);
    let mut watch = storage.watch("/registry/", before).await.unwrap();
    events_until(&mut watch, |events| events.len() == 5).await;
}
