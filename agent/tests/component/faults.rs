//! A fault at every kind of call, and an agent that is killed in it: the same end state, and the same number of
//! creations and deletions as without.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use serde_json::json;
use ucloud_agent_sim::{Effect, Fault, Method, When};
use ucloud_types::{VM, host::HostRole};

use crate::world::{World, eventually, timing, uid};

/// How often a host was really changed.
type Effects = BTreeMap<&'static str, u32>;

/// The life of a VM from its creation over a restart and an interface that comes and goes to its end, on a host of its own that routes nothing. Agents that
/// come to a call which is never answered are killed in it, and others come after them.
async fn life(world: &World, name: &str, faults: Vec<Fault>) -> Effects {
    let host = world.host(name);
    for fault in faults {
        host.inject(fault);
    }
    let agents = async {
        let mut hanging = host.hanging();
        loop {
            let agent = world.agent_as(&host, &[HostRole::Compute], timing()).await;
            if hanging.changed().await.is_err() {
                return;
            }
            agent.kill().await;
        }
    };
    let vm = async {
        let vm = world.bound_vm(name, &host, json!({"runStrategy": "Manual"})).await;
        world.order(name, "start").await;
        world.wait_running(name).await;
        world.order(name, "restart").await;
        world.wait_running(name).await;
        for networks in [&["eth0", "eth1"][..], &["eth0"]] {
            let interfaces: Vec<_> = networks.iter().map(|name| json!({"name": name, "network": "lan"})).collect();
            world.respecify(name, json!({"networks": interfaces})).await;
            let names = |vm: &VM| {
                let all = vm.status.iter().flat_map(|status| &status.interfaces);
                all.map(|interface| interface.name.clone()).collect::<Vec<_>>()
            };
            world.wait_vm(name, "its interfaces", |vm| names(vm) == networks).await;
        }
        world.delete(name).await;
        world.wait_gone(&vm).await;
        eventually("nothing to be left", || host.domain_of(&uid(&vm)).is_none() && host.contents()[1] == 0).await;
        eventually("the network to be left", || host.contents()[3] == 0).await;
    };
    tokio::select! {
        () = agents => unreachable!("the host lives as long as its agents"),
        () = vm => {}
    }
    assert_eq!(host.violations(), [""; 0], "{name}");
    host.effects()
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_call() {
    let world = World::start().await;
    let router = world.host("router");
    let _router = world.agent(&router).await;
    let calm = life(&world, "calm", Vec::new()).await;
    let expected =
        ["import", "make disk", "make network", "plug", "remove disk", "remove network", "start", "undefine", "unplug"];
    assert_eq!(calm.keys().copied().collect::<Vec<_>>(), expected);
    assert_eq!((calm["start"], calm["make disk"], calm["remove disk"]), (2, 1, 1));

    let effects = [
        ("refused", Effect::Refuse { reason: "Refused", terminal: false }),
        ("lost", Effect::LoseReply),
        ("killed-before", Effect::Stall),
        ("killed-after", Effect::Hang),
    ];
    let mut cases = Vec::new();
    for (index, method) in Method::ALL.into_iter().enumerate() {
        for (what, effect) in &effects {
            for nth in 1..=3 {
                let fault = Fault { method, when: When::Nth(nth), effect: effect.clone() };
                cases.push((format!("m{index}-{what}-{nth}"), fault));
            }
        }
    }
    let outcomes = stream::iter(cases)
        .map(|(name, fault)| {
            let world = &world;
            async move { (life(world, &name, vec![fault.clone()]).await, fault) }
        })
        .buffer_unordered(24);
    let outcomes: Vec<_> = outcomes.collect().await;
    for (outcome, fault) in outcomes {
        assert_eq!(outcome, calm, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_all_calls_of_one_life() {
    let world = World::start().await;
    let router = world.host("router");
    let _router = world.agent(&router).await;
    let calm = life(&world, "calm", Vec::new()).await;
    let first = |method| Fault { method, when: When::Nth(1), effect: Effect::Hang };
    let rough = life(&world, "rough", Method::ALL.into_iter().map(first).collect()).await;
    assert_eq!(rough, calm);
}
