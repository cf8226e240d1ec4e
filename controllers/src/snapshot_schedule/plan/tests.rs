use k8s_openapi::jiff::{ToSpan as _, tz::TimeZone};
use serde_json::json;

use super::*;

const CREATED: &str = "2026-03-01T00:00:00Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A schedule of every hour, which keeps two.
fn schedule() -> SnapshotSchedule {
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "SnapshotSchedule",
        "metadata": {"name": "hourly", "namespace": "p", "uid": "u1", "generation": 1, "creationTimestamp": CREATED},
        "spec": {"snapshot": {"vm": "web"}, "schedule": "0 * * * *", "keep": 2},
    }))
    .unwrap()
}

fn hourly() -> Recurrence {
    Recurrence::parse("0 * * * *", TimeZone::UTC).unwrap()
}

fn with_last(moment: &str) -> SnapshotSchedule {
    let mut schedule = schedule();
    let status = SnapshotScheduleStatus { last_schedule_time: Some(Time(at(moment))), ..Default::default() };
    schedule.status = Some(status);
    schedule
}

/// The schedule's snapshot of a moment, made a second after it, in this state.
fn made(moment: &str, phase: &str, taken: bool) -> Arc<Snapshot> {
    let mut snapshot = snapshot(&schedule(), at(moment));
    snapshot.metadata.creation_timestamp = Some(Time(at(moment) + 1.second()));
    let verdict = if taken { "True" } else { "False" };
    snapshot.status =
        serde_json::from_value(json!({"phase": phase, "conditions": [{"type": "Taken", "status": verdict,
        "reason": "x", "message": "", "lastTransitionTime": CREATED}]}))
        .unwrap();
    Arc::new(snapshot)
}

fn ready(moment: &str) -> Arc<Snapshot> {
    made(moment, "Ready", true)
}

fn going(snapshot: &Arc<Snapshot>) -> Arc<Snapshot> {
    let mut snapshot = Snapshot::clone(snapshot);
    snapshot.metadata.deletion_timestamp = Some(Time(at(CREATED)));
    Arc::new(snapshot)
}

fn turn_at(schedule: &SnapshotSchedule, made: &[Arc<Snapshot>], now: &str) -> Turn {
    turn(schedule, &hourly(), made, at(now))
}

fn due(moment: &str) -> Turn {
    Turn::Due(at(moment))
}

const NOT_YET: Turn = Turn::Settled(Outcome::NotYet);

fn reason(status: &SnapshotScheduleStatus) -> (&str, &str) {
    let ready = condition::get(&status.conditions, READY).unwrap();
    (ready.status.as_str(), ready.reason.as_str())
}

#[test]
fn a_moment_is_due_once() {
    assert_eq!(turn_at(&schedule(), &[], "2026-03-01T00:59:59Z"), NOT_YET, "none before the schedule was there counts");
    assert_eq!(turn_at(&schedule(), &[], "2026-03-01T01:00:00Z"), due("2026-03-01T01:00:00Z"));
    assert_eq!(turn_at(&with_last("2026-03-01T01:00:00Z"), &[], "2026-03-01T01:59:00Z"), NOT_YET);
    // its name tells a crash between the snapshot and the status
    let crashed = turn_at(&schedule(), &[made("2026-03-01T01:00:00Z", "Pending", false)], "2026-03-01T01:00:05Z");
    assert_eq!(crashed, Turn::Settled(Outcome::Made(at("2026-03-01T01:00:00Z"))));
}

#[test]
fn of_many_that_were_missed_one_is_made_up_for() {
    let last = with_last("2026-03-01T01:00:00Z");
    assert_eq!(turn_at(&last, &[], "2026-03-04T12:34:56Z"), due("2026-03-04T12:00:00Z"));
}

#[test]
fn two_are_never_taken_at_once() {
    let last = with_last("2026-03-01T01:00:00Z");
    let before = made("2026-03-01T01:00:00Z", "Taking", false);
    let waiting = turn_at(&last, &[Arc::clone(&before)], "2026-03-01T02:10:00Z");
    let name = before.name_any();
    let expected = Outcome::Waiting { moment: at("2026-03-01T02:00:00Z"), before: name };
    assert_eq!(waiting, Turn::Settled(expected.clone()));
    let said = status(&last, &hourly(), &[Arc::clone(&before)], &expected, at("2026-03-01T02:10:00Z"));
    assert_eq!((reason(&said), said.phase), (("False", "Waiting"), Some(SnapshotSchedulePhase::Active)));
    assert_eq!(said.last_schedule_time, last.status.as_ref().unwrap().last_schedule_time, "it has its turn yet");
    for over in [
        ready("2026-03-01T01:00:00Z"),
        // its images are not ready yet, or not any more
        made("2026-03-01T01:00:00Z", "Taking", true),
        made("2026-03-01T01:00:00Z", "Failed", false),
        going(&before),
    ] {
        assert_eq!(turn_at(&last, &[over], "2026-03-01T02:10:00Z"), due("2026-03-01T02:00:00Z"));
    }
}

#[test]
fn a_clock_that_goes_back_brings_nothing_twice_and_stops_nothing() {
    let last = with_last("2026-03-01T05:00:00Z");
    // a little: what had its turn has had it
    assert_eq!(turn_at(&last, &[], "2026-03-01T04:59:59Z"), NOT_YET);
    let said = status(&last, &hourly(), &[], &Outcome::NotYet, at("2026-03-01T04:59:59Z"));
    assert_eq!(said.next_time, Some(Time(at("2026-03-01T06:00:00Z"))));
    // further than a moment: it was wrong before
    let wrong = with_last("2027-03-01T05:00:00Z");
    assert_eq!(turn_at(&wrong, &[], "2026-03-01T04:59:59Z"), due("2026-03-01T04:00:00Z"));
    let known = [ready("2026-03-01T04:00:00Z")];
    let again = turn_at(&wrong, &known, "2026-03-01T04:59:59Z");
    assert_eq!(again, Turn::Settled(Outcome::Made(at("2026-03-01T04:00:00Z"))));
    // before the schedule itself
    assert_eq!(turn_at(&schedule(), &[], "2026-02-01T04:59:59Z"), NOT_YET);
}

#[test]
fn suspended_waits_for_nothing_and_makes_up_for_one_when_it_ends() {
    let mut schedule = with_last("2026-03-01T01:00:00Z");
    schedule.spec.suspend = Some(true);
    assert_eq!(turn_at(&schedule, &[], "2026-03-02T00:30:00Z"), Turn::Settled(Outcome::Suspended));
    let said = status(&schedule, &hourly(), &[], &Outcome::Suspended, at("2026-03-02T00:30:00Z"));
    assert_eq!((reason(&said), said.next_time.is_none()), (("True", "Suspended"), true));
    assert_eq!(said.phase, Some(SnapshotSchedulePhase::Suspended));
    schedule.spec.suspend = None;
    assert_eq!(turn_at(&schedule, &[], "2026-03-02T00:30:00Z"), due("2026-03-02T00:00:00Z"));
}

/// From the first status on, each is what the next is made of; nothing is written that is not news.
#[test]
fn it_says_how_the_last_moment_went_until_the_next() {
    let mut schedule = schedule();
    let mut say = |made: &[Arc<Snapshot>], outcome: &Outcome, now: &str| {
        let said = status(&schedule, &hourly(), made, outcome, at(now));
        schedule.status = Some(said.clone());
        assert_eq!(status(&schedule, &hourly(), made, outcome, at(now)), said, "nothing new, nothing to write");
        said
    };
    let said = say(&[], &Outcome::NotYet, "2026-03-01T00:10:00Z");
    assert_eq!((reason(&said), said.phase), (("True", "Scheduled"), Some(SnapshotSchedulePhase::Active)));
    assert_eq!(said.next_time, Some(Time(at("2026-03-01T01:00:00Z"))));

    let first = at("2026-03-01T01:00:00Z");
    let said = say(&[], &Outcome::Made(first), "2026-03-01T01:00:00Z");
    assert_eq!((reason(&said), said.last_snapshot.as_deref()), (("True", "Taking"), Some("hourly-29538780")));
    assert_eq!(say(&[], &Outcome::NotYet, "2026-03-01T01:00:01Z"), said, "the cache is behind");
    let taking = made("2026-03-01T01:00:00Z", "Taking", false);
    assert_eq!(say(&[Arc::clone(&taking)], &Outcome::NotYet, "2026-03-01T01:00:01Z"), said);
    let said = say(&[ready("2026-03-01T01:00:00Z")], &Outcome::NotYet, "2026-03-01T01:00:09Z");
    assert_eq!(reason(&said), ("True", "Taken"));
    assert_eq!(reason(&say(&[], &Outcome::NotYet, "2026-03-01T01:30:00Z")), ("True", "Taken"), "it was");

    let nothing = Outcome::Nothing {
        moment: at("2026-03-01T02:00:00Z"),
        reason: "Refused",
        message: "exceeded quota: q".to_owned(),
    };
    let said = say(&[], &nothing, "2026-03-01T02:00:00Z");
    assert_eq!((reason(&said), said.phase), (("False", "Refused"), Some(SnapshotSchedulePhase::Failing)));
    assert_eq!(said.last_snapshot.as_deref(), Some("hourly-29538780"), "none was made since");
    assert_eq!(
        reason(&say(&[ready("2026-03-01T01:00:00Z")], &Outcome::NotYet, "2026-03-01T02:01:00Z")),
        ("False", "Refused")
    );

    let third = Outcome::Made(at("2026-03-01T03:00:00Z"));
    let failed = [made("2026-03-01T03:00:00Z", "Failed", false)];
    assert_eq!(reason(&say(&failed, &third, "2026-03-01T03:00:00Z")), ("False", "SnapshotFailed"));
    let deleted = [going(&made("2026-03-01T03:00:00Z", "Taking", false))];
    assert_eq!(reason(&say(&deleted, &Outcome::NotYet, "2026-03-01T03:00:30Z")), ("False", "SnapshotDeleted"));
    assert_eq!(reason(&say(&[], &Outcome::NotYet, "2026-03-01T03:01:00Z")), ("False", "SnapshotDeleted"));

    let said = unreadable(&schedule, "no such time zone".to_owned());
    assert_eq!((reason(&said), said.next_time.is_none()), (("False", "InvalidSchedule"), true));
}

#[test]
fn the_oldest_that_are_ready_go_when_newer_ones_are() {
    let [one, two, three] = [1, 2, 3].map(|hour| ready(&format!("2026-03-01T0{hour}:00:00Z")));
    let four = made("2026-03-01T04:00:00Z", "Taking", false);
    let half = made("2026-03-01T04:00:00Z", "Taking", true);
    assert!(surplus(&schedule(), &[Arc::clone(&one), Arc::clone(&two), Arc::clone(&four)]).is_empty());
    assert!(surplus(&schedule(), &[Arc::clone(&one), Arc::clone(&two), Arc::clone(&half)]).is_empty());
    assert_eq!(surplus(&schedule(), &[Arc::clone(&two), Arc::clone(&three), Arc::clone(&one)]), [Arc::clone(&one)]);
    assert!(
        surplus(&schedule(), &[going(&one), Arc::clone(&two), going(&three)]).is_empty(),
        "what goes does not count"
    );
    let mut all = schedule();
    all.spec.keep = None;
    assert!(surplus(&all, &[one, two, three]).is_empty());
}

#[test]
fn what_failed_is_not_kept_and_removes_nothing_that_is_good() {
    let failed = |hour: u8| made(&format!("2026-03-01T0{hour}:00:00Z"), "Failed", false);
    let [one, two] = [1, 2].map(|hour| ready(&format!("2026-03-01T0{hour}:00:00Z")));
    let present = [Arc::clone(&one), Arc::clone(&two), failed(3), failed(4), failed(5)];
    assert_eq!(surplus(&schedule(), &present), [failed(4), failed(3)], "the last tells what is wrong");
    let present = [one, two, failed(3), made("2026-03-01T04:00:00Z", "Taking", false)];
    assert!(surplus(&schedule(), &present).is_empty(), "not before the next is over");
    assert_eq!(surplus(&schedule(), &[failed(3), ready("2026-03-01T04:00:00Z")]), [failed(3)]);
}

/// A moment in a year is no newer than what was made after it.
#[test]
fn the_newest_is_the_one_that_was_made_last() {
    let mut future = Snapshot::clone(&ready("2027-03-01T00:00:00Z"));
    future.metadata.creation_timestamp = Some(Time(at("2026-03-01T00:30:00Z")));
    let future = Arc::new(future);
    let present = [Arc::clone(&future), ready("2026-03-01T01:00:00Z"), ready("2026-03-01T02:00:00Z")];
    assert_eq!(surplus(&schedule(), &present), [future]);
}

#[test]
fn only_its_own_are_its_own() {
    let own = Snapshot::clone(&ready("2026-03-01T01:00:00Z"));
    assert!(is_of(&schedule(), &own));
    let changed = |change: &dyn Fn(&mut Snapshot)| {
        let mut other = own.clone();
        change(&mut other);
        is_of(&schedule(), &other)
    };
    assert!(!changed(&|other| other.metadata.name = Some("precious".to_owned())), "a label alone makes it nobody's");
    assert!(!changed(&|other| other.metadata.name = Some("hourly-2-1".to_owned())));
    assert!(!changed(&|other| other.metadata.namespace = Some("q".to_owned())));
    assert!(!changed(&|other| drop(other.labels_mut().remove(SCHEDULE_UID_LABEL))));
    assert!(!changed(&|other| drop(other.labels_mut().insert(SCHEDULE_UID_LABEL.to_owned(), "u2".to_owned()))));
}
