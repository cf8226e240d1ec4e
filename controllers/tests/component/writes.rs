//! Writes: none without need, none on an old version, none on a successor.

use std::sync::Arc;

use kube::{Client, api::PostParams};
use serde_json::json;
use ucloud_controllers::runtime::{
    Failure, Runtime, events,
    metrics::Metrics,
    objects,
    report::{Reports, status_of},
};
use ucloud_types::{NetworkAllocation, condition::READY};

use crate::{
    faults::{Asked, Counter, Fate, line},
    support::{
        Cloud, Controllers, alone, delete, eventually, patch, set_status, until_bound, until_gone, until_network,
    },
};

fn runtime(client: Client) -> (Runtime, events::Writer) {
    let metrics = Arc::new(Metrics::default());
    let (events, writer) = events::channel(Arc::clone(&metrics));
    (Runtime { client, metrics, events }, writer)
}

/// Pattern 13: when nothing changes, nothing is written: not after a status write of one's own, and not by controllers
/// that have just started. Events and Leases aside, not one write.
#[tokio::test]
async fn steady_state_is_silent() {
    let cloud = Cloud::start().await;
    cloud.network_pool("default", 10).await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 2, "16Gi").await;
    let controllers = cloud.controllers().await;
    cloud.network("net").await;
    until_network(&cloud, "net", READY, "Ready").await;
    cloud.vm("web", "1Gi", &["net"]).await;
    until_bound(&cloud, "web").await;
    cloud.vm("big", "64Gi", &["net"]).await;
    crate::support::until_scheduled(&cloud, "big", "Unschedulable").await;
    let image = json!({"source": {"file": {"name": "debian.qcow2"}}, "format": "qcow2"});
    crate::support::create(&cloud.images(), "debian", image).await;
    eventually("the pool and the image have their statuses", async || {
        let pool = cloud.network_pools().get("default").await.unwrap().status;
        let image = cloud.images().get("debian").await.unwrap().status;
        pool.is_some_and(|pool| pool.allocated == 1) && image.is_some_and(|image| image.importer.is_some())
    })
    .await;
    controllers.stop().await;

    let counter = Counter::default();
    let count = counter.clone();
    let counting = move |asked: &Asked| {
        count.count(asked);
        Fate::Pass
    };
    let controllers = Controllers::start(line(cloud.client().await, counting), alone());
    eventually("every controller has looked at its objects", async || {
        let text = controllers.options.metrics.encode().unwrap();
        ["scheduler", "network", "network-pool", "network-allocation", "image", "storage-pool", "host", "namespace"]
            .iter()
            .all(|name| {
                text.lines()
                    .any(|line| line.starts_with(&format!("workqueue_queue_duration_seconds_count{{name=\"{name}\"}}")))
            })
            && text.lines().filter(|line| line.starts_with("workqueue_depth")).all(|line| line.ends_with(" 0"))
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
    let refused = Reports::new(&runtime, "test").write(&old, &stale).await;
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
