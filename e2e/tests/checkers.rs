//! The checkers of histories find what is wrong, and nothing in what is right.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use ucloud_e2e::history::{
    register::{self, Action, Answer::Known, Answer::Unknown, Operation},
    watch::{self, Change, Event, Seen},
};

fn at(sent: u64, answered: u64, action: Action) -> Operation {
    Operation { sent, answered, action }
}

fn update(expected: u64, id: u64, answer: register::Answer<bool>) -> Action {
    Action::Update { expected, id, answer }
}

fn linearizable(history: &[Operation]) -> Result<(), String> {
    register::check(&BTreeMap::from([("key".to_owned(), history.to_vec())]))
}

const CREATED: Action = Action::Create(1, Known(true));

#[test]
fn what_a_register_does_is_accepted() {
    linearizable(&[]).unwrap();
    linearizable(&[
        at(0, 1, Action::Read(None)),
        at(2, 3, CREATED),
        at(4, 5, Action::Create(2, Known(false))),
        // these two at once: the reader may see either
        at(6, 9, update(1, 3, Known(true))),
        at(7, 8, Action::Read(Some(1))),
        at(7, 8, Action::Read(Some(3))),
        at(10, 11, update(1, 4, Known(false))),
        at(12, 13, Action::Delete(Known(true))),
        at(14, 15, Action::Delete(Known(false))),
        at(16, 17, Action::Read(None)),
    ])
    .unwrap();
}

#[test]
fn an_answer_that_was_lost_may_mean_either() {
    let lost = at(2, 3, update(1, 2, Unknown));
    linearizable(&[at(0, 1, CREATED), lost, at(4, 5, Action::Read(Some(1)))]).unwrap();
    linearizable(&[at(0, 1, CREATED), lost, at(4, 5, Action::Read(Some(2)))]).unwrap();
    // it may even come late
    linearizable(&[at(0, 1, CREATED), lost, at(4, 5, Action::Read(Some(1))), at(6, 7, Action::Read(Some(2)))]).unwrap();
    // but not twice, and not before it was sent
    linearizable(&[at(0, 1, CREATED), lost, at(4, 5, Action::Read(Some(2))), at(6, 7, Action::Read(Some(1)))])
        .unwrap_err();
    linearizable(&[at(0, 1, CREATED), at(1, 2, Action::Read(Some(2))), at(3, 4, update(1, 2, Unknown))]).unwrap_err();
}

#[test]
fn what_no_register_does_is_refused() {
    let stale = [at(0, 1, CREATED), at(2, 3, update(1, 2, Known(true))), at(4, 5, Action::Read(Some(1)))];
    assert!(linearizable(&stale).unwrap_err().contains("2 of 3 operations"));
    let lost_write = [at(0, 1, CREATED), at(2, 3, update(1, 2, Known(true))), at(4, 5, update(1, 3, Known(true)))];
    linearizable(&lost_write).unwrap_err();
    let twice = [at(0, 1, CREATED), at(2, 3, Action::Create(2, Known(true)))];
    linearizable(&twice).unwrap_err();
    let resurrected = [at(0, 1, CREATED), at(2, 3, Action::Delete(Known(true))), at(4, 5, Action::Read(Some(1)))];
    linearizable(&resurrected).unwrap_err();
    let from_nowhere = [at(0, 1, Action::Read(Some(7)))];
    linearizable(&from_nowhere).unwrap_err();
    let refused_for_nothing = [at(0, 1, CREATED), at(2, 3, update(1, 2, Known(false)))];
    linearizable(&refused_for_nothing).unwrap_err();
    // two readers, one after the other, while a write is under way: the second sees the older value
    let back_and_forth = [
        at(0, 1, CREATED),
        at(2, 9, update(1, 2, Known(true))),
        at(3, 4, Action::Read(Some(2))),
        at(5, 6, Action::Read(Some(1))),
    ];
    linearizable(&back_and_forth).unwrap_err();
}

#[test]
fn a_long_history_is_checked_quickly() {
    let mut history = vec![at(0, 1, CREATED)];
    for id in 1..2000 {
        // each write in flight together with two readers and one write that is lost
        let now = id * 10;
        history.push(at(now, now + 9, update(id, id + 1, Known(true))));
        history.push(at(now + 1, now + 12, Action::Read(Some(id))));
        history.push(at(now + 2, now + 12, Action::Read(Some(id + 1))));
        history.push(at(now + 3, now + 4, update(id, 1_000_000 + id, Unknown)));
    }
    linearizable(&history).unwrap();
}

fn event(version: u64, key: &str, change: Change) -> Seen {
    Seen::Event(Event { version, key: key.to_owned(), change })
}

fn list(version: u64, objects: &[(&str, u64)]) -> Seen {
    Seen::List(version, state(objects))
}

fn state(objects: &[(&str, u64)]) -> BTreeMap<String, u64> {
    objects.iter().map(|(key, version)| ((*key).to_owned(), *version)).collect()
}

/// What a good watcher sees of `a` created at 3, `b` at 5, `a` changed at 6 and deleted at 8.
fn good() -> Vec<Seen> {
    vec![
        list(2, &[]),
        Seen::Watch(2),
        event(3, "a", Change::Added),
        Seen::Bookmark(4),
        event(5, "b", Change::Added),
        Seen::Watch(5),
        event(6, "a", Change::Modified),
        event(8, "a", Change::Deleted),
        list(9, &[("b", 5)]),
        Seen::Watch(9),
    ]
}

#[test]
fn what_watches_should_tell_is_accepted() {
    let late = vec![list(5, &[("a", 3), ("b", 5)]), Seen::Watch(5), event(6, "a", Change::Modified)];
    let written = [(3, "a".to_owned()), (5, "b".to_owned()), (6, "a".to_owned())];
    watch::check(&[good(), late], &written).unwrap();
    watch::check_list(&good(), 7, &state(&[("a", 6), ("b", 5)])).unwrap();
    watch::check_list(&good(), 8, &state(&[("b", 5)])).unwrap();
}

#[test]
fn what_watches_must_not_tell_is_refused() {
    let refused = |seen: Vec<Seen>, why: &str| {
        let problem = watch::check(&[seen], &[]).unwrap_err();
        assert!(problem.contains(why), "{problem}");
    };
    let with = |change: &dyn Fn(&mut Vec<Seen>)| {
        let mut seen = good();
        change(&mut seen);
        seen
    };
    refused(with(&|seen| seen.swap(6, 7)), "came after 8");
    refused(with(&|seen| seen[4] = event(5, "b", Change::Modified)), "came where there was None");
    refused(with(&|seen| seen.insert(3, event(3, "a", Change::Added))), "came after 3");
    refused(with(&|seen| seen[3] = Seen::Bookmark(5)), "came after 5");
    refused(with(&|seen| seen[3] = Seen::Bookmark(2)), "a bookmark of 2 came after 3");
    refused(with(&|seen| seen[5] = Seen::Watch(4)), "it went on after 4");
    refused(with(&|seen| seen[6] = event(6, "a", Change::Added)), "came where there was Some");
    refused(with(&|seen| seen[8] = list(7, &[("b", 5)])), "is older than 8");
    refused(with(&|seen| seen[0] = list(2, &[("x", 3)])), "holds x at 3");

    // one of two missed an event, or both missed a write
    let missing = with(&|seen| {
        seen.remove(4);
        seen[4] = Seen::Watch(4);
    });
    let problem = watch::check(&[good(), missing.clone()], &[]).unwrap_err();
    assert!(problem.contains("watcher 1") && problem.contains("missed"), "{problem}");
    let problem = watch::check(&[missing], &[(5, "b".to_owned())]).unwrap_err();
    assert!(problem.contains("missed the write of b at 5"), "{problem}");
    let other = with(&|seen| seen[4] = event(5, "c", Change::Added));
    assert!(watch::check(&[good(), other], &[]).unwrap_err().contains("disagree"));

    let torn = watch::check_list(&good(), 7, &state(&[("a", 3), ("b", 5)])).unwrap_err();
    assert!(torn.contains("a list at 7"), "{torn}");
}
