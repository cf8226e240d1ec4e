//! The Host object and its heartbeat.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use ucloud_agent_sim::{Effect, Fault, Method, When};
use ucloud_types::{Host, StoragePool, condition, host::HostRole};

use crate::world::{World, timing};

fn ready(host: &Host) -> Option<(&str, &str)> {
    let conditions = &host.status.as_ref()?.conditions;
    condition::get(conditions, condition::READY).map(|c| (c.status.as_str(), c.reason.as_str()))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_registers_and_reports() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let hosts = world.cluster::<Host>();
    let object = world
        .wait_for(&hosts, "h1", "a report", |host| {
            ready(host).is_some_and(|(status, _)| status == "True")
                && host.status.as_ref().is_some_and(|status| !status.pools.is_empty())
        })
        .await;
    assert_eq!(object.spec.roles, [HostRole::Compute, HostRole::Router]);
    let status = object.status.unwrap();
    let allocatable = status.allocatable.unwrap();
    assert_eq!((allocatable.cpus, allocatable.memory), (64, "65024Mi".parse().unwrap()));
    assert_eq!((status.pools[0].name.as_str(), status.pools[0].available), ("default", "1000Gi".parse().unwrap()));
    assert_eq!(status.addresses.len(), 1);
    assert!(condition::is_true(&status.conditions, condition::ACCELERATED));
    // Whoever marks a host that was silent is corrected by the agent that lives
    let mut silent = status.conditions.clone();
    for condition in silent.iter_mut().filter(|c| c.type_ == condition::READY) {
        condition.status = "Unknown".into();
        condition.reason = "AgentSilent".into();
    }
    let marked = Patch::Merge(json!({"status": {"conditions": silent}}));
    hosts.patch_status("h1", &PatchParams::default(), &marked).await.unwrap();
    world.wait_for(&hosts, "h1", "the correction", |host| ready(host) == Some(("True", "AgentReady"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_heart_beats_whatever_else_is_wrong() {
    let world = World::start().await;
    let host = world.host("h1");
    for method in [Method::Domains, Method::Facts] {
        let away = Effect::Refuse { reason: "HypervisorUnavailable", terminal: false };
        host.inject(Fault { method, when: When::Always, effect: away });
    }
    let fast = ucloud_agent::Timing { renew_router: Duration::from_millis(200), ..timing() };
    let _agent = world.agent_with(&host, fast).await;
    let leases: Api<Lease> = Api::namespaced(world.admin.clone(), "ucloud-hosts");
    let spec = |lease: &Lease| lease.spec.clone().unwrap();
    let first = world.wait_for(&leases, "h1", "a heartbeat", |lease| lease.spec.is_some()).await;
    assert_eq!((spec(&first).holder_identity.as_deref(), spec(&first).lease_duration_seconds), (Some("h1"), Some(1)));
    world.wait_for(&leases, "h1", "the next", |lease| spec(lease).renew_time > spec(&first).renew_time).await;
    let hosts = world.cluster::<Host>();
    world.wait_for(&hosts, "h1", "the cause", |host| ready(host) == Some(("False", "HypervisorUnavailable"))).await;
    host.heal();
    world.wait_for(&hosts, "h1", "its return", |host| ready(host) == Some(("True", "AgentReady"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_be_used_says_why() {
    let world = World::start().await;
    let host = world.host("h1");
    let broken = Effect::Refuse { reason: "PoolUnavailable", terminal: false };
    host.inject(Fault { method: Method::Usage, when: When::Always, effect: broken });
    let _agent = world.agent(&host).await;
    world.make::<StoragePool>(&world.cluster(), "fast", json!({"directory": {"path": "/fast"}})).await;
    world
        .wait_for::<Host>(&world.cluster(), "h1", "both pools", |host| {
            host.status.as_ref().is_some_and(|s| s.pools.len() == 2 && s.pools.iter().all(|pool| pool.error.is_some()))
        })
        .await;
}
