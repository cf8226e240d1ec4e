//! Agents that end and come back, and what they find.

use std::time::Duration;

use serde_json::json;
use ucloud_agent_sim::{Effect, Fault, Method, When};
use ucloud_types::{condition, vm::VMPhase};

use crate::world::{World, effect, eventually, has_learnt, phase_of, reason_of, timing, uid};

#[tokio::test(flavor = "multi_thread")]
async fn vms_run_on_and_are_adopted() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_vm("web", "an address", has_learnt).await;
    agent.kill().await;
    host.forget_addresses();
    let before = world.vms().get("web").await.unwrap();
    let solicited = host.calls(Method::Solicit);
    let agent = world.agent(&host).await;
    eventually("the question for its address", || host.calls(Method::Solicit) > solicited).await;
    agent.terminate().await;
    let after = world.vms().get("web").await.unwrap();
    assert_eq!(before.metadata.resource_version, after.metadata.resource_version, "there was nothing to report");
    assert_eq!((effect(&host, "start"), effect(&host, "stop"), effect(&host, "make disk")), (1, 0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn older_epochs_are_switched_off_before_anything_else() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    agent.kill().await;
    world.raise_epoch("web", 2).await;
    // The agent does nothing while it cannot switch it off
    let broken = Effect::Refuse { reason: "HypervisorUnavailable", terminal: false };
    host.inject(Fault { method: Method::Destroy, when: When::Always, effect: broken });
    let ensured = host.calls(Method::EnsureNetwork);
    let _agent = world.agent(&host).await;
    eventually("a second try", || host.calls(Method::Destroy) >= 2).await;
    assert_eq!((effect(&host, "start"), host.calls(Method::EnsureNetwork)), (1, ensured));
    host.heal();
    eventually("the new epoch", || host.domain_of(&uid(&vm)).is_some_and(|d| d.spec.epoch == 2)).await;
    world.wait_running("web").await;
    assert_eq!((effect(&host, "stop"), effect(&host, "start"), effect(&host, "make disk")), (1, 2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_of_the_hypervisor_touches_nothing() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    agent.kill().await;
    host.silence(true);
    let agent = world.agent(&host).await;
    // It believes that there is no domain, and has it started: which finds that it runs
    eventually("a start", || host.calls(Method::Start) >= 2).await;
    assert!(host.domain_of(&uid(&vm)).is_some());
    assert_eq!((effect(&host, "start"), effect(&host, "stop")), (1, 0));
    // Even deletion takes nothing from under a domain that is not seen
    world.delete("web").await;
    world.wait_gone(&vm).await;
    assert_eq!(host.violations(), [""; 0]);
    assert_eq!(host.contents()[..2], [0, 0]);
    agent.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hypervisor_that_does_not_answer_is_not_one_without_domains() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    let away = Effect::Refuse { reason: "HypervisorUnavailable", terminal: false };
    for method in [Method::Domain, Method::Domains] {
        host.inject(Fault { method, when: When::Always, effect: away.clone() });
    }
    host.silence(false);
    let vm = world.wait_vm("web", "Unknown", |vm| reason_of(vm) == "HypervisorUnavailable").await;
    let ready = condition::get(&vm.status.as_ref().unwrap().conditions, condition::READY).unwrap();
    assert_eq!((ready.status.as_str(), phase_of(&vm)), ("Unknown", Some(VMPhase::Running)));
    assert_eq!(host.contents(), [1, 1, 1, 1]);
    host.heal();
    world.wait_vm("web", "Running", |vm| reason_of(vm) == "Running").await;
    assert_eq!((effect(&host, "start"), effect(&host, "stop")), (1, 0));
    agent.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_of_the_host_starts_its_vms_again() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    agent.kill().await;
    host.boot();
    let _agent = world.agent(&host).await;
    world.wait_vm("web", "a restart", |vm| vm.status.as_ref().is_some_and(|s| s.restarts == Some(1))).await;
    world.wait_running("web").await;
    assert_eq!((effect(&host, "start"), effect(&host, "make disk")), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_server_may_go_and_come_back() {
    let mut world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    world.api.stop().await;
    // A VM that crashes is started again without anybody's leave
    host.crash(&uid(&vm));
    eventually("the restart", || effect(&host, "start") == 2).await;
    world.api.resume().await.unwrap();
    world.wait_vm("web", "the report", |vm| vm.status.as_ref().is_some_and(|s| s.restarts == Some(1))).await;
    world.bound_vm("other", &host, json!({})).await;
    world.wait_running("other").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nothing_happens_nothing_is_written() {
    let world = World::start().await;
    let (one, two) = (world.host("h1"), world.host("h2"));
    // A look at the host every tenth of a second: many more than would be needed to find a difference
    let fast =
        ucloud_agent::Timing { survey: Duration::from_millis(100), resync: Duration::from_millis(200), ..timing() };
    let (_first, _second) = (world.agent_with(&one, fast).await, world.agent_with(&two, fast).await);
    for (name, host) in [("a", &one), ("b", &one), ("c", &two)] {
        world.bound_vm(name, host, json!({})).await;
    }
    for name in ["a", "b", "c"] {
        world.wait_vm(name, "an address", has_learnt).await;
    }
    // Whatever was still on its way has a second to arrive. That time passes without a write is what is tested
    let mut before = String::new();
    tokio::time::timeout(crate::world::PATIENCE, async {
        loop {
            let now = world.revision().await;
            if now == before {
                break;
            }
            before = now;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("the installation comes to rest");
    let looked = one.calls(Method::Domain);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(world.revision().await, before);
    assert!(one.calls(Method::Domain) >= looked + 10, "the agent looked all the time");
}
