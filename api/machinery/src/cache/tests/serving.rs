//! Reads and watches while nothing fails.

use super::*;

#[tokio::test]
async fn serves_what_the_store_holds() {
    let bench = Bench::start().await;
    for path in ["a/2", "a-b/1", "a/1", "b/1"] {
        bench.create(path, "u").await;
    }
    let node = format!("{NODES}n1");
    let last = bench.store.memory().create(&node, stored("n1", "u", "h0"), None, &[]).await.unwrap();
    bench.caught_up(last).await;
    let things = bench.things();
    let (revision, all) = things.list(None);
    assert_eq!((revision, shown(&all)), (last, bench.expected().await));
    let (_, of_a) = things.list(Some("a"));
    assert_eq!(of_a.iter().map(|it| it.name()).collect::<Vec<_>>(), ["1", "2"]);
    assert!(things.list(Some("nothing")).1.is_empty());
    let one = things.get(Some("a-b"), "1").unwrap();
    assert_eq!((one.namespace(), version_in_json(&one)), (Some("a-b"), one.resource_version().to_string()));
    assert_eq!(one.fields().get("spec.host"), Some("h0"));
    assert!(things.get(Some("a"), "3").is_none() && things.get(None, "1").is_none());
    assert_eq!(bench.cache.kind(NODES).unwrap().get(None, "n1").unwrap().name(), "n1");
    assert!(bench.cache.kind("/registry/example.org/").is_none());
}

#[tokio::test]
async fn an_event_carries_before_and_after() {
    let bench = Bench::start().await;
    let mut watcher = bench.things().watch(None, Revision(1)).unwrap();
    let created = bench.create("a/1", "u").await;
    let updated = bench.update("a/1", "h1").await;
    let deleted = bench.delete("a/1").await;
    let events = events_until(&mut watcher, deleted).await;
    let thing = || Some("a/1 u".to_owned());
    assert_eq!(
        events.iter().map(|event| told(event)).collect::<Vec<_>>(),
        [(created.0, None, thing()), (updated.0, thing(), thing()), (deleted.0, thing(), None)]
    );
    let last = events[2].departed().unwrap();
    assert_eq!((version_in_json(last), last.labels().get("host")), (deleted.to_string(), Some("h1")));
    let kept = events[2].previous.as_ref().unwrap();
    assert_eq!(version_in_json(kept), updated.to_string(), "lists of the past show it as it was");
    assert!(events[0].departed().is_none());
    let before = events[1].departed().unwrap();
    assert_eq!((version_in_json(before), before.labels().get("host")), (updated.to_string(), Some("h0")));
    assert!(Arc::ptr_eq(before, events[1].departed().unwrap()), "encoded once");
}

#[tokio::test]
async fn a_watch_sees_its_namespace_and_knows_how_far_it_is() {
    let bench = Bench::start().await;
    let mut watcher = bench.things().watch(Some("a".into()), Revision(1)).unwrap();
    bench.create("b/1", "u").await;
    let mine = bench.create("a/1", "u").await;
    let events = events_until(&mut watcher, mine).await;
    assert_eq!(events.len(), 1);
    // another kind moves an idle watch on, for its bookmarks
    let other = bench.store.memory().create(&format!("{NODES}n"), stored("n", "u", "h"), None, &[]).await.unwrap();
    bench.caught_up(other).await;
    assert_eq!((watcher.revision(), bench.things().revision()), (other, other));
    // what has not been taken yet has not been seen
    let next = bench.create("a/2", "u").await;
    bench.caught_up(next).await;
    assert_eq!(watcher.revision(), mine);
}

#[tokio::test]
async fn a_watch_from_before_the_history_is_expired() {
    let store = Faulty::new();
    let first = store.memory().create(&format!("{THINGS}a/1"), stored("a/1", "u", "h"), None, &[]).await.unwrap();
    let cache = Cache::new(store, kinds());
    let things = cache.kind(THINGS).unwrap();
    assert!(!cache.is_synced());
    assert!(things.watch(None, first).is_err(), "nothing is known before the first list");
    cache.wait_for(first).await.unwrap();
    assert!(cache.is_synced());
    assert_eq!(things.watch(None, Revision(first.0 - 1)).err(), Some(Expired { oldest: first }));
    assert!(things.watch(None, first).is_ok());
}

#[tokio::test]
async fn a_watch_from_a_revision_to_come_begins_there() {
    let bench = Bench::start().await;
    let mut watcher = bench.things().watch(None, Revision(3)).unwrap();
    bench.create("a/1", "u").await;
    bench.create("a/2", "u").await;
    let third = bench.create("a/3", "u").await;
    let events = events_until(&mut watcher, third).await;
    assert_eq!(events.iter().map(|event| event.revision).collect::<Vec<_>>(), [third]);
}

#[tokio::test]
async fn a_slow_watch_is_cut_off_and_costs_nothing() {
    let bench = Bench::with_history(8).await;
    let mut slow = bench.things().watch(None, Revision(1)).unwrap();
    let mut last = Revision(1);
    for n in 0..9 {
        last = bench.create(&format!("a/{n}"), "u").await;
    }
    bench.caught_up(last).await;
    assert_eq!(next(&mut slow).await.err(), Some(WatchEnd::Expired));
    let mut in_time = bench.things().watch(None, Revision(last.0 - 8)).unwrap();
    assert_eq!(next(&mut in_time).await.unwrap().len(), 8);
}
