//! Several processes, one of which acts.

use std::{
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio_util::sync::CancellationToken;
use ucloud_controllers::{
    Options, RunError,
    runtime::election::{LEASE, Timing},
};
use ucloud_types::meta::SYSTEM_NAMESPACE;

use crate::{
    faults::{Asked, Fate, line},
    support::{Cloud, Controllers, delete, eventually, until, until_bound},
};

fn candidate(name: &str) -> Options {
    let timing = Timing {
        lease: Duration::from_secs(2),
        renew_deadline: Duration::from_millis(1500),
        retry: Duration::from_millis(200),
    };
    Options { election: Some(timing), ..Options::new(name) }
}

fn leases(cloud: &Cloud) -> Api<Lease> {
    Api::namespaced(cloud.admin.clone(), SYSTEM_NAMESPACE)
}

async fn until_leads(cloud: &Cloud, name: &str) {
    let held = |lease: &Lease| lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_deref() == Some(name));
    until(&leases(cloud), LEASE, &format!("{name} leads"), held).await;
}

#[tokio::test]
async fn a_leader_that_stops_hands_over_at_once() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let first = Controllers::start(cloud.client().await, candidate("first"));
    until_leads(&cloud, "first").await;
    let second = Controllers::start(cloud.client().await, candidate("second"));
    eventually("the second stands by", async || second.options.readiness.get()).await;
    first.stop().await;
    let lease = leases(&cloud).get(LEASE).await.unwrap().spec.unwrap();
    assert_ne!(lease.holder_identity.as_deref(), Some("first"), "it is released, not left to run out");
    until_leads(&cloud, "second").await;
    cloud.vm("web", "1Gi", &[]).await;
    until_bound(&cloud, "web").await;
}

#[tokio::test]
async fn a_leader_that_loses_its_lease_ends() {
    let cloud = Cloud::start().await;
    let mut first = Controllers::start(cloud.client().await, candidate("first"));
    until_leads(&cloud, "first").await;
    let stolen = serde_json::json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 60}});
    crate::support::patch(&leases(&cloud), LEASE, stolen).await;
    assert!(matches!(first.ended().await, Err(RunError::LostLeadership)));
}

/// Pattern 16: the leader is stopped past its lease while it is about to bind a VM, and resumed after its successor
/// has bound it elsewhere. Its write is refused.
#[tokio::test]
async fn a_leader_that_was_stopped_does_no_harm_when_it_is_resumed() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let (resume, is_stopped) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let (gate, stopped) = (resume.clone(), Arc::clone(&is_stopped));
    // from its first binding on, nothing that the first leader sends arrives before it is resumed
    let stopping = move |asked: &Asked| {
        if asked.path.contains("/binding") {
            stopped.store(true, Ordering::SeqCst);
        }
        if stopped.load(Ordering::SeqCst) && !gate.is_cancelled() { Fate::Hold(gate.clone()) } else { Fate::Pass }
    };
    // it must not notice by itself that its time is over, for a stopped process would not either
    let mut timing = candidate("first").election.unwrap();
    timing.renew_deadline = Duration::from_mins(10);
    let options = Options { election: Some(timing), ..Options::new("first") };
    let mut first = Controllers::start(line(cloud.client().await, stopping), options);
    until_leads(&cloud, "first").await;
    cloud.vm("web", "1Gi", &[]).await;
    eventually("the first leader is about to bind", async || is_stopped.load(Ordering::SeqCst)).await;
    // its choice is h1; the successor can only choose h2
    cloud.host("h2", 8, "16Gi").await;
    crate::support::patch(&cloud.hosts(), "h1", serde_json::json!({"spec": {"unschedulable": true}})).await;
    let _second = Controllers::start(cloud.client().await, candidate("second"));
    assert_eq!(until_bound(&cloud, "web").await, "h2");

    let before = cloud.vms().get("web").await.unwrap();
    resume.cancel();
    assert!(matches!(first.ended().await, Err(RunError::LostLeadership)));
    let after = cloud.vms().get("web").await.unwrap();
    assert_eq!(after.metadata.resource_version, before.metadata.resource_version, "nothing was written");
    until_leads(&cloud, "second").await;
}

#[tokio::test]
async fn the_controllers_survive_a_restart_of_the_api() {
    let mut cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let controllers = cloud.controllers().await;
    eventually("they are ready", async || controllers.options.readiness.get()).await;
    cloud.api.stop().await;
    cloud.api.resume().await.unwrap();
    cloud.vm("web", "1Gi", &[]).await;
    until_bound(&cloud, "web").await;
    delete(&cloud.vms(), "web").await;
}
