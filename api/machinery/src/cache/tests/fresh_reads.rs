//! Reads that have to see every write answered so far.

use futures::future::join_all;

use super::*;

#[tokio::test]
async fn callers_share_the_next_read_not_one_that_has_begun() {
    let bench = Bench::start().await;
    let reads = || bench.store.revision_reads.load(Ordering::SeqCst);
    bench.store.revision_permits.forget_permits(Semaphore::MAX_PERMITS);
    let first = tokio::spawn({
        let cache = bench.cache.clone();
        async move { cache.wait_fresh().await }
    });
    tokio::time::timeout(PATIENCE, async {
        while reads() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    // these come while the first read is in flight, after a write that it may have missed
    let written = bench.create("a/1", "u").await;
    let mut others = Box::pin(join_all((0..20).map(|_| bench.cache.wait_fresh())));
    assert!(futures::poll!(&mut others).is_pending());
    bench.store.revision_permits.add_permits(Semaphore::MAX_PERMITS);
    first.await.unwrap().unwrap();
    for fresh in others.await {
        assert!(fresh.unwrap() >= written);
    }
    assert_eq!(reads(), 2);
    assert!(bench.things().get(Some("a"), "1").is_some());
    bench.cache.wait_fresh().await.unwrap();
    assert_eq!(reads(), 3, "an answer is not used twice");
}

#[tokio::test]
async fn a_reader_that_goes_away_does_not_block_the_others() {
    let bench = Bench::start().await;
    bench.store.revision_permits.forget_permits(Semaphore::MAX_PERMITS);
    let mut gone = Box::pin(bench.cache.wait_fresh());
    assert!(futures::poll!(&mut gone).is_pending());
    let mut waiting = Box::pin(bench.cache.wait_fresh());
    assert!(futures::poll!(&mut waiting).is_pending());
    drop(gone);
    bench.store.revision_permits.add_permits(1);
    tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_fresh_is_not_served_as_fresh() {
    let bench = Bench::start().await;
    let start = tokio::time::Instant::now();
    let stale = bench.cache.wait_for(Revision(100)).await;
    assert_eq!(stale, Err(Stale { wanted: Revision(100), reached: Revision(1) }));
    assert_eq!(start.elapsed(), WAIT_LIMIT);
    bench.cut().await;
    assert!(matches!(bench.cache.wait_fresh().await, Err(NotFresh::Store(_))));
    assert!(bench.cache.is_synced(), "what is known is still served");
}

#[tokio::test]
async fn a_read_that_nobody_waits_for_any_more_does_not_keep_others_from_reading() {
    let bench = Bench::start().await;
    bench.store.revision_permits.forget_permits(Semaphore::MAX_PERMITS);
    let gone = tokio::time::timeout(Duration::ZERO, bench.cache.wait_fresh()).await;
    assert!(gone.is_err(), "there is no permit to read");
    bench.store.revision_permits.add_permits(2);
    tokio::time::timeout(PATIENCE, bench.cache.wait_fresh()).await.unwrap().unwrap();
}
