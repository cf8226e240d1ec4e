//! Lists of the past: the state of one revision, whatever happens meanwhile, from memory or from the store.

use super::*;

async fn page(bench: &Bench, cut: Cut<'_>) -> Result<(Vec<(String, Revision)>, usize), NoPast> {
    let page = bench.cache.page(THINGS, &cut, |_| true).await?;
    Ok((shown(&page.objects), page.rest))
}

/// Five things, then the revision at which they were so, then changes of every kind.
async fn changed(bench: &Bench) -> (Revision, Vec<(String, Revision)>) {
    for path in ["a/1", "a/2", "a/3", "b/1", "b/2"] {
        bench.create(path, "u").await;
    }
    let then = bench.update("a/3", "h1").await;
    let expected = bench.expected().await;
    bench.create("a/0", "u").await;
    bench.update("a/2", "h2").await;
    bench.update("a/2", "h3").await;
    bench.delete("a/3").await;
    bench.delete("b/1").await;
    bench.create("b/1", "successor").await;
    bench.create("a/9", "short-lived").await;
    let last = bench.delete("a/9").await;
    bench.caught_up(last).await;
    (then, expected)
}

#[tokio::test]
async fn pages_show_the_state_of_their_revision() {
    let bench = Bench::start().await;
    let (then, expected) = changed(&bench).await;
    for limit in 1..=6 {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let cut = Cut { at: Some(then), after: &after, limit: Some(limit), count: true, ..Cut::default() };
            let (objects, rest) = page(&bench, cut).await.unwrap();
            after.clone_from(&objects.last().unwrap().0);
            seen.extend(objects);
            assert_eq!(seen.len() + rest, expected.len());
            if rest == 0 {
                break;
            }
        }
        assert_eq!(seen, expected, "in pages of {limit}");
    }
    let cut = Cut { namespace: Some("b"), at: Some(then), after: "1", ..Cut::default() };
    assert_eq!(page(&bench, cut).await.unwrap().0, expected[4..]);
    assert_eq!(page(&bench, Cut::default()).await.unwrap().0, bench.expected().await, "the present");
    assert_eq!(bench.store.lists.load(Ordering::SeqCst), 1, "all from memory");
}

#[tokio::test]
async fn what_selectors_leave_out_is_not_counted() {
    let bench = Bench::start().await;
    let (then, _) = changed(&bench).await;
    let cut = Cut { at: Some(then), limit: Some(1), ..Cut::default() };
    let changed = |object: &Object| object.labels().get("host") == Some("h1");
    let page = bench.cache.page(THINGS, &cut, changed).await.unwrap();
    assert_eq!((shown(&page.objects), page.rest), (vec![("a/3".to_owned(), then)], 0));
}

#[tokio::test]
async fn what_memory_has_forgotten_is_asked_of_the_store() {
    let bench = Bench::with_history(3).await;
    let (then, expected) = changed(&bench).await;
    assert!(bench.things().page(&Cut { at: Some(then), ..Cut::default() }, |_| true).is_err());
    let cut = Cut { at: Some(then), ..Cut::default() };
    assert_eq!(page(&bench, cut).await.unwrap().0, expected);
    let cut = Cut { namespace: Some("a"), at: Some(then), after: "1", limit: Some(1), ..Cut::default() };
    assert_eq!(page(&bench, cut).await.unwrap(), (expected[1..2].to_vec(), 1));
    bench.store.memory().compact(bench.cache.revision());
    assert!(matches!(page(&bench, cut).await, Err(NoPast::Gone)));
}

#[tokio::test]
async fn a_past_whose_changes_were_lost_is_not_made_up() {
    let bench = Bench::start().await;
    let (before, _) = changed(&bench).await;
    bench.cut().await;
    bench.update("a/1", "h1").await;
    let between = bench.update("a/1", "h2").await;
    let last = bench.update("a/1", "h3").await;
    bench.store.memory().compact(last);
    bench.mend();
    bench.caught_up(last).await;
    for lost in [before, between] {
        let cut = Cut { at: Some(lost), ..Cut::default() };
        assert!(matches!(page(&bench, cut).await, Err(NoPast::Gone)), "{lost}");
    }
    let cut = Cut { at: Some(last), ..Cut::default() };
    assert_eq!(page(&bench, cut).await.unwrap().0, bench.expected().await);
}
