//! The store fails, forgets, is replaced, holds nonsense, goes away.

use super::*;

#[tokio::test]
async fn a_broken_watch_is_resumed_without_a_list() {
    let bench = Bench::start().await;
    bench.create("a/1", "u").await;
    let mut watcher = bench.things().watch(None, Revision(1)).unwrap();
    for round in 0..3 {
        bench.cut().await;
        bench.update("a/1", &format!("h{round}")).await;
        bench.create(&format!("a/new-{round}"), "u").await;
        bench.mend();
        let resumed = bench.update("a/1", "h").await;
        bench.caught_up(resumed).await;
    }
    let last = bench.delete("a/1").await;
    let events = events_until(&mut watcher, last).await;
    let revisions: Vec<u64> = events.iter().map(|event| event.revision.0).collect();
    assert_eq!(revisions, (2..=last.0).collect::<Vec<_>>(), "each change once, in order");
    assert_eq!(shown(&bench.things().list(None).1), bench.expected().await);
    assert_eq!(bench.store.lists.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn after_a_compaction_the_difference_is_told() {
    let bench = Bench::start().await;
    for path in ["a/changed", "a/gone", "a/recreated", "a/same"] {
        bench.create(path, "old").await;
    }
    let before = bench.create("b/1", "old").await;
    bench.caught_up(before).await;
    let mut watcher = bench.things().watch(None, before).unwrap();
    let same = bench.things().get(Some("a"), "same").unwrap();

    bench.cut().await;
    bench.update("a/changed", "h1").await;
    bench.delete("a/gone").await;
    bench.delete("a/recreated").await;
    bench.create("a/short-lived", "new").await;
    let recreated = bench.create("a/recreated", "new").await;
    bench.delete("a/short-lived").await;
    let changed = bench.update("a/changed", "h2").await;
    let created = bench.create("a/created", "new").await;
    let end = bench.delete("b/1").await;
    bench.store.memory().compact(end);
    bench.mend();

    let events = events_until(&mut watcher, end).await;
    let thing = |text: &str| Some(text.to_owned());
    assert_eq!(
        events.iter().map(|event| told(event)).collect::<Vec<_>>(),
        [
            (recreated.0 - 1, thing("a/recreated old"), None),
            (recreated.0, None, thing("a/recreated new")),
            (changed.0, thing("a/changed old"), thing("a/changed old")),
            (created.0, None, thing("a/created new")),
            (end.0, thing("a/gone old"), None),
            (end.0, thing("b/1 old"), None),
        ]
    );
    assert_eq!(version_in_json(events[4].departed().unwrap()), end.to_string());
    assert_eq!(shown(&bench.things().list(None).1), bench.expected().await);
    assert_eq!((bench.cache.revision(), bench.store.lists.load(Ordering::SeqCst)), (end, 2));
    assert!(Arc::ptr_eq(&same, &bench.things().get(Some("a"), "same").unwrap()), "what is the same is left alone");
    // the watch goes on, and later ones may begin in between
    let next = bench.create("a/next", "new").await;
    assert_eq!(events_until(&mut watcher, next).await.len(), 1);
    let mut late = bench.things().watch(None, changed).unwrap();
    assert_eq!(events_until(&mut late, next).await.len(), 4);
}

/// A store that knows nothing takes the place of one at revision 11, and comes as far as `revision` before it is listed.
async fn replaced_store(revision: u64) {
    let bench = Bench::start().await;
    for n in 0..10 {
        bench.create(&format!("a/{n}"), "old").await;
    }
    bench.caught_up(Revision(11)).await;
    let mut watcher = bench.things().watch(None, Revision(11)).unwrap();
    bench.cut().await;
    *bench.store.inner.lock().unwrap() = MemoryStorage::new();
    bench.mend();
    let tried = async {
        while bench.store.watches.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, tried).await.unwrap();
    // the cache cannot act before this is through, since the store in memory never waits
    for n in 2..=revision {
        bench.create(&format!("a/{n}"), "new").await;
    }
    assert_eq!(next(&mut watcher).await.err(), Some(WatchEnd::Expired));
    assert_eq!(bench.things().list(None).0, Revision(revision));
    assert_eq!(shown(&bench.things().list(None).1), bench.expected().await);
    assert_eq!(bench.cache.revision(), Revision(revision));
}

#[tokio::test]
async fn a_replaced_store_expires_every_watch() {
    replaced_store(5).await;
}

#[tokio::test]
async fn a_replaced_store_expires_every_watch_however_far_it_has_come() {
    replaced_store(30).await;
}

#[tokio::test]
async fn what_cannot_be_read_is_shown_and_stops_nothing() {
    let bench = Bench::start().await;
    let memory = bench.store.memory();
    let first = bench.create("a/1", "u").await;
    let bad = |key: &str| format!("{THINGS}{key}");
    let second = memory.update(&bad("a/1"), Bytes::from_static(b"{"), first, None, &[]).await.unwrap();
    memory.create(&bad("a/2"), stored("b/9", "u", "h"), None, &[]).await.unwrap();
    memory.create(&bad("no-namespace"), stored("no-namespace", "u", "h"), None, &[]).await.unwrap();
    let last = bench.create("a/3", "u").await;
    bench.caught_up(last).await;
    assert_eq!(shown(&bench.things().list(None).1), [("a/1".to_owned(), first), ("a/3".to_owned(), last)]);
    assert_eq!(bench.cache.undecodable(), 3);

    // a relist keeps the last readable state of what is still there
    bench.cut().await;
    let third = memory.update(&bad("a/1"), Bytes::from_static(b"[]"), second, None, &[]).await.unwrap();
    memory.compact(third);
    bench.mend();
    bench.caught_up(third).await;
    assert_eq!(bench.things().get(Some("a"), "1").unwrap().resource_version(), first);

    let mended = memory.update(&bad("a/1"), stored("a/1", "u", "h2"), third, None, &[]).await.unwrap();
    let other = memory.get(&bad("a/2")).await.unwrap().unwrap();
    let deleted = memory.delete(&bad("a/2"), other.mod_revision, &[]).await.unwrap();
    bench.caught_up(deleted).await;
    assert_eq!(bench.things().get(Some("a"), "1").unwrap().resource_version(), mended);
    assert_eq!(bench.cache.undecodable(), 1);
}

#[tokio::test]
async fn shutdown_ends_the_watches_and_the_filling() {
    let bench = Bench::start().await;
    let last = bench.create("a/1", "u").await;
    bench.caught_up(last).await;
    let mut watcher = bench.things().watch(None, last).unwrap();
    let waiting = tokio::spawn(async move { watcher.next().await.err() });
    bench.cache.shutdown();
    assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap(), Some(WatchEnd::Closed));
    assert!(bench.things().get(Some("a"), "1").is_some());
    // the feed lets go of the store
    let Bench { store, cache } = bench;
    drop(cache);
    let alone = async {
        while Arc::strong_count(&store) > 1 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, alone).await.expect("the feed has ended");
}
