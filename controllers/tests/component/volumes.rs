//! Volumes outlive their VMs or go with them, and go for good when their bytes are gone. VMs go where their volumes are.

use kube::{
    Api, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams},
};
use serde_json::{Value, json};
use ucloud_types::{
    Image, VM, Volume,
    condition::{self, Condition, READY, TERMINATING},
    meta::AGENT_FINALIZER,
    volume::VolumePhase,
};

use crate::support::{
    Cloud, create, delete, host_of, patch, ready, set_status, until, until_bound, until_gone, until_scheduled, vm_spec,
};

fn volumes(cloud: &Cloud) -> Api<Volume> {
    Api::namespaced(cloud.admin.clone(), "default")
}

fn condition_of(volume: &Volume, type_: &str) -> Option<Condition> {
    condition::get(&volume.status.as_ref()?.conditions, type_).cloned()
}

async fn until_reason(cloud: &Cloud, type_: &str, reason: &str) -> (Volume, String) {
    let is = |volume: &Volume| condition_of(volume, type_).is_some_and(|condition| condition.reason == reason);
    let volume = until(&volumes(cloud), "data", &format!("{type_} is {reason}"), is).await;
    let message = condition_of(&volume, type_).unwrap().message;
    (volume, message)
}

fn is_free(volume: &Volume) -> bool {
    volume.status.as_ref().is_some_and(|status| status.attachment.is_none())
}

fn with_volume() -> Value {
    let mut spec = vm_spec("1Gi", &[]);
    spec["disks"].as_array_mut().unwrap().push(json!({"name": "data", "volume": "data"}));
    spec
}

/// A cloud with the host h1, the pool default and the Volume `data`.
async fn cloud(spec: Value) -> Cloud {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    create(&volumes(&cloud), "data", spec).await;
    cloud
}

/// What the agent of h1 says of the volume, as agents write: its part of the status, on the version that it knows, and again
/// when that is not the newest.
async fn report(cloud: &Cloud, status: Value) -> Volume {
    let agent: Api<Volume> = Api::namespaced(cloud.api.agent("h1").await.unwrap(), "default");
    loop {
        let ObjectMeta { uid, resource_version, .. } = agent.get("data").await.unwrap().metadata;
        let config = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume", "status": status,
            "metadata": {"name": "data", "uid": uid, "resourceVersion": resource_version}});
        match agent.patch_status("data", &PatchParams::apply("ucloud-agent").force(), &Patch::Apply(config)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            written => return written.unwrap(),
        }
    }
}

/// Binds a VM `web` with the volume, which its agent takes and makes.
async fn attached(cloud: &Cloud) -> VM {
    create(&cloud.vms(), "web", with_volume()).await;
    until_bound(cloud, "web").await;
    let web = cloud.vms().get("web").await.unwrap();
    until(&volumes(cloud), "data", "it may be made", |volume| volume.finalizers() == [AGENT_FINALIZER]).await;
    let attachment = json!({"vm": "web", "vmUid": web.metadata.uid, "host": "h1", "epoch": 1});
    report(cloud, json!({"attachment": attachment, "host": "h1"})).await;
    let (_, message) = until_reason(cloud, READY, "Pending").await;
    assert!(message.starts_with("it is made") || message == "host h1 makes it for VM web", "{message}");
    report(cloud, json!({"attachment": attachment, "host": "h1", "size": "1Gi"})).await;
    let (volume, message) = until_reason(cloud, READY, "Attached").await;
    assert_eq!(
        (message.as_str(), volume.status.unwrap().phase),
        ("VM web on host h1 has it", Some(VolumePhase::Attached))
    );
    web
}

/// Deletes the VM; its agent removes it and lets it go.
async fn vm_goes(cloud: &Cloud) {
    delete(&cloud.vms(), "web").await;
    patch(&cloud.vms(), "web", json!({"metadata": {"finalizers": null}})).await;
}

/// The agent of h1 has removed the bytes.
async fn bytes_go(cloud: &Cloud) {
    let agent: Api<Volume> = Api::namespaced(cloud.api.agent("h1").await.unwrap(), "default");
    patch(&agent, "data", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&volumes(cloud), "data").await;
}

#[tokio::test]
async fn a_volume_outlives_its_vm_and_the_next_one_goes_where_it_is() {
    let cloud = cloud(json!({"size": "1Gi"})).await;
    let _controllers = cloud.controllers().await;
    let (volume, message) = until_reason(&cloud, READY, "Pending").await;
    assert_eq!(message, "it is made when the first VM has it");
    assert_eq!(volume.status.unwrap().phase, Some(VolumePhase::Pending));
    attached(&cloud).await;
    vm_goes(&cloud).await;
    let (volume, _) = until_reason(&cloud, READY, "Available").await;
    let status = volume.status.unwrap();
    assert_eq!(
        (status.attachment, status.host.as_deref(), status.phase),
        (None, Some("h1"), Some(VolumePhase::Available))
    );

    cloud.host("h2", 64, "64Gi").await;
    create(&cloud.vms(), "next", with_volume()).await;
    assert_eq!(until_bound(&cloud, "next").await, "h1", "h2 has more room");
    patch(&volumes(&cloud), "data", json!({"spec": {"size": "2Gi"}})).await;
    let (_, message) = until_reason(&cloud, READY, "Growing").await;
    assert_eq!(message, "it grows from 1Gi to 2Gi when the next VM has it");
}

#[tokio::test]
async fn a_volume_goes_with_its_vm_if_that_is_its_policy() {
    let cloud = cloud(json!({"size": "1Gi", "reclaimPolicy": "Delete"})).await;
    let _controllers = cloud.controllers().await;
    attached(&cloud).await;
    vm_goes(&cloud).await;
    let (volume, message) = until_reason(&cloud, TERMINATING, "Removing").await;
    assert_eq!(message, "waiting until host h1 has removed its bytes");
    assert!(is_free(&volume));
    bytes_go(&cloud).await;
}

/// Pattern 4: a VM that was made again under the same name is another VM, and does not have what the first one had.
#[tokio::test]
async fn a_vm_of_the_same_name_is_not_the_one_that_has_it() {
    let cloud = cloud(json!({"size": "1Gi"})).await;
    let controllers = cloud.controllers().await;
    attached(&cloud).await;
    controllers.stop().await;
    vm_goes(&cloud).await;
    let mut halted = with_volume();
    halted["runStrategy"] = json!("Halted");
    create(&cloud.vms(), "web", halted).await;
    let _controllers = cloud.controllers().await;
    until(&volumes(&cloud), "data", "it is free", is_free).await;
}

#[tokio::test]
async fn a_volume_that_is_being_deleted_waits_for_its_vm_and_then_for_its_bytes() {
    let cloud = cloud(json!({"size": "1Gi", "reclaimPolicy": "Delete"})).await;
    let _controllers = cloud.controllers().await;
    attached(&cloud).await;
    delete(&volumes(&cloud), "data").await;
    let (volume, message) = until_reason(&cloud, TERMINATING, "Attached").await;
    assert_eq!(message, "VM web has it: detach it with `ucloudctl detach web data`, or delete the VM");
    assert_eq!(volume.status.unwrap().phase, Some(VolumePhase::Terminating));
    report(&cloud, json!({"host": "h1", "size": "1Gi"})).await;
    until_reason(&cloud, TERMINATING, "Removing").await;
    let failed = json!([{"type": "Removed", "status": "False", "reason": "RemovalFailed", "message": "the disk is read-only",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    report(&cloud, json!({"host": "h1", "size": "1Gi", "conditions": failed})).await;
    let told = |volume: &Volume| condition_of(volume, TERMINATING).is_some_and(|c| c.message.ends_with("is read-only"));
    until(&volumes(&cloud), "data", "it says what keeps it", told).await;
    bytes_go(&cloud).await;
}

#[tokio::test]
async fn a_volume_that_was_never_made_goes_at_once() {
    let cloud = cloud(json!({"size": "1Gi", "pool": "fast"})).await;
    let _controllers = cloud.controllers().await;
    until_reason(&cloud, READY, "PoolNotFound").await;
    delete(&volumes(&cloud), "data").await;
    until_gone(&volumes(&cloud), "data").await;
}

#[tokio::test]
async fn bytes_on_a_silent_host_are_waited_for_until_that_is_given_up() {
    let cloud = cloud(json!({"size": "1Gi"})).await;
    let _controllers = cloud.controllers().await;
    set_status(&volumes(&cloud), "data", json!({"host": "h1", "size": "1Gi"})).await;
    until_reason(&cloud, READY, "Available").await;
    set_status(&cloud.hosts(), "h1", json!({"conditions": [ready(false)]})).await;
    let kept = cloud.hosts().delete("h1", &kube::api::DeleteParams::default()).await;
    assert!(kept.unwrap_err().to_string().contains("Volume default/data"), "it would go unasked");
    delete(&volumes(&cloud), "data").await;
    let (volume, _) = until_reason(&cloud, TERMINATING, "BytesRemain").await;
    assert_eq!(volume.finalizers(), [AGENT_FINALIZER]);
    delete(&cloud.hosts(), "h1").await;
    until_gone(&volumes(&cloud), "data").await;
}

#[tokio::test]
async fn bytes_that_all_hosts_see_are_removed_by_another() {
    let cloud = cloud(json!({"size": "1Gi", "pool": "ceph"})).await;
    cloud.host("h2", 8, "16Gi").await;
    create(&cloud.storage_pools(), "ceph", json!({"rbd": {"pool": "vms"}})).await;
    let _controllers = cloud.controllers().await;
    set_status(&volumes(&cloud), "data", json!({"host": "h1", "size": "1Gi"})).await;
    until_reason(&cloud, READY, "Available").await;
    set_status(&cloud.hosts(), "h1", json!({"conditions": [ready(false)]})).await;
    delete(&volumes(&cloud), "data").await;
    until_reason(&cloud, TERMINATING, "NoHost").await;
    let pools = json!([{"name": "ceph", "capacity": "1Ti", "available": "1Ti"}]);
    set_status(&cloud.hosts(), "h2", json!({"pools": pools})).await;
    let (volume, message) = until_reason(&cloud, TERMINATING, "Removing").await;
    assert_eq!(message, "waiting until host h2 has removed its bytes");
    assert_eq!(volume.status.unwrap().host.as_deref(), Some("h2"));
}

#[tokio::test]
async fn a_vm_waits_for_its_volume_and_goes_where_that_is() {
    let cloud = Cloud::start().await;
    for host in ["h1", "h2"] {
        cloud.host(host, 8, "16Gi").await;
    }
    cloud.storage_pool("default").await;
    let _controllers = cloud.controllers().await;
    create(&cloud.vms(), "web", with_volume()).await;
    let why = until_scheduled(&cloud, "web", "VolumeNotFound").await;
    assert_eq!(why.message, "disk data needs Volume data, which does not exist: create it, or name another volume");
    patch(&cloud.hosts(), "h2", json!({"spec": {"unschedulable": true}})).await;
    patch(&cloud.vms(), "web", json!({"spec": {"runStrategy": "Halted"}})).await;
    until_scheduled(&cloud, "web", "Halted").await;
    create(&volumes(&cloud), "data", json!({"size": "1Gi"})).await;
    set_status(&volumes(&cloud), "data", json!({"host": "h2", "size": "1Gi"})).await;
    until_reason(&cloud, READY, "Available").await;
    patch(&cloud.vms(), "web", json!({"spec": {"runStrategy": "Always"}})).await;
    let why = until_scheduled(&cloud, "web", "Unschedulable").await;
    assert_eq!(why.message, "0/2 hosts fit: 1 is unschedulable, 1 lacks Volume data, which is on host h2");
    patch(&cloud.hosts(), "h2", json!({"spec": {"unschedulable": false}})).await;
    assert_eq!(until_bound(&cloud, "web").await, "h2");
}

#[tokio::test]
async fn a_vm_that_waits_for_its_volume_goes_on_when_it_comes() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    create(&cloud.vms(), "web", with_volume()).await;
    until_scheduled(&cloud, "web", "VolumeNotFound").await;
    create(&volumes(&cloud), "data", json!({"size": "1Gi"})).await;
    until(&cloud.vms(), "web", "it has a host", |vm| host_of(vm).as_deref() == Some("h1")).await;
}

#[tokio::test]
async fn an_image_stays_until_its_volumes_are_made() {
    let cloud = cloud(json!({"size": "1Gi", "source": {"image": "debian"}})).await;
    let _controllers = cloud.controllers().await;
    until_reason(&cloud, READY, "ImageNotFound").await;
    let image = json!({"source": {"file": {"name": "debian.qcow2"}}, "format": "qcow2"});
    create(&cloud.images(), "debian", image).await;
    until_reason(&cloud, READY, "Pending").await;
    let has_finalizer = |image: &Image| !image.finalizers().is_empty();
    until(&cloud.images(), "debian", "it is held", has_finalizer).await;
    delete(&cloud.images(), "debian").await;
    let in_use = |image: &Image| {
        let conditions = image.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let held = "volumes are to be clones of it: delete Volume default/data";
        condition::get(conditions, TERMINATING).is_some_and(|c| c.reason == "InUse" && c.message == held)
    };
    until(&cloud.images(), "debian", "a volume holds it", in_use).await;
    set_status(&volumes(&cloud), "data", json!({"host": "h1", "size": "1Gi"})).await;
    until_gone(&cloud.images(), "debian").await;
}
