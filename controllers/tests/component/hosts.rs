//! Silent hosts.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, api::DeleteParams};
use serde_json::json;
use ucloud_controllers::Options;
use ucloud_machinery::storage::Storage as _;
use ucloud_types::{
    Host,
    condition::{self, READY},
    meta::HOSTS_NAMESPACE,
};

use crate::support::{
    Cloud, Controllers, alone, create, eventually, is_unknown, patch, ready, set_status, until, until_bound,
};

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

/// How often the VMs of lost hosts were looked at.
fn looks(controllers: &Controllers) -> u32 {
    let text = controllers.options.metrics.encode().unwrap();
    let count = r#"controller_runtime_reconcile_total{controller="lost-vm",result="success"} "#;
    text.lines().find_map(|line| line.strip_prefix(count)).map_or(0, |count| count.parse().unwrap())
}

#[tokio::test]
async fn vms_of_a_silent_host_are_unknown_and_stay_where_they_are() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let controllers = cloud.controllers().await;
    cloud.vm("web", "1Gi", &[]).await;
    until_bound(&cloud, "web").await;
    controllers.stop().await;
    set_status(&cloud.vms(), "web", json!({"phase": "Running"})).await;
    cloud.host("h2", 8, "16Gi").await;

    let controllers = Controllers::start(cloud.client().await, with_patience(300));
    let vm = until(&cloud.vms(), "web", "nobody knows how it is", is_unknown).await;
    let status = vm.status.unwrap();
    assert_eq!(status.binding.map(|binding| (binding.host, binding.epoch)), Some(("h1".to_owned(), 1)));
    assert_eq!(condition::get(&status.conditions, READY).unwrap().reason, "HostSilent");

    // what the agent says of the VM counts, even if it could not renew its lease yet
    let before = looks(&controllers);
    set_status(&cloud.vms(), "web", json!({"phase": "Running"})).await;
    let mut touched = 0;
    eventually("the controller has looked at it more than once", async || {
        touched += 1;
        patch(&cloud.vms(), "web", json!({"metadata": {"labels": {"touched": touched.to_string()}}})).await;
        looks(&controllers) > before + 3
    })
    .await;
    let vm = cloud.vms().get("web").await.unwrap();
    assert!(!is_unknown(&vm), "it is said once for each silence");
    assert!(is_expired(&cloud.hosts().get("h1").await.unwrap()));

    // the next silence
    set_status(&cloud.hosts(), "h1", json!({"conditions": [ready(true)]})).await;
    until(&cloud.vms(), "web", "nobody knows how it is", is_unknown).await;
}

#[tokio::test]
async fn a_vm_whose_host_was_deleted_says_so() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    cloud.vm("web", "1Gi", &[]).await;
    until_bound(&cloud, "web").await;
    let refused = cloud.hosts().delete("h1", &DeleteParams::default()).await.unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.code == 409), "a host with VMs stays");
    // it goes all the same where a VM is bound to it in the moment in which it is deleted
    let key = "/registry/ucloud.ungleich.ch/hosts/h1";
    let stored = cloud.api.storage().get(key).await.unwrap().unwrap();
    cloud.api.storage().delete(key, stored.mod_revision, &[]).await.unwrap();
    let vm = until(&cloud.vms(), "web", "nobody knows how it is", is_unknown).await;
    assert_eq!(condition::get(&vm.status.unwrap().conditions, READY).unwrap().reason, "HostGone");
}
