//! Gateways of networks, and how they go from host to host.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use kube::{
    ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use ucloud_agent::Timing;
use ucloud_agent_sim::{Effect, Fault, Method, SimHost, When};
use ucloud_types::{
    Host, Network,
    condition::{self, ROUTED},
    host::HostRole,
};

use crate::world::{World, eventually, timing};

fn has_gateway(host: &SimHost, network: &Network) -> bool {
    host.gateways().contains(&network.uid().unwrap())
}

/// Waits until the network is routed, and tells by whom.
async fn routed(world: &World, by: impl Fn(&str) -> bool) -> Network {
    let is_routed = |network: &Network| {
        network.status.as_ref().is_some_and(|status| {
            condition::is_true(&status.conditions, ROUTED) && status.router.as_deref().is_some_and(&by)
        })
    };
    world.wait_for(&world.namespaced::<Network>(), "lan", "that it is routed", is_routed).await
}

async fn change_host(world: &World, host: &SimHost, spec: Value) {
    let patch = Patch::Merge(json!({"spec": spec}));
    world.cluster::<Host>().patch(host.name(), &PatchParams::default(), &patch).await.unwrap();
}

/// The host that routes the network, and the other one.
fn sorted<'a>(network: &Network, hosts: [&'a Arc<SimHost>; 2]) -> [&'a Arc<SimHost>; 2] {
    let [one, two] = hosts;
    if network.status.as_ref().unwrap().router.as_deref() == Some(one.name()) { [one, two] } else { [two, one] }
}

/// Make before break: a host keeps the gateway until the next one has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_given_up_when_the_next_host_has_it() {
    let world = World::start().await;
    let (h1, h2) = (world.host("h1"), world.host("h2"));
    let _agents = (world.agent(&h1).await, world.agent(&h2).await);
    let network = routed(&world, |_| true).await;
    let [old, new] = sorted(&network, [&h1, &h2]);
    assert!(has_gateway(old, &network) && !has_gateway(new, &network));
    eventually("it advertises", || old.advertised().len() == 1).await;

    let broken = Effect::Refuse { reason: "UnderlayUnavailable", terminal: false };
    new.inject(Fault { method: Method::EnsureNetwork, when: When::Always, effect: broken });
    change_host(&world, old, json!({"unschedulable": true})).await;
    let networks = world.namespaced::<Network>();
    let is_assigned = |network: &Network| network.status.as_ref().unwrap().router.as_deref() == Some(new.name());
    let pending = world.wait_for(&networks, "lan", "its new router", is_assigned).await;
    let why = condition::get(&pending.status.as_ref().unwrap().conditions, ROUTED).unwrap();
    assert_eq!((why.status.as_str(), why.reason.as_str()), ("False", "GatewayPending"));
    let tries = new.calls(Method::EnsureNetwork);
    eventually("the new router has tried again", || new.calls(Method::EnsureNetwork) > tries + 1).await;
    assert!(has_gateway(old, &network) && old.advertised().len() == 1, "the old one goes on until then");

    new.heal();
    routed(&world, |router| router == new.name()).await;
    eventually("the old one has given the gateway up", || !has_gateway(old, &network)).await;
    eventually("it advertises no more", || old.advertised().is_empty() && new.advertised().len() == 1).await;
    eventually("its devices are gone: no VM is there", || old.contents()[3] == 0).await;
}

/// An agent that is killed is found dead by its Lease.
#[tokio::test(flavor = "multi_thread")]
async fn networks_of_a_host_whose_agent_is_killed_move_and_it_withdraws_when_it_is_back() {
    let world = World::start_with(Duration::from_secs(1)).await;
    let (h1, h2) = (world.host("h1"), world.host("h2"));
    let beating = || Timing { renew_router: Duration::from_secs(1), ..timing() };
    let mut agents = vec![world.agent_with(&h1, beating()).await, world.agent_with(&h2, beating()).await];
    let network = routed(&world, |_| true).await;
    let [old, new] = sorted(&network, [&h1, &h2]);
    let (old, new) = (Arc::clone(old), Arc::clone(new));
    agents.remove(usize::from(old.name() != "h1")).kill().await;
    routed(&world, |router| router == new.name()).await;
    assert!(has_gateway(&new, &network));
    assert!(has_gateway(&old, &network), "nobody is there to take it away");

    let _agent = world.agent_with(&old, beating()).await;
    eventually("the host that is back has given the gateway up", || !has_gateway(&old, &network)).await;
    routed(&world, |router| router == new.name()).await;
    assert!(has_gateway(&new, &network));
}

/// Others would give the gateway up for one that is not there yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_was_booted_does_not_claim_the_gateways_that_it_had() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    routed(&world, |_| true).await;
    agent.kill().await;
    host.boot();
    host.inject(Fault { method: Method::EnsureNetwork, when: When::Always, effect: Effect::Stall });
    // it is told as soon as it is known, however long the devices take
    let patient = Timing { step: Duration::from_hours(1), ..timing() };
    let _agent = world.agent_with(&host, patient).await;
    let networks = world.namespaced::<Network>();
    let is_pending = |network: &Network| {
        let routed = network.status.as_ref().and_then(|status| condition::get(&status.conditions, ROUTED));
        routed.is_some_and(|routed| routed.reason == "GatewayPending")
    };
    world.wait_for(&networks, "lan", "that its gateway is not there", is_pending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_network_devices_are_unknown_is_not_ready() {
    let world = World::start().await;
    let host = world.host("h1");
    let away = Effect::Refuse { reason: "UnderlayUnavailable", terminal: false };
    host.inject(Fault { method: Method::Networks, when: When::Always, effect: away });
    let _agent = world.agent_with(&host, Timing { call: Duration::from_secs(1), ..timing() }).await;
    let ready = |reason: &'static str| {
        move |host: &Host| {
            let conditions = host.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            condition::get(conditions, condition::READY).is_some_and(|ready| ready.reason == reason)
        }
    };
    let hosts = world.cluster::<Host>();
    world.wait_for(&hosts, "h1", "the cause", ready("NetworksUnknown")).await;
    host.heal();
    world.wait_for(&hosts, "h1", "its return", ready("AgentReady")).await;
}

/// What it saw last may be old, and its watches may hang: after a cut it lists everything again.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_cut_off_looks_at_everything_anew() {
    let world = World::start().await;
    let host = world.host("h1");
    let cut = Arc::new(AtomicBool::new(false));
    let lists = Arc::new(AtomicU32::new(0));
    let (is_cut, count) = (Arc::clone(&cut), Arc::clone(&lists));
    let client = world.api.agent(host.name()).await.unwrap();
    // what is under way goes on, as a watch does on a connection of which nobody knows that it is dead
    let line = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (client, lost) = (client.clone(), is_cut.load(Ordering::SeqCst));
        if request.uri().path().ends_with("/networks") && !request.uri().query().unwrap_or_default().contains("watch") {
            count.fetch_add(1, Ordering::SeqCst);
        }
        async move {
            if lost {
                return Err(tower::BoxError::from("the request was lost"));
            }
            Ok::<_, tower::BoxError>(client.send(request).await?)
        }
    });
    let timing = Timing { renew_router: Duration::from_millis(200), ..timing() };
    let _agent = World::agent_through(kube::Client::new(line, "default"), &host, &HostRole::ALL, timing);
    routed(&world, |_| true).await;
    let before = lists.load(Ordering::SeqCst);
    cut.store(true, Ordering::SeqCst);
    let began = Instant::now();
    // the lease of 1 s has run out
    eventually("it was cut off for long enough", || began.elapsed() > Duration::from_millis(1500)).await;
    assert_eq!(lists.load(Ordering::SeqCst), before);
    cut.store(false, Ordering::SeqCst);
    eventually("it lists networks again", || lists.load(Ordering::SeqCst) > before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_type_of_a_network_changes_what_its_router_does() {
    let world = World::start().await;
    let host = world.host("h1");
    let _agent = world.agent(&host).await;
    let network = routed(&world, |_| true).await;
    eventually("it advertises", || host.advertised().len() == 1).await;
    let networks = world.namespaced::<Network>();
    let change = async |ipam: &str| {
        let patch = Patch::Merge(json!({"spec": {"ipam": ipam}}));
        networks.patch("lan", &PatchParams::default(), &patch).await.unwrap();
    };
    change("Manual").await;
    eventually("it advertises no more", || host.advertised().is_empty()).await;
    assert!(has_gateway(&host, &network), "it goes on to route");
    change("None").await;
    eventually("it routes no more", || !has_gateway(&host, &network)).await;
    change("Automatic").await;
    eventually("it does all of it again", || has_gateway(&host, &network) && host.advertised().len() == 1).await;
    assert!(host.violations().is_empty());
}
