//! Which moment has its turn, what is to be said of it, and which snapshots are too many. Pure.

use std::{cmp::Reverse, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use ucloud_types::{
    Recurrence, Snapshot, SnapshotSchedule, SnapshotScheduleStatus,
    condition::{self, Finding, READY, TAKEN, Time, Verdict, is_true},
    meta::{SCHEDULE_LABEL, SCHEDULE_UID_LABEL},
    snapshot::SnapshotPhase,
    snapshot_schedule::SnapshotSchedulePhase,
};

use crate::runtime::{
    is_deleting,
    report::{find, status_of},
    uid_of,
};

/// Reasons that tell how the last moment went, and hold until the next.
const OF_A_MOMENT: [&str; 7] =
    ["Refused", "SourceNotFound", "NameTaken", "Taking", "Taken", "SnapshotFailed", "SnapshotDeleted"];

/// What is to be done at present.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    /// The snapshot of this moment is to be made.
    Due(Timestamp),
    /// Nothing is: this is how it is.
    Settled(Outcome),
}

/// How it is with the moment that was last.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Its snapshot has been made.
    Made(Timestamp),
    /// It cannot be made, and is not tried again: the next moment is.
    Nothing { moment: Timestamp, reason: &'static str, message: String },
    /// It is to be made as soon as the one before was taken, which has this name.
    Waiting { moment: Timestamp, before: String },
    /// No moment has come since.
    NotYet,
    /// Moments do not count.
    Suspended,
}

/// The name of the snapshot of a moment: no two are in one minute.
fn name_of(schedule: &SnapshotSchedule, moment: Timestamp) -> String {
    format!("{}-{}", schedule.name_any(), moment.as_second().div_euclid(60))
}

/// The snapshot of a moment.
pub fn snapshot(schedule: &SnapshotSchedule, moment: Timestamp) -> Snapshot {
    let mut snapshot = Snapshot::new(&name_of(schedule, moment), schedule.spec.snapshot.clone());
    snapshot.metadata.namespace = schedule.namespace();
    snapshot.labels_mut().insert(SCHEDULE_LABEL.to_owned(), schedule.name_any());
    snapshot.labels_mut().insert(SCHEDULE_UID_LABEL.to_owned(), uid_of(schedule).to_owned());
    snapshot
}

/// Whether the schedule has made this snapshot, and nobody took it out of its hands by removing the label.
pub fn is_of(schedule: &SnapshotSchedule, snapshot: &Snapshot) -> bool {
    let name = snapshot.name_any();
    let minutes = name.strip_prefix(schedule.name_any().as_str()).and_then(|rest| rest.strip_prefix('-'));
    snapshot.metadata.namespace == schedule.metadata.namespace
        && snapshot.labels().get(SCHEDULE_UID_LABEL).is_some_and(|uid| uid == uid_of(schedule))
        && minutes.is_some_and(|minutes| minutes.bytes().all(|byte| byte.is_ascii_digit()))
}

fn phase(snapshot: &Snapshot) -> Option<SnapshotPhase> {
    snapshot.status.as_ref().and_then(|status| status.phase)
}

fn is_taken(snapshot: &Snapshot) -> bool {
    snapshot.status.as_ref().is_some_and(|status| is_true(&status.conditions, TAKEN))
}

/// Whether nothing is done for it any more.
fn is_over(snapshot: &Snapshot) -> bool {
    is_taken(snapshot) || phase(snapshot) == Some(SnapshotPhase::Failed)
}

/// What is to be done now, where `made` are the snapshots of the schedule.
pub fn turn(schedule: &SnapshotSchedule, recurrence: &Recurrence, made: &[Arc<Snapshot>], now: Timestamp) -> Turn {
    if schedule.spec.is_suspended() {
        return Turn::Settled(Outcome::Suspended);
    }
    // one is made up for, however many were missed
    let since = since(schedule, recurrence, now);
    let Some(moment) = recurrence.latest(now).filter(|moment| *moment > since) else {
        return Turn::Settled(Outcome::NotYet);
    };
    let name = name_of(schedule, moment);
    if made.iter().any(|snapshot| snapshot.name_any() == name) {
        return Turn::Settled(Outcome::Made(moment));
    }
    match made.iter().find(|snapshot| !is_over(snapshot) && !is_deleting(&***snapshot)) {
        Some(before) => Turn::Settled(Outcome::Waiting { moment, before: before.name_any() }),
        None => Turn::Due(moment),
    }
}

/// The moment after which moments have their turn.
fn since(schedule: &SnapshotSchedule, recurrence: &Recurrence, now: Timestamp) -> Timestamp {
    let created = schedule.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
    let last = schedule.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|last| last.0);
    // a clock that was set back a little brings no moment twice. One beyond the next moment was a wrong clock's, and holds up none
    last.filter(|last| *last <= now || recurrence.next(now).is_some_and(|next| *last <= next)).unwrap_or(created)
}

/// The status of the schedule, where `made` are its snapshots.
pub fn status(
    schedule: &SnapshotSchedule,
    recurrence: &Recurrence,
    made: &[Arc<Snapshot>],
    outcome: &Outcome,
    now: Timestamp,
) -> SnapshotScheduleStatus {
    let mut status = status_of(schedule);
    if let Outcome::Made(moment) | Outcome::Nothing { moment, .. } = outcome {
        status.last_schedule_time = Some(Time(*moment));
    }
    if let Outcome::Made(moment) = outcome {
        status.last_snapshot = Some(name_of(schedule, *moment));
    }
    let after = now.max(since(schedule, recurrence, now));
    status.next_time = recurrence.next(after).filter(|_| *outcome != Outcome::Suspended).map(Time);
    let finding = match outcome {
        Outcome::Suspended => {
            Finding::new(READY, Verdict::True, "Suspended", "no snapshots are taken: spec.suspend is true")
        }
        Outcome::Nothing { reason, message, .. } => {
            let message = format!("no snapshot was made: {message}. The next moment is status.nextTime");
            Finding::new(READY, Verdict::False, reason, message)
        }
        Outcome::Waiting { moment, before } => {
            let message =
                format!("that of {moment} waits until Snapshot {before} was taken: see what that says, or delete it");
            Finding::new(READY, Verdict::False, "Waiting", message)
        }
        Outcome::Made(_) | Outcome::NotYet => of_last_moment(schedule, &status, made, outcome).unwrap_or_else(|| {
            Finding::new(READY, Verdict::True, "Scheduled", "a snapshot is taken at status.nextTime")
        }),
    };
    status.phase = Some(match (&finding.verdict, finding.reason) {
        (_, "Suspended") => SnapshotSchedulePhase::Suspended,
        (Verdict::True, _) | (_, "Waiting") => SnapshotSchedulePhase::Active,
        _ => SnapshotSchedulePhase::Failing,
    });
    find(schedule, &mut status, &finding);
    status
}

/// How the last moment went. `status` knows which that is.
fn of_last_moment(
    schedule: &SnapshotSchedule,
    status: &SnapshotScheduleStatus,
    made: &[Arc<Snapshot>],
    outcome: &Outcome,
) -> Option<Finding> {
    let name = status.last_schedule_time.as_ref().map(|last| name_of(schedule, last.0))?;
    let (verdict, reason, message) = match made.iter().find(|snapshot| snapshot.name_any() == name) {
        Some(snapshot) if phase(snapshot) == Some(SnapshotPhase::Failed) => {
            (Verdict::False, "SnapshotFailed", format!("Snapshot {name} failed; it says why"))
        }
        Some(snapshot) if is_taken(snapshot) => (Verdict::True, "Taken", format!("Snapshot {name} was taken")),
        Some(snapshot) if is_deleting(&**snapshot) => {
            (Verdict::False, "SnapshotDeleted", format!("Snapshot {name} was deleted before it was taken"))
        }
        None if *outcome == Outcome::NotYet => {
            // that nothing came of it, or a snapshot that somebody deleted, or one that is not in the cache yet
            let known = condition::get(&status.conditions, READY)?;
            let reason = OF_A_MOMENT.into_iter().find(|reason| *reason == known.reason)?;
            let verdict = if is_true(&status.conditions, READY) { Verdict::True } else { Verdict::False };
            (verdict, reason, known.message.clone())
        }
        _ => (Verdict::True, "Taking", format!("Snapshot {name} is to be taken; it says what that waits for")),
    };
    Some(Finding::new(READY, verdict, reason, message))
}

/// The status of a schedule whose moments cannot be told.
pub fn unreadable(schedule: &SnapshotSchedule, message: String) -> SnapshotScheduleStatus {
    let mut status = status_of(schedule);
    status.next_time = None;
    status.phase = Some(SnapshotSchedulePhase::Failing);
    find(schedule, &mut status, &Finding::new(READY, Verdict::False, "InvalidSchedule", message));
    status
}

/// Those of its snapshots that are too many: what is ready beyond `keep`, and what failed before another was over. What is
/// being taken is none of them.
pub fn surplus(schedule: &SnapshotSchedule, made: &[Arc<Snapshot>]) -> Vec<Arc<Snapshot>> {
    let mut present: Vec<_> = made.iter().filter(|snapshot| !is_deleting(&***snapshot)).collect();
    // by the API server's clock, for a moment may be a wrong clock's
    present.sort_by_key(|snapshot| Reverse((snapshot.creation_timestamp(), snapshot.name_any())));
    let keep = schedule.spec.keep.map_or(usize::MAX, |keep| usize::try_from(keep).unwrap_or(usize::MAX));
    let ready = present.iter().filter(|snapshot| phase(snapshot) == Some(SnapshotPhase::Ready)).skip(keep);
    let failed = present
        .iter()
        .skip_while(|snapshot| !is_over(snapshot))
        .skip(1)
        .filter(|snapshot| phase(snapshot) == Some(SnapshotPhase::Failed));
    ready.chain(failed).map(|snapshot| Arc::clone(snapshot)).collect()
}

#[cfg(test)]
mod tests;
