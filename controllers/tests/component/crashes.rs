//! Pattern 6, for all controllers together: they die after any single write, and the end is the same.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use ucloud_types::{
    File, Image, Network, NetworkPool, Snapshot, StoragePool, VM, Volume, condition, condition::READY,
    orphan::OrphanPhase,
};

use crate::{
    faults::{Counter, Crash, Fate, dying, line},
    orphans,
    schedules::{create_hourly, next_moment, schedules, snapshots, until_told},
    support::{
        Cloud, Controllers, create, delete, eventually, host_of, names, patch, set_status, until, until_gone, vm_spec,
    },
};

/// How many lives are lived at once.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_project_lives_and_goes_whenever_the_controllers_die() {
    // finalizers, statuses, allocation, binding, deletions
    at_every_write(15, live).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_volumes_and_snapshots_live_and_go_whenever_the_controllers_die() {
    // finalizers, hosts, statuses, images, reclaiming, deletions
    at_every_write(15, live_with_storage).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_make_and_remove_whenever_the_controllers_die() {
    // statuses, snapshots, their images, deletions
    at_every_write(12, live_on_schedule).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_are_listed_adopted_and_destroyed_whenever_the_controllers_die() {
    // orphans, statuses, finalizers, deletions
    at_every_write(10, live_with_orphans).await;
}

/// The life as it is without a crash, which takes `least` writes at least, and with one after each of them.
async fn at_every_write(least: usize, live: impl AsyncFn(&Cloud)) {
    let total = life(usize::MAX, Crash::AfterReply, &live).await;
    assert!(total >= least, "{total}");
    let lives =
        [Crash::AfterReply, Crash::BeforeReply].into_iter().flat_map(|crash| (1..=total).map(move |n| (n, crash)));
    futures::stream::iter(lives)
        .for_each_concurrent(AT_ONCE, async |(writes, crash)| {
            let lived = AssertUnwindSafe(life(writes, crash, &live)).catch_unwind().await;
            assert!(lived.is_ok(), "a crash after write {writes}, {crash:?}");
        })
        .await;
}

fn is_ready<S>(status: Option<&S>, conditions: impl Fn(&S) -> &[condition::Condition]) -> bool {
    status.is_some_and(|status| condition::is_true(conditions(status), READY))
}

/// A life from nothing to nothing; the controllers die after so many writes, and others take over. Tells how many writes
/// there were.
async fn life(writes: usize, crash: Crash, live: &impl AsyncFn(&Cloud)) -> usize {
    let cloud = Cloud::start().await;
    let (counter, dead) = (Counter::default(), CancellationToken::new());
    let first = line(cloud.client().await, dying(counter.clone(), writes, crash, dead.clone()));
    let (count, second) = (counter.clone(), cloud.client().await);
    let (before, after) = (cloud.options(), cloud.options());
    let supervisor = tokio::spawn(async move {
        let first = Controllers::start(first, before);
        dead.cancelled().await;
        drop(first);
        let counting = line(second, move |asked| {
            count.count(asked);
            Fate::Pass
        });
        let _second = Controllers::start(counting, after);
        std::future::pending::<()>().await;
    });
    live(&cloud).await;
    supervisor.abort();
    counter.get()
}

/// The life of a project with everything in it but what follows.
async fn live(cloud: &Cloud) {
    cloud.network_pool("default", 4).await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    let namespaces: Api<Namespace> = Api::all(cloud.admin.clone());
    let vms: Api<VM> = Api::namespaced(cloud.admin.clone(), "p");
    let networks: Api<Network> = Api::namespaced(cloud.admin.clone(), "p");
    let images: Api<Image> = Api::namespaced(cloud.admin.clone(), "p");
    let project = serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap();
    namespaces.create(&PostParams::default(), &project).await.unwrap();
    create(&networks, "net", json!({})).await;
    let image = json!({"source": {"file": {"name": "debian.qcow2"}}, "format": "qcow2"});
    let image_uid = create(&images, "debian", image).await.metadata.uid;
    create(&vms, "web", vm_spec("1Gi", &["net"])).await;

    let imports = |image: &Image| image.status.as_ref().is_some_and(|status| status.importer.is_some());
    until(&images, "debian", "it has an importer", imports).await;
    let copy = json!({"uid": image_uid, "phase": "Ready", "sha256": format!("sha256:{}", "a".repeat(64))});
    set_status(&cloud.hosts(), "h1", json!({"images": [copy]})).await;
    until(&images, "debian", "it is imported", |i| is_ready(i.status.as_ref(), |s| &s.conditions)).await;
    until(&networks, "net", "it is ready", |n| is_ready(n.status.as_ref(), |s| &s.conditions)).await;
    let vm = until(&vms, "web", "it is bound", |vm| host_of(vm).is_some()).await;
    assert_eq!(vm.status.unwrap().binding.unwrap().epoch, 1, "bound once");
    let has_host = |pool: &StoragePool| pool.status.as_ref().is_some_and(|status| status.hosts == 1);
    until(&cloud.storage_pools(), "default", "it has its host", has_host).await;
    let uses = |count: u64| move |pool: &NetworkPool| pool.status.as_ref().is_some_and(|s| s.allocated == count);
    until(&cloud.network_pools(), "default", "one network has a VNI", uses(1)).await;
    assert_eq!(cloud.allocated().await.len(), 1, "one network, one VNI");

    delete(&namespaces, "p").await;
    until(&vms, "web", "it is being deleted", |vm| vm.metadata.deletion_timestamp.is_some()).await;
    // what the host's agent does
    patch(&vms, "web", json!({"metadata": {"finalizers": null}})).await;
    set_status(&cloud.hosts(), "h1", json!({"images": []})).await;
    until_gone(&namespaces, "p").await;
    eventually("no allocation is left", async || cloud.allocated().await.is_empty()).await;
    until(&cloud.network_pools(), "default", "all of it is free", uses(0)).await;
}

/// A disk that becomes a Volume, and another that is destroyed.
async fn live_with_orphans(cloud: &Cloud) {
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    let (kept, doomed) = (orphans::name_of("a", Some("h1")), orphans::name_of("b", Some("h1")));
    let (api, volumes): (_, Api<Volume>) = (orphans::orphans(cloud), Api::namespaced(cloud.admin.clone(), "default"));
    let report = async |uids: &[&str]| {
        let found: Vec<_> = uids.iter().map(|uid| orphans::disk(uid)).collect();
        set_status(&cloud.hosts(), "h1", json!({"orphans": found})).await;
    };
    report(&["a", "b"]).await;
    for name in [&kept, &doomed] {
        orphans::until_phase(cloud, name, OrphanPhase::Found).await;
    }
    create(&volumes, "data", json!({"size": "1Gi", "source": {"orphan": kept}})).await;
    patch(&api, &kept, json!({"spec": {"adopt": {"namespace": "default", "volume": "data"}}})).await;
    patch(&api, &doomed, json!({"spec": {"destroy": true}})).await;
    orphans::until_phase(cloud, &kept, OrphanPhase::Adopting).await;
    orphans::until_phase(cloud, &doomed, OrphanPhase::Destroying).await;
    // the host has renamed the one, and removed the other
    report(&[]).await;
    says::<Volume>(cloud, "data", json!({"host": "h1", "size": "1Gi"})).await;
    until_gone(&api, &kept).await;
    until_gone(&api, &doomed).await;
    until(&volumes, "data", "it is there", |v| is_ready(v.status.as_ref(), |s| &s.conditions)).await;
    delete(&volumes, "data").await;
    lets_go::<Volume>(cloud, "data").await;
    until_gone(&volumes, "data").await;
}

/// What the agent of h1 says, as agents write: its part of a status, on the newest version.
async fn says<K>(cloud: &Cloud, name: &str, status: serde_json::Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let agent: Api<K> = Api::namespaced(cloud.api.agent("h1").await.unwrap(), "default");
    let config =
        json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "status": status});
    agent.patch_status(name, &PatchParams::apply("ucloud-agent").force(), &Patch::Apply(config)).await.unwrap();
}

/// Lets go what the agent of h1 has removed.
async fn lets_go<K>(cloud: &Cloud, name: &str)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + 'static,
{
    let api: Api<K> = Api::namespaced(cloud.admin.clone(), "default");
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

fn finding(type_: &str, status: &str, reason: &str) -> serde_json::Value {
    json!([{"type": type_, "status": status, "reason": reason, "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

/// A File that is uploaded, a Volume that goes with its VM, a copy of it, and a Snapshot of both that outlives them.
async fn live_with_storage(cloud: &Cloud) {
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    set_status(&cloud.hosts(), "h1", json!({"streamPort": 9402})).await;
    let files: Api<File> = Api::namespaced(cloud.admin.clone(), "default");
    let volumes: Api<Volume> = Api::namespaced(cloud.admin.clone(), "default");
    let snapshots: Api<Snapshot> = Api::namespaced(cloud.admin.clone(), "default");
    create(&volumes, "data", json!({"size": "1Gi", "reclaimPolicy": "Delete"})).await;
    create(&files, "iso", json!({"size": "1"})).await;
    let mut spec = vm_spec("1Gi", &[]);
    spec["disks"] = json!([{"name": "root", "image": "debian"}, {"name": "data", "volume": "data"}]);
    create(&cloud.vms(), "web", spec).await;

    until(&files, "iso", "it has a host", |file| file.status.as_ref().is_some_and(|s| s.host.is_some())).await;
    says::<File>(cloud, "iso", json!({"received": "1", "conditions": finding("Ready", "True", "Complete")})).await;
    let vm = until(&cloud.vms(), "web", "it is bound", |vm| host_of(vm).is_some()).await;
    until(&volumes, "data", "it may be made", |volume| !volume.finalizers().is_empty()).await;
    let has = json!({"attachment": {"vm": "web", "vmUid": vm.metadata.uid, "host": "h1", "epoch": 1}, "host": "h1", "size": "1Gi"});
    says::<Volume>(cloud, "data", has).await;
    create(&snapshots, "kept", json!({"vm": "web"})).await;
    let disks = json!([{"name": "root", "pool": "default", "size": "1Gi"}, {"name": "data", "pool": "default", "volume": "data", "size": "1Gi"}]);
    set_status(&cloud.vms(), "web", json!({"disks": disks})).await;

    until(&snapshots, "kept", "h1 is to take it", |s| s.status.as_ref().is_some_and(|s| s.disks.len() == 2)).await;
    let mut copies = Vec::new();
    for name in ["kept-root", "kept-data"] {
        let image = until(&cloud.images(), name, "it is there", |_| true).await;
        let sum = format!("sha256:{}", "a".repeat(64));
        copies.push(json!({"uid": image.metadata.uid, "phase": "Ready", "sha256": sum, "virtualSize": "1Gi"}));
    }
    says::<Snapshot>(cloud, "kept", json!({"conditions": finding("Taken", "False", "Taking")})).await;
    set_status(&cloud.hosts(), "h1", json!({"images": copies})).await;
    says::<Snapshot>(cloud, "kept", json!({"conditions": finding("Taken", "True", "Taken")})).await;
    until(&snapshots, "kept", "it is ready", |s| is_ready(s.status.as_ref(), |s| &s.conditions)).await;
    assert_eq!(cloud.images().list(&ListParams::default()).await.unwrap().items.len(), 2, "one image for each disk");

    create(&volumes, "copy", json!({"size": "1Gi", "source": {"volume": "data"}})).await;
    until(&snapshots, "copy-source", "h1 is to take it", |s| s.status.as_ref().is_some_and(|s| s.disks.len() == 1))
        .await;
    until(&cloud.images(), "copy-source-volume", "it is there", |_| true).await;
    set_status(&volumes, "copy", json!({"size": "1Gi", "host": "h1"})).await;
    until_gone(&snapshots, "copy-source").await;
    until_gone(&cloud.images(), "copy-source-volume").await;
    delete(&volumes, "copy").await;
    lets_go::<Volume>(cloud, "copy").await;
    until_gone(&volumes, "copy").await;

    delete(&cloud.vms(), "web").await;
    lets_go::<VM>(cloud, "web").await;
    until(&volumes, "data", "it goes with its VM", |volume| volume.metadata.deletion_timestamp.is_some()).await;
    until(&volumes, "data", "nobody has it", |v| v.status.as_ref().is_some_and(|s| s.attachment.is_none())).await;
    lets_go::<Volume>(cloud, "data").await;
    until_gone(&volumes, "data").await;
    assert!(is_ready(snapshots.get("kept").await.unwrap().status.as_ref(), |s| &s.conditions));
    delete(&files, "iso").await;
    lets_go::<File>(cloud, "iso").await;
    until_gone(&files, "iso").await;
    delete(&snapshots, "kept").await;
    until_gone(&snapshots, "kept").await;
    for name in ["kept-root", "kept-data"] {
        until(&cloud.images(), name, "it is to go", |image| image.metadata.deletion_timestamp.is_some()).await;
    }
    set_status(&cloud.hosts(), "h1", json!({"images": []})).await;
    for name in ["kept-root", "kept-data"] {
        until_gone(&cloud.images(), name).await;
    }
}

/// A schedule that keeps one: each of three moments has its snapshot, each takes the place of the one before, and the last
/// outlives the schedule.
async fn live_on_schedule(cloud: &Cloud) {
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    create(&cloud.vms(), "web", vm_spec("1Gi", &[])).await;
    until(&cloud.vms(), "web", "it is bound", |vm| host_of(vm).is_some()).await;
    let disks = json!([{"name": "root", "pool": "default", "size": "1Gi"}]);
    set_status(&cloud.vms(), "web", json!({"disks": disks})).await;
    create_hourly(cloud, 1).await;
    let mut before: Option<String> = None;
    for _ in 0..3 {
        let moment = next_moment(cloud).await;
        let told = until_told(cloud, moment, "Taking").await;
        let name = told.status.unwrap().last_snapshot.unwrap();
        let present: Vec<_> = before.iter().chain([&name]).cloned().collect();
        assert_eq!(names(&snapshots(cloud)).await, present, "one for each moment");

        let image = until(&cloud.images(), &format!("{name}-root"), "it is there", |_| true).await;
        says::<Snapshot>(cloud, &name, json!({"conditions": finding("Taken", "False", "Taking")})).await;
        let sum = format!("sha256:{}", "a".repeat(64));
        let copy = json!({"uid": image.metadata.uid, "phase": "Ready", "sha256": sum, "virtualSize": "1Gi"});
        // what is gone from the host is gone from the images of the one before
        set_status(&cloud.hosts(), "h1", json!({"images": [copy]})).await;
        says::<Snapshot>(cloud, &name, json!({"conditions": finding("Taken", "True", "Taken")})).await;
        until_told(cloud, moment, "Taken").await;
        if let Some(before) = before {
            until_gone(&snapshots(cloud), &before).await;
            until_gone(&cloud.images(), &format!("{before}-root")).await;
        }
        before = Some(name);
    }
    let last = before.unwrap();
    delete(&schedules(cloud), "hourly").await;
    until_gone(&schedules(cloud), "hourly").await;
    assert_eq!(names(&snapshots(cloud)).await, [last]);
}
