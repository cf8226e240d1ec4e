//! Schedules of snapshots: one snapshot for each moment, whatever happens, and no more kept than are to be.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::Method;
use k8s_openapi::{
    api::core::v1::ResourceQuota,
    jiff::{Timestamp, ToSpan as _},
};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::{Value, json};
use ucloud_controllers::{ControllerName, Options};
use ucloud_types::{
    Snapshot, SnapshotSchedule,
    condition::{self, READY},
    meta::{SCHEDULE_LABEL, SCHEDULE_UID_LABEL},
};

use crate::{
    faults::{Asked, Fate, line},
    support::{Cloud, Controllers, create, delete, eventually, names, patch, set_status, until, until_gone, vm_spec},
};

pub fn schedules(cloud: &Cloud) -> Api<SnapshotSchedule> {
    Api::namespaced(cloud.admin.clone(), "default")
}

pub fn snapshots(cloud: &Cloud) -> Api<Snapshot> {
    Api::namespaced(cloud.admin.clone(), "default")
}

/// Of VM `web`, every hour.
pub async fn create_hourly(cloud: &Cloud, keep: u32) {
    let spec = json!({"snapshot": {"vm": "web"}, "schedule": "0 * * * *", "keep": keep});
    create(&schedules(cloud), "hourly", spec).await;
}

/// The schedule's controller alone: what becomes of its snapshots is said by the test.
fn by_itself(cloud: &Cloud) -> Options {
    Options { controllers: BTreeSet::from([ControllerName::SnapshotSchedule]), ..cloud.options() }
}

fn last_of(schedule: &SnapshotSchedule) -> Option<Timestamp> {
    Some(schedule.status.as_ref()?.last_schedule_time.as_ref()?.0)
}

fn next_of(schedule: &SnapshotSchedule) -> Option<Timestamp> {
    Some(schedule.status.as_ref()?.next_time.as_ref()?.0)
}

/// The name of the snapshot of a moment.
fn name_at(moment: Timestamp) -> String {
    format!("hourly-{}", moment.as_second() / 60)
}

/// Makes it the next moment of the schedule, and tells which that is.
pub async fn next_moment(cloud: &Cloud) -> Timestamp {
    let schedule = until(&schedules(cloud), "hourly", "it has a next moment", |s| next_of(s) > last_of(s)).await;
    let moment = next_of(&schedule).unwrap();
    pass_to(cloud, moment).await;
    moment
}

/// Sets the clock, and has the controller look at it.
async fn pass_to(cloud: &Cloud, time: Timestamp) {
    cloud.set_clock(time);
    patch(&schedules(cloud), "hourly", json!({"metadata": {"annotations": {"looked-at": time.to_string()}}})).await;
}

/// Waits until the moment has had its turn with this result.
pub async fn until_told(cloud: &Cloud, moment: Timestamp, reason: &str) -> SnapshotSchedule {
    until(&schedules(cloud), "hourly", &format!("{moment} was {reason}"), |schedule| {
        last_of(schedule) == Some(moment) && reason_of(schedule) == reason
    })
    .await
}

fn reason_of(schedule: &SnapshotSchedule) -> String {
    let conditions = schedule.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, READY).map(|ready| ready.reason.clone()).unwrap_or_default()
}

fn message_of(schedule: &SnapshotSchedule) -> String {
    condition::get(&schedule.status.as_ref().unwrap().conditions, READY).unwrap().message.clone()
}

/// What the snapshot's own controller and its host say of one that was taken.
async fn is_taken(cloud: &Cloud, moment: Timestamp) {
    let taken = json!([{"type": "Taken", "status": "True", "reason": "Taken", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    set_status(&snapshots(cloud), &name_at(moment), json!({"phase": "Ready", "conditions": taken})).await;
}

/// A cloud with a VM `web`, and a schedule for it.
async fn cloud(keep: u32) -> Cloud {
    let cloud = Cloud::start().await;
    create(&cloud.vms(), "web", vm_spec("1Gi", &[])).await;
    create_hourly(&cloud, keep).await;
    cloud
}

fn is_creation(asked: &Asked) -> bool {
    asked.method == Method::POST && asked.path.contains("/snapshots")
}

#[tokio::test]
async fn each_moment_has_its_snapshot_and_the_newest_are_kept_also_without_the_schedule() {
    let cloud = cloud(2).await;
    let _controllers = Controllers::start(cloud.client().await, by_itself(&cloud));
    create(&snapshots(&cloud), "hourly-by-hand", json!({"vm": "web"})).await;
    let mut moments = Vec::new();
    for _ in 0..4 {
        let moment = next_moment(&cloud).await;
        let told = until_told(&cloud, moment, "Taking").await;
        assert_eq!(told.status.as_ref().unwrap().last_snapshot, Some(name_at(moment)));
        is_taken(&cloud, moment).await;
        until_told(&cloud, moment, "Taken").await;
        moments.push(moment);
    }
    for moment in &moments[..2] {
        until_gone(&snapshots(&cloud), &name_at(*moment)).await;
    }
    let kept = [name_at(moments[2]), name_at(moments[3]), "hourly-by-hand".to_owned()];
    assert_eq!(names(&snapshots(&cloud)).await, kept);
    let schedule = schedules(&cloud).get("hourly").await.unwrap();
    let snapshot = snapshots(&cloud).get(&kept[0]).await.unwrap();
    assert_eq!(snapshot.labels().get(SCHEDULE_LABEL).map(String::as_str), Some("hourly"));
    assert_eq!(snapshot.labels().get(SCHEDULE_UID_LABEL), schedule.metadata.uid.as_ref());

    // one whose label is taken away is the user's own
    patch(&snapshots(&cloud), &kept[0], json!({"metadata": {"labels": {SCHEDULE_UID_LABEL: null}}})).await;
    patch(&schedules(&cloud), "hourly", json!({"spec": {"keep": 1}})).await;
    let moment = next_moment(&cloud).await;
    until_told(&cloud, moment, "Taking").await;
    is_taken(&cloud, moment).await;
    until_gone(&snapshots(&cloud), &kept[1]).await;
    delete(&schedules(&cloud), "hourly").await;
    until_gone(&schedules(&cloud), "hourly").await;
    assert_eq!(names(&snapshots(&cloud)).await, [kept[0].clone(), name_at(moment), kept[2].clone()]);
}

#[tokio::test]
async fn a_moment_waits_for_the_snapshot_before_and_those_that_pass_meanwhile_are_one() {
    let cloud = cloud(5).await;
    let _controllers = Controllers::start(cloud.client().await, by_itself(&cloud));
    let first = next_moment(&cloud).await;
    until_told(&cloud, first, "Taking").await;
    pass_to(&cloud, first + 1.hour()).await;
    until_told(&cloud, first, "Waiting").await;
    pass_to(&cloud, first + 3.hours()).await;
    let is_later = |schedule: &SnapshotSchedule| message_of(schedule).contains(&(first + 3.hours()).to_string());
    let waiting = until(&schedules(&cloud), "hourly", "it waits with the last moment", is_later).await;
    assert!(message_of(&waiting).contains(&name_at(first)), "{}", message_of(&waiting));
    is_taken(&cloud, first).await;
    until_told(&cloud, first + 3.hours(), "Taking").await;
    assert_eq!(names(&snapshots(&cloud)).await, [name_at(first), name_at(first + 3.hours())]);
}

#[tokio::test]
async fn what_was_missed_while_nobody_was_there_is_made_up_for_once_and_moments_come_by_themselves() {
    let cloud = cloud(5).await;
    let controllers = Controllers::start(cloud.client().await, by_itself(&cloud));
    let first = next_moment(&cloud).await;
    until_told(&cloud, first, "Taking").await;
    is_taken(&cloud, first).await;
    until_told(&cloud, first, "Taken").await;
    controllers.stop().await;

    cloud.set_clock(first + 10.hours() - 2.seconds());
    let _controllers = Controllers::start(cloud.client().await, by_itself(&cloud));
    let missed = first + 9.hours();
    until_told(&cloud, missed, "Taking").await;
    is_taken(&cloud, missed).await;
    // nobody says that it is time
    until_told(&cloud, first + 10.hours(), "Taking").await;
    assert_eq!(names(&snapshots(&cloud)).await, [first, missed, first + 10.hours()].map(name_at));
}

#[tokio::test]
async fn where_nothing_can_be_made_that_is_said_and_the_next_moment_is_tried() {
    let cloud = Cloud::start().await;
    create_hourly(&cloud, 5).await;
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let client = line(cloud.client().await, move |asked| {
        counted.fetch_add(usize::from(is_creation(asked)), Ordering::SeqCst);
        Fate::Pass
    });
    let _controllers = Controllers::start(client, cloud.options());
    let moment = next_moment(&cloud).await;
    let told = until_told(&cloud, moment, "SourceNotFound").await;
    assert!(message_of(&told).contains("VM web does not exist"), "{}", message_of(&told));

    create(&cloud.vms(), "web", vm_spec("1Gi", &[])).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(cloud.admin.clone(), "default");
    let limit = "count/snapshots.ucloud.ungleich.ch";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {limit: "0"}}});
    quotas.create(&PostParams::default(), &serde_json::from_value(quota).unwrap()).await.unwrap();
    until(&quotas, "q", "it is counted", |quota| quota.status.as_ref().is_some_and(|s| s.used.is_some())).await;
    for tried in 1..=2 {
        let moment = next_moment(&cloud).await;
        let told = until_told(&cloud, moment, "Refused").await;
        assert!(message_of(&told).contains("exceeded quota: q"), "{}", message_of(&told));
        assert_eq!(tries.load(Ordering::SeqCst), tried, "once for each moment");
    }
    delete(&quotas, "q").await;
    let moment = next_moment(&cloud).await;
    until_told(&cloud, moment, "Taking").await;
    assert_eq!((tries.load(Ordering::SeqCst), names(&snapshots(&cloud)).await), (3, vec![name_at(moment)]));
}

/// Pattern 7.
#[tokio::test]
async fn a_lost_reply_brings_no_second_snapshot_and_a_name_that_is_taken_takes_none_over() {
    let cloud = cloud(1).await;
    let lost = AtomicUsize::new(0);
    let client = line(cloud.client().await, move |asked| {
        let first = is_creation(asked) && lost.fetch_add(1, Ordering::SeqCst) == 0;
        if first { Fate::LoseReply } else { Fate::Pass }
    });
    let _controllers = Controllers::start(client, by_itself(&cloud));
    let first = next_moment(&cloud).await;
    until_told(&cloud, first, "Taking").await;
    assert_eq!(names(&snapshots(&cloud)).await, [name_at(first)]);
    is_taken(&cloud, first).await;
    until_told(&cloud, first, "Taken").await;

    let second = first + 1.hour();
    create(&snapshots(&cloud), &name_at(second), json!({"vm": "web"})).await;
    is_taken(&cloud, second).await;
    pass_to(&cloud, second).await;
    let told = until_told(&cloud, second, "NameTaken").await;
    assert!(message_of(&told).contains("is not of this schedule"), "{}", message_of(&told));
    assert_eq!(names(&snapshots(&cloud)).await, [name_at(first), name_at(second)], "neither is too many");
}

#[tokio::test]
async fn suspended_takes_none_and_what_is_no_schedule_is_refused() {
    let cloud = cloud(5).await;
    let _controllers = Controllers::start(cloud.client().await, by_itself(&cloud));
    let first = next_moment(&cloud).await;
    until_told(&cloud, first, "Taking").await;
    is_taken(&cloud, first).await;
    patch(&schedules(&cloud), "hourly", json!({"spec": {"suspend": true}})).await;
    until_told(&cloud, first, "Suspended").await;
    pass_to(&cloud, first + 2.hours()).await;
    patch(&schedules(&cloud), "hourly", json!({"spec": {"suspend": null}})).await;
    until_told(&cloud, first + 2.hours(), "Taking").await;
    eventually("both are there", async || names(&snapshots(&cloud)).await.len() == 2).await;

    let refused = async |spec: Value, name: &str| {
        let schedule = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "SnapshotSchedule",
            "metadata": {"name": name}, "spec": spec});
        let schedule = serde_json::from_value(schedule).unwrap();
        schedules(&cloud).create(&PostParams::default(), &schedule).await.unwrap_err().to_string()
    };
    let bad = json!({"snapshot": {"vm": "We b"}, "schedule": "0 3 * *", "timeZone": "Mars/Olympus"});
    let told = refused(bad, &"long".repeat(14)).await;
    for field in ["spec.snapshot.vm", "spec.schedule", "spec.timeZone", "metadata.name"] {
        assert!(told.contains(field), "{field} is not in {told}");
    }
    assert!(told.contains("must have five fields") && told.contains("Europe/Zurich"), "{told}");
    let never = refused(json!({"snapshot": {"vm": "web"}, "schedule": "0 0 31 2 *"}), "a").await;
    assert!(never.contains("never comes"), "{never}");
    let by_schema =
        refused(json!({"snapshot": {"vm": "web", "volume": "v"}, "schedule": "@daily", "keep": 0}), "a").await;
    assert!(by_schema.contains("spec.snapshot") && by_schema.contains("spec.keep"), "{by_schema}");
    let merge = kube::api::Patch::Merge(json!({"spec": {"snapshot": {"vm": "db"}}}));
    let changed = schedules(&cloud).patch("hourly", &kube::api::PatchParams::default(), &merge).await;
    let changed = changed.unwrap_err().to_string();
    assert!(changed.contains("immutable"), "{changed}");
}

/// Only what a schedule says is made and deleted by the controllers, whoever speaks for them.
#[tokio::test]
async fn the_controllers_make_and_delete_no_other_snapshots() {
    let cloud = cloud(1).await;
    create(&snapshots(&cloud), "mine", json!({"vm": "web"})).await;
    let own: Api<Snapshot> = Api::namespaced(cloud.client().await, "default");
    let refused = own.delete("mine", &kube::api::DeleteParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("no snapshots but those of schedules"), "{refused}");
    let snapshot = Snapshot::new("theirs", serde_json::from_value(json!({"vm": "web"})).unwrap());
    let refused = own.create(&PostParams::default(), &snapshot).await.unwrap_err().to_string();
    assert!(refused.contains("no snapshots but those of schedules"), "{refused}");
}
