//! Silent hosts.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;
use ucloud_controllers::Options;
use ucloud_types::{
    Host,
    condition::{self, READY},
    meta::HOSTS_NAMESPACE,
};

use crate::support::{Cloud, Controllers, alone, create, eventually, patch, ready, set_status, until};

fn with_patience(millis: u64) -> Options {
    Options { host_lease_duration: Duration::from_millis(millis), ..alone() }
}

fn is_expired(host: &Host) -> bool {
    let conditions = host.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::get(conditions, READY).is_some_and(|r| r.status == "Unknown" && r.reason == "LeaseExpired")
}

#[tokio::test]
async fn a_silent_host_is_not_ready_until_its_agent_returns() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let leases: Api<Lease> = Api::namespaced(cloud.admin.clone(), HOSTS_NAMESPACE);
    // long ago by the agent's clock, which may be wrong: what counts is that it goes on
    create(&leases, "h1", json!({"renewTime": "2001-01-01T00:00:00.000000Z"})).await;
    let _controllers = Controllers::start(cloud.client().await, with_patience(1500));

    let beats = std::sync::atomic::AtomicU32::new(0);
    let beat = async || {
        let n = beats.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let renewed = format!("2001-01-01T00:{:02}:{:02}.000000Z", n / 60, n % 60);
        patch(&leases, "h1", json!({"spec": {"renewTime": renewed}})).await;
    };
    let start = std::time::Instant::now();
    eventually("it beats for three times its lease", async || {
        beat().await;
        assert!(!is_expired(&cloud.hosts().get("h1").await.unwrap()), "a host that beats is not silent");
        start.elapsed() > Duration::from_millis(4500)
    })
    .await;

    until(&cloud.hosts(), "h1", "it is silent", is_expired).await;
    beat().await;
    set_status(&cloud.hosts(), "h1", json!({"conditions": [ready(true)]})).await;
    let host = cloud.hosts().get("h1").await.unwrap();
    assert!(condition::is_true(&host.status.unwrap().conditions, READY), "Ready is its agent's again");
    until(&cloud.hosts(), "h1", "it is silent again", is_expired).await;
}

#[tokio::test]
async fn a_host_that_never_had_a_lease_is_silent_too() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = Controllers::start(cloud.client().await, with_patience(300));
    let host = until(&cloud.hosts(), "h1", "it is silent", is_expired).await;
    assert!(host.status.unwrap().allocatable.is_some(), "what it reported stays");
}
