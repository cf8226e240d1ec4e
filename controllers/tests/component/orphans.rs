//! Orphans: what hosts report is listed, and what becomes of it is for people to say.

use std::time::Duration;

use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use ucloud_controllers::Options;
use ucloud_types::{
    Orphan, OrphanSpec, Volume,
    condition::{self, READY},
    orphan::{OrphanKind, OrphanPhase},
};

use crate::{
    faults::{Fate, line},
    support::{
        Cloud, Controllers, PATIENCE, alone, create, delete, eventually, names, patch, ready, set_status, until,
        until_bound, until_gone, until_scheduled, vm_spec,
    },
};

pub fn orphans(cloud: &Cloud) -> Api<Orphan> {
    Api::all(cloud.admin.clone())
}

/// What a host reports of a disk.
pub fn disk(uid: &str) -> Value {
    json!({"kind": "Disk", "uid": uid, "name": "root", "pool": "default", "size": "1Gi", "origin": "p/web"})
}

/// The name of the Orphan of such a disk, on a host or in a pool that all share.
pub fn name_of(uid: &str, host: Option<&str>) -> String {
    let spec = OrphanSpec {
        kind: OrphanKind::Disk,
        uid: uid.into(),
        name: Some("root".into()),
        pool: Some("default".into()),
        host: host.map(str::to_owned),
        destroy: false,
        adopt: None,
    };
    spec.object_name()
}

async fn reports(cloud: &Cloud, host: &str, orphans: &[Value]) {
    set_status(&cloud.hosts(), host, json!({"orphans": orphans})).await;
}

pub async fn until_phase(cloud: &Cloud, name: &str, phase: OrphanPhase) -> Orphan {
    let is = |orphan: &Orphan| orphan.status.as_ref().is_some_and(|status| status.phase == Some(phase));
    until(&orphans(cloud), name, &format!("it is {phase:?}"), is).await
}

fn reason(orphan: &Orphan) -> String {
    let status = orphan.status.clone().unwrap_or_default();
    condition::get(&status.conditions, READY).map(|ready| ready.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn what_a_host_reports_is_listed_until_it_is_gone_or_owned() {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    cloud.host("h2", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    // larger than all hosts: it is there, and nowhere
    let vm = create(&cloud.vms(), "web", vm_spec("1Ti", &[])).await.uid().unwrap();
    reports(&cloud, "h1", &[disk("a"), disk(&vm), json!({"kind": "Domain", "uid": "a", "origin": "p/web"})]).await;
    reports(&cloud, "h2", &[disk("a")]).await;
    let (first, second) = (name_of("a", Some("h1")), name_of("a", Some("h2")));
    let found = until_phase(&cloud, &first, OrphanPhase::Found).await.status.unwrap();
    assert_eq!((found.host.as_deref(), found.origin.as_deref()), (Some("h1"), Some("p/web")));
    assert_eq!((found.size, found.destroy_at), ("1Gi".parse().ok(), None));
    until_phase(&cloud, &second, OrphanPhase::Found).await;
    eventually("not the disk of a VM that is there", async || names(&orphans(&cloud)).await.len() == 3).await;

    // One that is deleted by hand is there all the same
    let uid = orphans(&cloud).get(&second).await.unwrap().uid();
    delete(&orphans(&cloud), &second).await;
    until(&orphans(&cloud), &second, "it is another object", |orphan| orphan.uid() != uid).await;
    reports(&cloud, "h2", &[]).await;
    until_gone(&orphans(&cloud), &second).await;

    patch(&orphans(&cloud), &first, json!({"spec": {"destroy": true}})).await;
    until_phase(&cloud, &first, OrphanPhase::Destroying).await;
    patch(&orphans(&cloud), &first, json!({"spec": {"destroy": false}})).await;
    until_phase(&cloud, &first, OrphanPhase::Found).await;
    let other: Value = json!({"uid": "b"});
    let merge = kube::api::Patch::Merge(json!({"spec": other}));
    let refused = orphans(&cloud).patch(&first, &kube::api::PatchParams::default(), &merge).await.unwrap_err();
    assert!(refused.to_string().contains("only destroy and adopt can be changed"), "{refused}");
    delete(&cloud.hosts(), "h1").await;
    until_gone(&orphans(&cloud), &first).await;
}

#[tokio::test]
async fn in_a_pool_that_all_hosts_share_a_thing_is_one_orphan() {
    let cloud = Cloud::start().await;
    create(&cloud.storage_pools(), "default", json!({"rbd": {"pool": "vms"}})).await;
    cloud.host("h1", 8, "16Gi").await;
    cloud.host("h2", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    let part =
        |surveyed: bool| json!([{"name": "default", "capacity": "1Ti", "available": "1Ti", "surveyed": surveyed}]);
    set_status(&cloud.hosts(), "h1", json!({"pools": part(true), "orphans": [disk("a")]})).await;
    set_status(&cloud.hosts(), "h2", json!({"orphans": [disk("a")]})).await;
    let name = name_of("a", None);
    let uid = until_phase(&cloud, &name, OrphanPhase::Found).await.uid();
    assert_eq!(names(&orphans(&cloud)).await, std::slice::from_ref(&name));
    // The surveyor changes. Until the new one has looked nobody takes the old one's silence for an answer
    set_status(&cloud.hosts(), "h2", json!({"orphans": []})).await;
    set_status(&cloud.hosts(), "h1", json!({"conditions": [ready(false)]})).await;
    until(&cloud.storage_pools(), "default", "h2 looks", |pool| {
        pool.status.as_ref().is_some_and(|status| status.surveyor.as_deref() == Some("h2"))
    })
    .await;
    set_status(&cloud.hosts(), "h1", json!({"pools": part(false), "orphans": []})).await;
    set_status(&cloud.hosts(), "h2", json!({"pools": part(true), "orphans": [disk("a")]})).await;
    let seen = until(&orphans(&cloud), &name, "h2 sees to it", |orphan| {
        orphan.status.as_ref().is_some_and(|status| status.host.as_deref() == Some("h2"))
    })
    .await;
    assert_eq!(seen.uid(), uid, "it was one all the time");
    set_status(&cloud.hosts(), "h2", json!({"orphans": []})).await;
    until_gone(&orphans(&cloud), &name).await;
}

#[tokio::test]
async fn what_a_live_object_names_is_not_destroyed_though_the_cache_does_not_know() {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    // The controllers hear of no VM any more
    let (listed, never) = (CancellationToken::new(), CancellationToken::new());
    let told = listed.clone();
    let deaf = line(cloud.client().await, move |asked| {
        if !(asked.path.contains("/vms?") && asked.path.contains("watch=true")) {
            return Fate::Pass;
        }
        told.cancel();
        Fate::Hold(never.clone())
    });
    let options = Options { destroy_orphans_after: Some(Duration::from_secs(2)), ..alone() };
    let _controllers = Controllers::start(deaf, options);
    tokio::time::timeout(PATIENCE, listed.cancelled()).await.expect("they have listed VMs");
    let vm = create(&cloud.vms(), "web", vm_spec("1Gi", &[])).await.uid().unwrap();
    reports(&cloud, "h1", &[disk(&vm), disk("a")]).await;
    let (name, other) = (name_of(&vm, Some("h1")), name_of("a", Some("h1")));
    let found = until_phase(&cloud, &name, OrphanPhase::Found).await;
    assert!(found.status.as_ref().unwrap().destroy_at.is_some());
    until_phase(&cloud, &other, OrphanPhase::Destroying).await;
    let is_another = |orphan: &Orphan| orphan.uid() != found.uid();
    let again = until(&orphans(&cloud), &name, "its time came, and it was no orphan then", is_another).await;
    assert_ne!(again.status.and_then(|status| status.phase), Some(OrphanPhase::Destroying));
}

#[tokio::test]
async fn a_volume_and_an_orphan_that_name_each_other_come_together() {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    reports(&cloud, "h1", &[disk("a")]).await;
    let name = name_of("a", Some("h1"));
    until_phase(&cloud, &name, OrphanPhase::Found).await;
    patch(&orphans(&cloud), &name, json!({"spec": {"adopt": {"namespace": "default", "volume": "data"}}})).await;
    until(&orphans(&cloud), &name, "it waits", |orphan| reason(orphan) == "VolumeNotFound").await;
    let volumes: Api<Volume> = Api::namespaced(cloud.admin.clone(), "default");
    create(&volumes, "data", json!({"size": "1Gi"})).await;
    until(&orphans(&cloud), &name, "it takes no other", |orphan| reason(orphan) == "VolumeMismatch").await;
    delete(&volumes, "data").await;
    until_gone(&volumes, "data").await;
    let uid = create(&volumes, "data", json!({"size": "1Gi", "source": {"orphan": name}})).await.uid();
    let adopting = until_phase(&cloud, &name, OrphanPhase::Adopting).await;
    assert_eq!(adopting.status.unwrap().volume_uid, uid);
    // A VM waits, for nobody knows yet where the volume is
    let mut spec = vm_spec("1Gi", &[]);
    spec["disks"] = json!([{"name": "data", "volume": "data"}]);
    create(&cloud.vms(), "web", spec).await;
    let why = until_scheduled(&cloud, "web", "VolumeNotReady").await.message;
    assert!(why.contains("has yet to be made of an Orphan"), "{why}");
    reports(&cloud, "h1", &[]).await;
    set_status(&volumes, "data", json!({"host": "h1", "size": "1Gi"})).await;
    until_gone(&orphans(&cloud), &name).await;
    assert_eq!(until_bound(&cloud, "web").await, "h1");
}
