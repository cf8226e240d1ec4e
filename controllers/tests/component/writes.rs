//! Writes: none without need, none on an old version, none on a successor.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::Namespace, jiff::Timestamp};
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use ucloud_controllers::runtime::{
    Failure, Runtime, events,
    metrics::Metrics,
    objects,
    report::{Reports, Share, status_of},
};
use ucloud_types::{
    NetworkAllocation, VM, Volume,
    condition::{self, READY, TERMINATING},
};

use crate::{
    faults::{Asked, Counter, Fate, line},
    schedules::schedules,
    support::{
        Cloud, Controllers, alone, create, delete, eventually, host_of, is_unknown, patch, set_status, until,
        until_bound, until_gone, until_network, until_scheduled, vm_spec,
    },
};

fn runtime(client: Client) -> (Runtime, events::Writer) {
    let metrics = Arc::new(Metrics::default());
    let (events, writer) = events::channel(Arc::clone(&metrics));
    (Runtime { client, metrics, events, clock: Arc::new(Timestamp::now) }, writer)
}

/// Something of every kind, in every state in which it can stay for long.
async fn settled(cloud: &Cloud) {
    cloud.network_pool("default", 10).await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    cloud.host("h2", 8, "16Gi").await;
    patch(&cloud.hosts(), "h2", json!({"metadata": {"labels": {"zone": "b"}}})).await;
    let controllers = cloud.controllers().await;
    for network in ["net", "going"] {
        cloud.network(network).await;
        until_network(cloud, network, READY, "Ready").await;
    }
    cloud.vm("web", "1Gi", &["net", "going"]).await;
    until_bound(cloud, "web").await;
    for (name, zone) in [("lost", "b"), ("homeless", "nowhere")] {
        let mut spec = vm_spec("1Gi", &[]);
        spec["hostSelector"] = json!({"zone": zone});
        create(&cloud.vms(), name, spec).await;
    }
    until_bound(cloud, "lost").await;
    until_scheduled(cloud, "homeless", "Unschedulable").await;
    let image = json!({"source": {"file": {"name": "debian.qcow2"}}, "format": "qcow2"});
    create(&cloud.images(), "debian", image).await;
    let project: Api<Namespace> = Api::all(cloud.admin.clone());
    project
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap())
        .await
        .unwrap();
    settled_volumes(cloud).await;
    let yearly = json!({"snapshot": {"vm": "web"}, "schedule": "@yearly"});
    create(&schedules(cloud), "yearly", yearly).await;
    until(&schedules(cloud), "yearly", "it says when", |schedule| schedule.status.is_some()).await;
    let held: Api<VM> = Api::namespaced(cloud.admin.clone(), "p");
    create(&held, "held", vm_spec("1Gi", &[])).await;
    until(&held, "held", "it is bound", |vm| host_of(vm).is_some()).await;

    let silent = json!({"type": "Ready", "status": "Unknown", "reason": "LeaseExpired", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    set_status(&cloud.hosts(), "h2", json!({"conditions": [silent]})).await;
    until(&cloud.vms(), "lost", "nobody knows how it is", is_unknown).await;
    delete(&cloud.networks(), "going").await;
    until_network(cloud, "going", TERMINATING, "InUse").await;
    delete(&project, "p").await;
    let says_why = |namespace: &Namespace| namespace.status.as_ref().is_some_and(|status| status.conditions.is_some());
    until(&project, "p", "it says what is left", says_why).await;
    eventually("the pool and the image have their statuses", async || {
        let pool = cloud.network_pools().get("default").await.unwrap().status;
        let image = cloud.images().get("debian").await.unwrap().status;
        pool.is_some_and(|pool| pool.allocated == 2) && image.is_some_and(|image| image.importer.is_some())
    })
    .await;
    let says = |vm: &VM| {
        let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().any(|condition| condition.message.contains("1 is not Ready"))
    };
    until(&cloud.vms(), "homeless", "it says that h2 is not Ready", says).await;
    controllers.stop().await;
}

/// Volumes that no VM has had yet, that one has had, and that one has although it is to be deleted.
async fn settled_volumes(cloud: &Cloud) {
    let volumes: Api<Volume> = Api::namespaced(cloud.admin.clone(), "default");
    let attachment =
        json!({"vm": "web", "vmUid": cloud.vms().get("web").await.unwrap().metadata.uid, "host": "h1", "epoch": 1});
    let made = json!({"host": "h1", "size": "1Gi"});
    let mut had = made.clone();
    had["attachment"] = attachment;
    for (name, status, type_, reason) in [
        ("fresh", json!({}), READY, "Pending"),
        ("kept", made, READY, "Available"),
        ("leaving", had, TERMINATING, "Attached"),
    ] {
        create(&volumes, name, json!({"size": "1Gi"})).await;
        until(&volumes, name, "it is held", |volume| volume.metadata.finalizers.is_some()).await;
        set_status(&volumes, name, status).await;
        if type_ == TERMINATING {
            delete(&volumes, name).await;
        }
        let is = |volume: &Volume| {
            let conditions = volume.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            condition::get(conditions, type_).is_some_and(|condition| condition.reason == reason)
        };
        until(&volumes, name, &format!("{type_} is {reason}"), is).await;
    }
}

/// Pattern 13: when nothing changes, nothing is written: not after a status write of one's own, and not by controllers
/// that have just started. Events and Leases aside, not one write.
#[tokio::test]
async fn steady_state_is_silent() {
    let cloud = Cloud::start().await;
    settled(&cloud).await;

    let counter = Counter::default();
    let count = counter.clone();
    let counting = move |asked: &Asked| {
        count.count(asked);
        Fate::Pass
    };
    let controllers = Controllers::start(line(cloud.client().await, counting), alone());
    eventually("every controller has looked at its objects", async || {
        let text = controllers.options.metrics.encode().unwrap();
        [
            "scheduler",
            "network",
            "network-pool",
            "network-allocation",
            "router",
            "image",
            "volume",
            "storage-pool",
            "host",
            "lost-vm",
            "namespace",
        ]
        .iter()
        .all(|name| {
            text.lines()
                .any(|line| line.starts_with(&format!("workqueue_queue_duration_seconds_count{{name=\"{name}\"}}")))
        }) && text.lines().filter(|line| line.starts_with("workqueue_depth")).all(|line| line.ends_with(" 0"))
            && text
                .lines()
                .filter(|line| line.starts_with("controller_runtime_active_workers"))
                .all(|line| line.ends_with(" 0"))
    })
    .await;
    // a heartbeat of a host is no reason to write either
    set_status(&cloud.hosts(), "h1", json!({"addresses": ["2001:db8::1"]})).await;
    patch(&cloud.vms(), "web", json!({"metadata": {"labels": {"a": "b"}}})).await;
    cloud.vm("last", "1Gi", &[]).await;
    until_bound(&cloud, "last").await;
    assert_eq!(counter.get(), 1, "only the binding of the last VM");
}

/// Pattern 2: a decision that was made on an old version undoes nothing.
#[tokio::test]
async fn a_stale_status_is_not_written() {
    let cloud = Cloud::start().await;
    let old = cloud.network_pool("default", 10).await;
    set_status(&cloud.network_pools(), "default", json!({"allocated": 7, "free": 3})).await;
    let (runtime, _writer) = runtime(cloud.client().await);
    let mut stale = status_of(&old);
    stale.allocated = 1;
    let refused = Reports::new(&runtime, "test", Share::Whole).write(&old, &stale).await;
    assert!(matches!(refused, Err(Failure::Conflict { .. })), "{refused:?}");
    assert_eq!(cloud.network_pools().get("default").await.unwrap().status.unwrap().allocated, 7);
}

/// Pattern 17: what is deleted is what was meant, and not what has its name now.
#[tokio::test]
async fn a_deletion_spares_the_successor() {
    let cloud = Cloud::start().await;
    cloud.network_pool("default", 10).await;
    let allocation: NetworkAllocation = serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "NetworkAllocation", "metadata": {"name": "vni-100"},
        "spec": {"pool": "default", "vni": 100, "prefix": "fd00:1234::/64", "namespace": "default",
                 "network": "net", "networkUid": "u1"},
    }))
    .unwrap();
    let old = cloud.allocations().create(&PostParams::default(), &allocation).await.unwrap();
    delete(&cloud.allocations(), "vni-100").await;
    until_gone(&cloud.allocations(), "vni-100").await;
    let new = cloud.allocations().create(&PostParams::default(), &allocation).await.unwrap();
    assert_ne!(old.metadata.uid, new.metadata.uid);

    let client = cloud.client().await;
    let refused = objects::delete(&client, &old).await;
    assert!(matches!(refused, Err(Failure::Conflict { .. })), "{refused:?}");
    assert_eq!(cloud.allocations().get("vni-100").await.unwrap().metadata.uid, new.metadata.uid);
    objects::delete(&client, &new).await.unwrap();
    objects::delete(&client, &new).await.unwrap();
}
