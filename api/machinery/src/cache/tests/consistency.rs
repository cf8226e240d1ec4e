//! Whatever happens to the store, a client that lists and watches ends with what the store holds.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    Delete(usize),
    Cut(bool),
    CompactAll,
    List,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..9usize).prop_map(Step::Write),
        4 => (0..9usize).prop_map(Step::Delete),
        1 => any::<bool>().prop_map(Step::Cut),
        1 => Just(Step::CompactAll),
        2 => Just(Step::List),
    ];
    prop::collection::vec(step, 1..80)
}

/// A client: lists, then applies what its watch brings; lists again when told to.
async fn informer(
    things: Arc<KindCache>,
    namespace: Option<String>,
    end: watch::Receiver<Option<Revision>>,
) -> Vec<(String, Revision)> {
    loop {
        let (mut at, objects) = things.list(namespace.as_deref());
        let mut state: BTreeMap<String, Arc<Object>> = objects.into_iter().map(|it| (it.path(), it)).collect();
        let Ok(mut watcher) = things.watch(namespace.clone(), at) else { continue };
        let mut end = end.clone();
        loop {
            let done = end.borrow_and_update().is_some_and(|end| watcher.revision() >= end);
            if done {
                return shown(&state.into_values().collect::<Vec<_>>());
            }
            let events = tokio::select! {
                events = watcher.next() => events,
                _ = end.changed() => continue,
                // an idle watch of a namespace is moved on by what it does not get
                () = tokio::task::yield_now() => continue,
            };
            let Ok(events) = events else { break };
            for event in events {
                assert!(event.revision >= at, "revisions never go back");
                at = event.revision;
                let before = event.previous.as_ref().or(event.current.as_ref()).unwrap().path();
                let known = match &event.current {
                    Some(object) => state.insert(before, object.clone()),
                    None => state.remove(&before),
                };
                assert_eq!(
                    known.map(|it| it.labels().clone()),
                    event.previous.as_ref().map(|it| it.labels().clone()),
                    "an event begins where the one before ended"
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_list_and_its_watch_lead_to_the_final_state(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::start().await;
            let (end, ended) = watch::channel(None);
            let mut informers = Vec::new();
            let path = |n: usize| format!("{}/{}", ["a", "a-b", "b"][n % 3], n / 3);
            for (count, step) in steps.into_iter().enumerate() {
                let memory = bench.store.memory();
                match step {
                    Step::Write(n) => {
                        let key = format!("{THINGS}{}", path(n));
                        match memory.get(&key).await.unwrap() {
                            Some(_) => drop(bench.update(&path(n), &format!("h{count}")).await),
                            None => drop(bench.create(&path(n), &format!("u{count}")).await),
                        }
                    }
                    Step::Delete(n) => {
                        if memory.get(&format!("{THINGS}{}", path(n))).await.unwrap().is_some() {
                            bench.delete(&path(n)).await;
                        }
                    }
                    Step::Cut(cut) => drop(bench.store.cut.send_replace(cut)),
                    Step::CompactAll => memory.compact(memory.current_revision().await.unwrap()),
                    Step::List => {
                        for namespace in [None, Some("a".to_owned())] {
                            informers.push((namespace.clone(), tokio::spawn(informer(bench.things(), namespace, ended.clone()))));
                        }
                    }
                }
            }
            bench.mend();
            let last = bench.store.memory().current_revision().await.unwrap();
            bench.caught_up(last).await;
            let expected = bench.expected().await;
            assert_eq!(shown(&bench.things().list(None).1), expected);
            end.send_replace(Some(last));
            for (namespace, informer) in informers {
                let mut expected = expected.clone();
                expected.retain(|(path, _)| namespace.as_ref().is_none_or(|it| path.starts_with(&format!("{it}/"))));
                assert_eq!(tokio::time::timeout(PATIENCE, informer).await.unwrap().unwrap(), expected);
            }
        });
    }
}
