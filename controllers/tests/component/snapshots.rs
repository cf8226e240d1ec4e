//! Snapshots: what they are made of is decided once, and nothing of them is left behind.

use kube::{
    Api, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use ucloud_types::{
    Image, Snapshot,
    condition::{self, Condition, READY, TERMINATING},
    meta::SNAPSHOT_FINALIZER,
    snapshot::SnapshotPhase,
};

use crate::support::{
    Cloud, create, delete, patch, set_status, until, until_bound, until_gone, until_scheduled, vm_spec,
};

fn snapshots(cloud: &Cloud) -> Api<Snapshot> {
    Api::namespaced(cloud.admin.clone(), "default")
}

fn condition_of(snapshot: &Snapshot, type_: &str) -> Option<Condition> {
    condition::get(&snapshot.status.as_ref()?.conditions, type_).cloned()
}

async fn until_reason(cloud: &Cloud, type_: &str, reason: &str) -> Snapshot {
    let is = |snapshot: &Snapshot| condition_of(snapshot, type_).is_some_and(|condition| condition.reason == reason);
    until(&snapshots(cloud), "kept", &format!("{type_} is {reason}"), is).await
}

/// What the agent of h1 says of the snapshot, as agents write: its part of the status.
async fn says(cloud: &Cloud, status: &str, reason: &str) {
    let agent: Api<Snapshot> = Api::namespaced(cloud.api.agent("h1").await.unwrap(), "default");
    let config = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Snapshot", "metadata": {"name": "kept"},
        "status": {"conditions": [{"type": "Taken", "status": status, "reason": reason, "message": "it says so",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    agent.patch_status("kept", &PatchParams::apply("ucloud-agent").force(), &Patch::Apply(config)).await.unwrap();
}

/// A cloud with a VM `web` on h1, which has one disk, and a snapshot of it that h1 is to take.
async fn cloud() -> Cloud {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    cloud
}

async fn with_vm(cloud: &Cloud) {
    create(&cloud.vms(), "web", vm_spec("1Gi", &[])).await;
    until_bound(cloud, "web").await;
    create(&snapshots(cloud), "kept", json!({"vm": "web"})).await;
    until_reason(cloud, READY, "NoDisks").await;
    set_status(&cloud.vms(), "web", json!({"disks": [{"name": "root", "pool": "default", "size": "1Gi"}]})).await;
}

/// The image of the disk, once it is there.
async fn image(cloud: &Cloud) -> Image {
    until(&cloud.images(), "kept-root", "the image is there", |_| true).await
}

#[tokio::test]
async fn a_snapshot_is_decided_taken_and_ready_and_its_images_go_with_it() {
    let cloud = cloud().await;
    let _controllers = cloud.controllers().await;
    create(&snapshots(&cloud), "kept", json!({"vm": "web"})).await;
    until_reason(&cloud, READY, "SourceNotFound").await;
    delete(&snapshots(&cloud), "kept").await;
    until_gone(&snapshots(&cloud), "kept").await;

    with_vm(&cloud).await;
    let status = until_reason(&cloud, READY, "Taking").await.status.unwrap();
    assert_eq!((status.host.as_deref(), status.phase), (Some("h1"), Some(SnapshotPhase::Taking)));
    assert_eq!(status.disks[0].image, "kept-root");
    let uid = image(&cloud).await.metadata.uid.unwrap();
    let report =
        json!([{"uid": uid, "phase": "Ready", "sha256": format!("sha256:{}", "a".repeat(64)), "virtualSize": "1Gi"}]);
    set_status(&cloud.hosts(), "h1", json!({"images": report})).await;
    let pending = |image: &Image| {
        let status = image.status.clone().unwrap_or_default();
        condition::get(&status.conditions, READY).is_some_and(|ready| ready.reason == "SnapshotNotTaken")
    };
    until(&cloud.images(), "kept-root", "nobody uses one disk before all are taken", pending).await;

    says(&cloud, "False", "NoSpace").await;
    until_reason(&cloud, READY, "NotTaken").await;
    says(&cloud, "False", "Taking").await;
    says(&cloud, "True", "Taken").await;
    let status = until_reason(&cloud, READY, "Taken").await.status.unwrap();
    assert_eq!(status.phase, Some(SnapshotPhase::Ready));

    // A VM of it goes where its bytes are
    cloud.host("h2", 64, "64Gi").await;
    let mut spec = vm_spec("1Gi", &[]);
    spec["disks"] = json!([{"name": "root", "image": "kept-root"}]);
    create(&cloud.vms(), "next", spec).await;
    assert_eq!(until_bound(&cloud, "next").await, "h1", "h2 has more room");
    patch(&cloud.hosts(), "h1", json!({"spec": {"unschedulable": true}})).await;
    let mut spec = vm_spec("1Gi", &[]);
    spec["disks"] = json!([{"name": "root", "image": "kept-root"}]);
    create(&cloud.vms(), "third", spec).await;
    let why = until_scheduled(&cloud, "third", "Unschedulable").await.message;
    assert!(why.contains("Image kept-root, which is on host h1"), "{why}");

    // It outlives the VM that it is of
    delete(&cloud.vms(), "web").await;
    patch(&cloud.vms(), "web", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&cloud.vms(), "web").await;
    assert_eq!(until_reason(&cloud, READY, "Taken").await.status.unwrap().phase, Some(SnapshotPhase::Ready));
    delete(&snapshots(&cloud), "kept").await;
    until_gone(&snapshots(&cloud), "kept").await;
    let held = |image: &Image| image.metadata.deletion_timestamp.is_some();
    until(&cloud.images(), "kept-root", "it goes with its snapshot, once no VM needs it", held).await;
}

#[tokio::test]
async fn a_snapshot_stays_while_its_host_may_be_at_work() {
    let cloud = cloud().await;
    let _controllers = cloud.controllers().await;
    with_vm(&cloud).await;
    let kept = until_reason(&cloud, READY, "Taking").await;
    assert_eq!(kept.finalizers(), [SNAPSHOT_FINALIZER]);
    image(&cloud).await;
    says(&cloud, "False", "Taking").await;
    delete(&snapshots(&cloud), "kept").await;
    let message = condition_of(&until_reason(&cloud, TERMINATING, "GivingUp").await, TERMINATING).unwrap().message;
    assert!(message.contains("host h1 gives up"), "{message}");
    says(&cloud, "False", "GivenUp").await;
    until_gone(&snapshots(&cloud), "kept").await;
    until_gone(&cloud.images(), "kept-root").await;
}

#[tokio::test]
async fn a_host_that_is_gone_holds_no_snapshot() {
    let cloud = cloud().await;
    let _controllers = cloud.controllers().await;
    with_vm(&cloud).await;
    until_reason(&cloud, READY, "Taking").await;
    image(&cloud).await;
    says(&cloud, "False", "Taking").await;
    delete(&cloud.vms(), "web").await;
    patch(&cloud.vms(), "web", json!({"metadata": {"finalizers": null}})).await;
    let gone = until_reason(&cloud, READY, "SourceGone").await.status.unwrap();
    assert_eq!(gone.phase, Some(SnapshotPhase::Failed));
    delete(&snapshots(&cloud), "kept").await;
    until_reason(&cloud, TERMINATING, "GivingUp").await;
    delete(&cloud.hosts(), "h1").await;
    until_gone(&snapshots(&cloud), "kept").await;
}

#[tokio::test]
async fn nobody_else_makes_an_image_of_a_snapshot() {
    let cloud = cloud().await;
    let spec: Value = json!({"source": {"snapshot": {"name": "kept", "disk": "root"}}, "format": "raw"});
    let image: Image = serde_json::from_value(json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
        "metadata": {"name": "mine"}, "spec": spec}))
    .unwrap();
    let refused = cloud.images().create(&kube::api::PostParams::default(), &image).await.unwrap_err().to_string();
    assert!(refused.contains("a snapshot makes its images itself"), "{refused}");
    // nor do the controllers make any other
    let own: Api<Image> = Api::namespaced(cloud.client().await, "default");
    let image: Image = serde_json::from_value(json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
        "metadata": {"name": "mine"}, "spec": {"source": {"http": {"url": "http://h/a"}}, "format": "raw"}}))
    .unwrap();
    let refused = own.create(&kube::api::PostParams::default(), &image).await.unwrap_err().to_string();
    assert!(refused.contains("no images but those of snapshots"), "{refused}");
}
