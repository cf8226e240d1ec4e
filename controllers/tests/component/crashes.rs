//! Pattern 6, for all controllers together: they die after any single write, and the end is the same.

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, api::PostParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use ucloud_types::{Image, Network, NetworkPool, StoragePool, VM, condition, condition::READY};

use crate::{
    faults::{Counter, Crash, Fate, dying, line},
    support::{
        Cloud, Controllers, alone, create, delete, eventually, host_of, patch, set_status, until, until_gone, vm_spec,
    },
};

/// How many lives are lived at once.
const AT_ONCE: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_project_lives_and_goes_whenever_the_controllers_die() {
    let total = life(usize::MAX, Crash::AfterReply).await;
    assert!(total >= 15, "finalizers, statuses, allocation, binding, deletions: {total}");
    let lives =
        [Crash::AfterReply, Crash::BeforeReply].into_iter().flat_map(|crash| (1..=total).map(move |n| (n, crash)));
    futures::stream::iter(lives)
        .for_each_concurrent(AT_ONCE, async |(writes, crash)| {
            let lived = AssertUnwindSafe(life(writes, crash)).catch_unwind().await;
            assert!(lived.is_ok(), "a crash after write {writes}, {crash:?}");
        })
        .await;
}

fn is_ready<S>(status: Option<&S>, conditions: impl Fn(&S) -> &[condition::Condition]) -> bool {
    status.is_some_and(|status| condition::is_true(conditions(status), READY))
}

/// The life of a project with everything in it, from nothing to nothing; the controllers die after so many writes, and
/// others take over. Tells how many writes there were.
async fn life(writes: usize, crash: Crash) -> usize {
    let cloud = Cloud::start().await;
    let (counter, dead) = (Counter::default(), CancellationToken::new());
    let first = line(cloud.client().await, dying(counter.clone(), writes, crash, dead.clone()));
    let (count, second) = (counter.clone(), cloud.client().await);
    let supervisor = tokio::spawn(async move {
        let first = Controllers::start(first, alone());
        dead.cancelled().await;
        drop(first);
        let counting = line(second, move |asked| {
            count.count(asked);
            Fate::Pass
        });
        let _second = Controllers::start(counting, alone());
        std::future::pending::<()>().await;
    });
    live(&cloud).await;
    supervisor.abort();
    counter.get()
}

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
