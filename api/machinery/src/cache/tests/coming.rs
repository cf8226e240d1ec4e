//! Kinds that come and go while the store is written.

use super::*;

const LATE: &str = "/registry/example.org/latecomers/";

fn late(normalise: Option<Normaliser>) -> KindConfig {
    KindConfig { prefix: LATE.to_owned(), namespaced: true, fields: Fields::default(), normalise }
}

async fn write(store: &MemoryStorage, path: &str) -> Revision {
    store.create(&format!("{LATE}{path}"), stored(path, path, "h"), None, &[]).await.unwrap()
}

#[tokio::test]
async fn a_kind_that_comes_holds_what_the_store_holds() {
    let bench = Bench::start().await;
    let memory = bench.store.memory();
    write(&memory, "a/1").await;
    assert!(bench.cache.kind(LATE).is_none());
    bench.cache.add(late(None)).await.unwrap();
    let kind = bench.cache.kind(LATE).unwrap();
    let (at, objects) = kind.list(None);
    assert_eq!(objects.len(), 1);
    let mut watcher = kind.watch(None, at).unwrap();
    let second = write(&memory, "a/2").await;
    let events = events_until(&mut watcher, second).await;
    assert_eq!(events.iter().map(|event| told(event)).collect::<Vec<_>>(), [(second.0, None, Some("a/2 a/2".into()))]);
}

/// Writes go on while the kind comes, again and again: each must be seen once, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_lost_or_told_twice_while_a_kind_comes() {
    let bench = Bench::start().await;
    for round in 0..50 {
        let memory = bench.store.memory();
        let writer = tokio::spawn(async move {
            let mut last = Revision(0);
            for n in 0..40 {
                last = write(&memory, &format!("r{round}/{n}")).await;
                tokio::task::yield_now().await;
            }
            last
        });
        bench.cache.add(late(None)).await.unwrap();
        let kind = bench.cache.kind(LATE).unwrap();
        let (at, objects) = kind.list(None);
        let mut watcher = kind.watch(None, at).unwrap();
        let last = writer.await.unwrap();
        let mut seen = shown(&objects);
        if at < last {
            let events = events_until(&mut watcher, last).await;
            assert!(events.iter().all(|event| event.previous.is_none() && event.revision > at));
            seen.extend(
                events.iter().filter_map(|event| event.current.as_ref()).map(|it| (it.path(), it.resource_version())),
            );
        }
        seen.sort();
        let listing = bench.store.memory().list(LATE).await.unwrap();
        let mut expected: Vec<_> =
            listing.values.into_iter().map(|value| (value.key[LATE.len()..].to_owned(), value.mod_revision)).collect();
        expected.sort();
        assert_eq!(seen, expected, "round {round}");
        bench.cache.remove(LATE);
    }
}

#[tokio::test]
async fn watches_of_a_kind_end_when_it_goes_or_changes_its_form() {
    let bench = Bench::start().await;
    write(&bench.store.memory(), "a/1").await;
    bench.cache.add(late(None)).await.unwrap();
    let before = bench.cache.kind(LATE).unwrap();
    let mut watcher = before.watch(None, before.revision()).unwrap();
    let mark: Normaliser = Arc::new(|value| value["marked"] = true.into());
    bench.cache.add(late(Some(mark))).await.unwrap();
    assert_eq!(next(&mut watcher).await.unwrap_err(), WatchEnd::Closed);
    let after = bench.cache.kind(LATE).unwrap();
    let object: Value = serde_json::from_slice(after.get(Some("a"), "1").unwrap().json()).unwrap();
    assert_eq!(object["marked"], true);
    let mut watcher = after.watch(None, after.revision()).unwrap();
    bench.cache.remove(LATE);
    assert_eq!(next(&mut watcher).await.unwrap_err(), WatchEnd::Closed);
    assert!(bench.cache.kind(LATE).is_none());
}

#[tokio::test]
async fn a_kind_that_cannot_be_filled_does_not_come() {
    let bench = Bench::start().await;
    bench.cut().await;
    bench.cache.add(late(None)).await.unwrap_err();
    assert!(bench.cache.kind(LATE).is_none());
    bench.mend();
    let last = write(&bench.store.memory(), "a/1").await;
    bench.caught_up(last).await;
    bench.cache.add(late(None)).await.unwrap();
    assert_eq!(bench.cache.kind(LATE).unwrap().list(None).1.len(), 1);
}
