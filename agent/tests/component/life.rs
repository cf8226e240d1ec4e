//! The life of a VM on a host that does what it is asked.

use serde_json::json;
use ucloud_types::{condition, vm::VMPhase};

use crate::world::{World, effect, eventually, has_learnt, phase_of, ready_of, uid};

#[tokio::test(flavor = "multi_thread")]
async fn from_nothing_to_an_address_and_back() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    let running =
        world.wait_vm("web", "an address", |vm| phase_of(vm) == Some(VMPhase::Running) && has_learnt(vm)).await;
    let status = running.status.as_ref().unwrap();
    assert!(condition::is_true(&status.conditions, condition::READY));
    assert_eq!(status.observed_generation, running.metadata.generation);
    assert_eq!((status.disks[0].name.as_str(), status.disks[0].size), ("root", "1Gi".parse().unwrap()));
    assert_eq!(status.interfaces[0].network, "lan");
    assert_eq!(status.interfaces[0].addresses.len(), 1, "it is the one that was computed before");
    assert_eq!(host.contents(), [1, 1, 1, 1]);
    world.delete("web").await;
    world.wait_gone(&vm).await;
    // The network stays: this host routes it
    assert_eq!(host.contents(), [0, 0, 1, 1]);
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn power_requests_are_carried_out_once() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({"runStrategy": "Manual"})).await;
    world.wait_phase("web", VMPhase::Stopped).await;
    assert_eq!(effect(&host, "start"), 0);
    world.order("web", "start").await;
    world.wait_running("web").await;
    world.order("web", "restart").await;
    world.wait_running("web").await;
    assert_eq!(effect(&host, "start"), 2);
    world.order("web", "stop").await;
    let stopped = world
        .wait_vm("web", "the stop", |vm| {
            phase_of(vm) == Some(VMPhase::Stopped)
                && vm.status.as_ref().is_some_and(|status| status.observed_power_request == Some(3))
        })
        .await;
    assert!(ready_of(&stopped).1.contains("ucloudctl start web"), "{:?}", ready_of(&stopped));
    world.order("web", "start").await;
    world.wait_running("web").await;
    assert_eq!((effect(&host, "start"), effect(&host, "make disk"), effect(&host, "stop")), (3, 1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_is_started_again_as_the_strategy_says() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({"runStrategy": "RerunOnFailure"})).await;
    world.wait_running("web").await;
    host.crash(&uid(&vm));
    let again = world.wait_vm("web", "a restart", |vm| vm.status.as_ref().is_some_and(|s| s.restarts == Some(1))).await;
    assert_eq!(phase_of(&again), Some(VMPhase::Running));
    host.shut_down(&uid(&vm));
    world.wait_reason("web", "GuestShutdown").await;
    world.respecify("web", json!({"runStrategy": "Always"})).await;
    world.wait_running("web").await;
    world.respecify("web", json!({"runStrategy": "Halted"})).await;
    world.wait_phase("web", VMPhase::Stopped).await;
    eventually("no domain", || host.contents()[0] == 0).await;
    world.respecify("web", json!({"runStrategy": "RerunOnFailure"})).await;
    world.wait_running("web").await;
    assert_eq!(effect(&host, "make disk"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_keeps_crashing_waits_and_says_so() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    host.crash(&uid(&vm));
    world.wait_vm("web", "the first restart", |vm| vm.status.as_ref().is_some_and(|s| s.restarts == Some(1))).await;
    host.crash(&uid(&vm));
    let waiting = world.wait_reason("web", "CrashLoopBackOff").await;
    assert_eq!(phase_of(&waiting), Some(VMPhase::Failed));
    let again =
        world.wait_vm("web", "the second", |vm| vm.status.as_ref().is_some_and(|s| s.restarts == Some(2))).await;
    assert_eq!(phase_of(&again), Some(VMPhase::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_listen_is_switched_off() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    host.deafen_guests();
    world.respecify("web", json!({"runStrategy": "Halted"})).await;
    world.wait_phase("web", VMPhase::Stopping).await;
    world.wait_phase("web", VMPhase::Stopped).await;
    assert_eq!(effect(&host, "stop"), 1);
    assert!(host.calls(ucloud_agent_sim::Method::RequestShutdown) >= 3, "it was asked again and again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_vm_that_differs_from_its_spec_says_so_and_runs_on() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    world.respecify("web", json!({"cpus": 2})).await;
    let required = |vm: &ucloud_types::VM| {
        let conditions = vm.status.as_ref().map(|status| &status.conditions);
        conditions.and_then(|all| condition::get(all, condition::RESTART_REQUIRED)).map(|c| c.message.clone())
    };
    let vm = world.wait_vm("web", "RestartRequired", |vm| required(vm).is_some()).await;
    assert!(required(&vm).unwrap().contains("cpus 1 instead of 2"));
    assert_eq!(effect(&host, "start"), 1);
    world.order("web", "restart").await;
    world.wait_vm("web", "no difference", |vm| required(vm).is_none() && phase_of(vm) == Some(VMPhase::Running)).await;
    assert_eq!(host.domain_of(&uid(&vm)).unwrap().spec.cpus, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_vm_waits_for_somebody() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    host.pause(&uid(&vm));
    world.wait_reason("web", "Paused").await;
    world.order("web", "restart").await;
    world.wait_running("web").await;
    assert_eq!(effect(&host, "start"), 2);
}
