//! Files get a host that has room, and go when their bytes are gone.

use kube::{Api, ResourceExt as _};
use serde_json::json;
use ucloud_types::{
    File,
    condition::{self, SCHEDULED, TERMINATING},
    meta::AGENT_FINALIZER,
};

use crate::support::{Cloud, create, delete, patch, ready, set_status, until, until_gone};

fn files(cloud: &Cloud) -> Api<File> {
    Api::namespaced(cloud.admin.clone(), "default")
}

fn host_of(file: &File) -> Option<&str> {
    file.status.as_ref()?.host.as_deref()
}

async fn until_reason(cloud: &Cloud, name: &str, type_: &str, reason: &str) -> File {
    let is = |file: &File| {
        let conditions = file.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        condition::get(conditions, type_).is_some_and(|condition| condition.reason == reason)
    };
    until(&files(cloud), name, &format!("{type_} is {reason}"), is).await
}

#[tokio::test]
async fn a_file_gets_a_host_once_there_is_one_with_room() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    create(&files(&cloud), "iso", json!({"size": "4Gi"})).await;
    until_reason(&cloud, "iso", SCHEDULED, "PoolNotFound").await;
    cloud.storage_pool("default").await;
    until_reason(&cloud, "iso", SCHEDULED, "NoHost").await;
    for host in ["h1", "h2"] {
        cloud.host(host, 8, "16Gi").await;
    }
    let full = json!([{"name": "default", "capacity": "1Ti", "available": "1Gi"}]);
    set_status(&cloud.hosts(), "h1", json!({"streamPort": 9402, "pools": full})).await;
    set_status(&cloud.hosts(), "h2", json!({"streamPort": 9402})).await;
    let file = until_reason(&cloud, "iso", SCHEDULED, "Bound").await;
    assert_eq!(host_of(&file), Some("h2"));
    assert_eq!(file.finalizers(), [AGENT_FINALIZER]);

    // what the agent reports is not the controller's to undo
    set_status(&files(&cloud), "iso", json!({"received": "1Gi"})).await;
    patch(&files(&cloud), "iso", json!({"metadata": {"labels": {"a": "b"}}})).await;
    let file = until_reason(&cloud, "iso", SCHEDULED, "Bound").await;
    assert_eq!(file.status.unwrap().received, "1Gi".parse().ok());
}

#[tokio::test]
async fn a_file_without_bytes_anywhere_goes_at_once() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    create(&files(&cloud), "iso", json!({"size": "1"})).await;
    until_reason(&cloud, "iso", SCHEDULED, "PoolNotFound").await;
    delete(&files(&cloud), "iso").await;
    until_gone(&files(&cloud), "iso").await;
}

#[tokio::test]
async fn a_file_waits_for_its_host_until_that_is_given_up() {
    let cloud = Cloud::start().await;
    cloud.storage_pool("default").await;
    cloud.host("h1", 8, "16Gi").await;
    set_status(&cloud.hosts(), "h1", json!({"streamPort": 9402})).await;
    let _controllers = cloud.controllers().await;
    create(&files(&cloud), "iso", json!({"size": "1"})).await;
    until_reason(&cloud, "iso", SCHEDULED, "Bound").await;
    delete(&files(&cloud), "iso").await;
    set_status(&cloud.hosts(), "h1", json!({"conditions": [ready(false)]})).await;
    let file = until_reason(&cloud, "iso", TERMINATING, "BytesRemain").await;
    assert_eq!(file.finalizers(), [AGENT_FINALIZER], "only its agent, or the end of its host, lets it go");
    delete(&cloud.hosts(), "h1").await;
    until_gone(&files(&cloud), "iso").await;
}
