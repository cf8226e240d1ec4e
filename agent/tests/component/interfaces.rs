//! Interfaces of VMs that run are plugged and unplugged.

use serde_json::{Value, json};
use ucloud_agent_core::net::tap_name;
use ucloud_agent_sim::{Effect, Fault, Method, SimHost, When};
use ucloud_types::{
    MacAddr, Network, VM,
    condition::{self, Condition},
    host::HostRole,
};

use crate::world::{World, effect, eventually, timing, uid};

fn interfaces(all: &[(&str, &str)]) -> Value {
    let all: Vec<_> = all.iter().map(|(name, network)| json!({"name": name, "network": network})).collect();
    json!({"networks": all})
}

/// The interfaces that are reported, with their networks.
fn reported(vm: &VM) -> Vec<(&str, &str)> {
    let all = vm.status.iter().flat_map(|status| &status.interfaces);
    all.map(|interface| (interface.name.as_str(), interface.network.as_str())).collect()
}

fn waits(vm: &VM) -> Option<&Condition> {
    condition::get(&vm.status.as_ref()?.conditions, condition::INTERFACES_READY)
}

async fn until_reported(world: &World, expected: &[(&str, &str)]) -> VM {
    let is = |vm: &VM| {
        let generation = vm.status.as_ref().and_then(|status| status.observed_generation);
        reported(vm) == expected && waits(vm).is_none() && generation == vm.metadata.generation
    };
    world.wait_vm("web", &format!("the interfaces {expected:?}"), is).await
}

/// A VM that runs on a host that routes nothing, and a second network.
async fn with_vm(world: &World) -> (std::sync::Arc<SimHost>, VM, [crate::world::Running; 2]) {
    let (router, host) = (world.host("router"), world.host("h1"));
    let agents = [world.agent(&router).await, world.agent_as(&host, &[HostRole::Compute], timing()).await];
    world.make::<Network>(&world.namespaced(), "dmz", json!({})).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    (host, vm, agents)
}

#[tokio::test(flavor = "multi_thread")]
async fn they_come_and_go_and_leave_nothing_behind() {
    let world = World::start().await;
    let (host, vm, _agents) = with_vm(&world).await;
    world.respecify("web", interfaces(&[("eth0", "lan"), ("eth1", "dmz")])).await;
    let two = until_reported(&world, &[("eth0", "lan"), ("eth1", "dmz")]).await;
    assert_eq!(host.contents()[3], 2);
    let status = two.status.unwrap();
    for interface in &status.interfaces {
        assert_eq!(interface.mac, MacAddr::derive(&uid(&vm), &interface.name));
    }
    assert!(condition::is_true(&status.conditions, condition::READY));

    // Another network in place of the one that it has, without a restart
    world.respecify("web", interfaces(&[("eth0", "dmz")])).await;
    let moved = until_reported(&world, &[("eth0", "dmz")]).await;
    assert_eq!(moved.status.unwrap().interfaces[0].mac, status.interfaces[0].mac);
    eventually("the devices of lan to go", || host.contents()[3] == 1).await;
    world.respecify("web", interfaces(&[])).await;
    until_reported(&world, &[]).await;
    eventually("all devices to go", || host.contents()[3] == 0).await;
    assert_eq!((effect(&host, "start"), effect(&host, "plug"), effect(&host, "unplug")), (1, 2, 3));
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_let_go_is_named_and_asked_again() {
    let world = World::start().await;
    let (host, _, _agents) = with_vm(&world).await;
    host.deafen_guests();
    world.respecify("web", interfaces(&[])).await;
    let waiting = |vm: &VM| waits(vm).is_some_and(|found| found.reason == "WaitingForGuest");
    let vm = world.wait_vm("web", "WaitingForGuest", waiting).await;
    let message = &waits(&vm).unwrap().message;
    assert!(message.contains("let go of interface eth0, which is no longer in the spec"), "{message}");
    assert_eq!(reported(&vm), [("eth0", "lan")], "it has it still");
    assert!(condition::is_true(&vm.status.as_ref().unwrap().conditions, condition::READY), "the VM runs");
    let asked = host.calls(Method::Unplug);
    eventually("more questions", || host.calls(Method::Unplug) >= asked + 2).await;
    let later = world.vms().get("web").await.unwrap();
    assert_eq!(later.metadata.resource_version, vm.metadata.resource_version, "there is nothing new to say");
    assert_eq!(host.contents()[3], 1, "its network stays as long as it has it");
    host.heal_guests();
    until_reported(&world, &[]).await;
    eventually("the devices to go", || host.contents()[3] == 0).await;
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_waits_for_its_network() {
    let world = World::start().await;
    let (_host, _, _agents) = with_vm(&world).await;
    world.respecify("web", interfaces(&[("eth0", "lan"), ("eth1", "later")])).await;
    let waiting = |vm: &VM| waits(vm).is_some_and(|found| found.reason == "NetworkNotFound");
    let vm = world.wait_vm("web", "NetworkNotFound", waiting).await;
    assert!(waits(&vm).unwrap().message.starts_with("interface eth1: Network default/later does not exist"));
    world.make::<Network>(&world.namespaced(), "later", json!({})).await;
    until_reported(&world, &[("eth0", "lan"), ("eth1", "later")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_plug_says_so_and_the_vm_runs_on() {
    let world = World::start().await;
    let (host, _, _agents) = with_vm(&world).await;
    let refuse = Effect::Refuse { reason: "PlugFailed", terminal: false };
    host.inject(Fault { method: Method::Plug, when: When::Always, effect: refuse });
    world.respecify("web", interfaces(&[("eth0", "lan"), ("eth1", "dmz")])).await;
    let failed = |vm: &VM| waits(vm).is_some_and(|found| found.reason == "PlugFailed");
    let vm = world.wait_vm("web", "PlugFailed", failed).await;
    assert!(condition::is_true(&vm.status.as_ref().unwrap().conditions, condition::READY));
    // A user who thinks better of it has the VM as it was, and nothing is left of the network that was made
    world.respecify("web", interfaces(&[("eth0", "lan")])).await;
    until_reported(&world, &[("eth0", "lan")]).await;
    eventually("the devices of dmz to go", || host.contents()[3] == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interface_is_not_plugged_unguarded() {
    let world = World::start().await;
    let (host, vm, _agents) = with_vm(&world).await;
    let refuse = Effect::Refuse { reason: "FirewallFailed", terminal: false };
    host.inject(Fault { method: Method::Enforce, when: When::Always, effect: refuse });
    world.respecify("web", interfaces(&[("eth0", "lan"), ("eth1", "dmz")])).await;
    let failed = |vm: &VM| waits(vm).is_some_and(|found| found.reason == "FirewallFailed");
    world.wait_vm("web", "FirewallFailed", failed).await;
    assert_eq!(host.calls(Method::Plug), 0);
    host.heal();
    until_reported(&world, &[("eth0", "lan"), ("eth1", "dmz")]).await;
    let tap = tap_name(&uid(&vm), "eth1");
    let guarded = || host.rules().ports.iter().any(|port| port.tap.as_str() == tap);
    assert!(guarded());

    // its rules go with it
    world.respecify("web", interfaces(&[("eth0", "lan")])).await;
    until_reported(&world, &[("eth0", "lan")]).await;
    eventually("its rules to go", || !guarded()).await;
    assert_eq!(host.violations(), [""; 0]);
}
