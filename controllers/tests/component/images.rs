//! Images and storage pools say what hosts report.

use serde_json::{Value, json};
use ucloud_types::{
    Image, StoragePool,
    condition::{self, Condition, READY, TERMINATING},
    image::ImagePhase,
};

use crate::support::{Cloud, create, delete, patch, ready, set_status, until, until_gone};

fn image_condition(image: &Image, type_: &str) -> Option<Condition> {
    condition::get(&image.status.as_ref()?.conditions, type_).cloned()
}

async fn until_image(cloud: &Cloud, type_: &str, reason: &str) -> Image {
    let is = |image: &Image| image_condition(image, type_).is_some_and(|c| c.reason == reason);
    until(&cloud.images(), "debian", &format!("{type_} is {reason}"), is).await
}

async fn make_image(cloud: &Cloud) -> String {
    let spec = json!({"source": {"file": {"name": "debian.qcow2"}}, "format": "qcow2"});
    create(&cloud.images(), "debian", spec).await.metadata.uid.unwrap()
}

async fn report(cloud: &Cloud, host: &str, images: Value) {
    set_status(&cloud.hosts(), host, json!({"images": images})).await;
}

fn sum(digit: &str) -> String {
    format!("sha256:{}", digit.repeat(64))
}

#[tokio::test]
async fn an_image_is_imported_by_one_host_and_reported() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let uid = make_image(&cloud).await;
    until_image(&cloud, READY, "PoolNotFound").await;
    cloud.storage_pool("default").await;
    until_image(&cloud, READY, "NoHost").await;
    cloud.host("h1", 8, "16Gi").await;
    let image = until_image(&cloud, READY, "Importing").await;
    assert_eq!(image.status.unwrap().importer.as_deref(), Some("h1"));

    report(&cloud, "h1", json!([{"uid": uid, "phase": "Importing", "percent": 42}])).await;
    let progress = |image: &Image| image.status.as_ref().unwrap().progress.as_deref() == Some("42%");
    until(&cloud.images(), "debian", "it shows progress", progress).await;

    report(&cloud, "h1", json!([{"uid": uid, "phase": "Failed", "reason": "ChecksumMismatch", "message": "no"}])).await;
    let image = until_image(&cloud, READY, "ChecksumMismatch").await;
    assert_eq!(image.status.unwrap().phase, Some(ImagePhase::Failed));

    report(&cloud, "h1", json!([{"uid": uid, "phase": "Ready", "sha256": sum("a"), "virtualSize": "2Gi"}])).await;
    let status = until_image(&cloud, READY, "Imported").await.status.unwrap();
    assert_eq!((status.phase, status.progress.as_deref()), (Some(ImagePhase::Ready), Some("100%")));
    assert_eq!(status.sha256.unwrap().to_string(), sum("a"));
}

#[tokio::test]
async fn another_host_imports_when_the_importer_is_silent() {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    for host in ["h1", "h2"] {
        cloud.host(host, 8, "16Gi").await;
    }
    let _controllers = cloud.controllers().await;
    make_image(&cloud).await;
    let first = until_image(&cloud, READY, "Importing").await.status.unwrap().importer.unwrap();
    set_status(&cloud.hosts(), &first, json!({"conditions": [ready(false)]})).await;
    let other = if first == "h1" { "h2" } else { "h1" };
    let moved = |image: &Image| image.status.as_ref().unwrap().importer.as_deref() == Some(other);
    until(&cloud.images(), "debian", "the other host imports it", moved).await;
}

#[tokio::test]
async fn an_image_in_use_stays_and_says_who_uses_it() {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    let uid = make_image(&cloud).await;
    until_image(&cloud, READY, "Importing").await;
    report(&cloud, "h1", json!([{"uid": uid, "phase": "Ready", "sha256": sum("a")}])).await;
    cloud.vm("web", "1Gi", &[]).await;
    crate::support::until_bound(&cloud, "web").await;

    delete(&cloud.images(), "debian").await;
    let image = until_image(&cloud, TERMINATING, "InUse").await;
    let why = image_condition(&image, TERMINATING).unwrap().message;
    assert_eq!(why, "disks are clones of it: delete VM default/web");
    assert_eq!(image.status.unwrap().phase, Some(ImagePhase::Terminating));

    delete(&cloud.vms(), "web").await;
    patch(&cloud.vms(), "web", json!({"metadata": {"finalizers": null}})).await;
    until_image(&cloud, TERMINATING, "CopiesRemain").await;
    report(&cloud, "h1", json!([])).await;
    until_gone(&cloud.images(), "debian").await;
}

#[tokio::test]
async fn a_storage_pool_is_the_sum_of_its_hosts() {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    let _controllers = cloud.controllers().await;
    let reason = |reason: &'static str| {
        move |pool: &StoragePool| {
            let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            condition::get(conditions, READY).is_some_and(|ready| ready.reason == reason)
        }
    };
    until(&cloud.storage_pools(), "default", "it has no host", reason("NoHost")).await;
    for host in ["h1", "h2"] {
        cloud.host(host, 8, "16Gi").await;
    }
    let two = |pool: &StoragePool| pool.status.as_ref().is_some_and(|status| status.hosts == 2);
    let status = until(&cloud.storage_pools(), "default", "it has two hosts", two).await.status.unwrap();
    assert_eq!(status.capacity, "2Ti".parse().ok());
    let broken = json!([{"name": "default", "capacity": "1Ti", "available": "0", "error": "read-only"}]);
    set_status(&cloud.hosts(), "h1", json!({"pools": broken})).await;
    until(&cloud.storage_pools(), "default", "it names the host that fails", reason("HostsFailing")).await;
}
