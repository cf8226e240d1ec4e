//! Which host routes a network: as long as it lives, and who after it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::{coordination::v1::Lease, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{Api, api::ListParams};
use serde_json::json;
use tokio::task::JoinHandle;
use ucloud_controllers::Options;
use ucloud_types::{
    Network,
    condition::{self, READY, ROUTED},
    meta::HOSTS_NAMESPACE,
    network::Ipam,
};

use crate::support::{
    Cloud, Controllers, alone, create, eventually, network_condition, patch, set_status, until, until_bound,
    until_network,
};

/// A Lease says this at least.
const PATIENCE: Duration = Duration::from_secs(1);

fn options() -> Options {
    Options { router_lease_duration: PATIENCE, ..alone() }
}

/// The agents of router hosts, as far as their Leases tell.
struct Hearts {
    beating: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Hearts {
    /// Routers of these names, all alive.
    async fn start(cloud: &Cloud, names: &[&str]) -> Self {
        let leases: Api<Lease> = Api::namespaced(cloud.admin.clone(), HOSTS_NAMESPACE);
        for name in names {
            cloud.host(name, 8, "16Gi").await;
            create(&leases, name, json!({"leaseDurationSeconds": 1})).await;
        }
        let beating: Arc<Mutex<BTreeSet<String>>> =
            Arc::new(Mutex::new(names.iter().map(|name| (*name).to_owned()).collect()));
        let alive = Arc::clone(&beating);
        let task = tokio::spawn(async move {
            loop {
                let names = alive.lock().unwrap().clone();
                for name in names {
                    patch(&leases, &name, json!({"spec": {"renewTime": MicroTime(Timestamp::now())}})).await;
                }
                tokio::time::sleep(PATIENCE / 10).await;
            }
        });
        Self { beating, task }
    }

    fn stop(&self, name: &str) {
        self.beating.lock().unwrap().remove(name);
    }

    fn resume(&self, name: &str) {
        self.beating.lock().unwrap().insert(name.to_owned());
    }
}

impl Drop for Hearts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn router(network: &Network) -> Option<&str> {
    network.status.as_ref()?.router.as_deref()
}

async fn router_of(cloud: &Cloud, name: &str) -> String {
    router(&until(&cloud.networks(), name, "it has a router", |network| router(network).is_some()).await)
        .unwrap()
        .to_owned()
}

async fn until_router(cloud: &Cloud, name: &str, wanted: &str) -> Network {
    until(&cloud.networks(), name, &format!("its router is {wanted}"), |network| router(network) == Some(wanted)).await
}

fn other(name: &str) -> &'static str {
    if name == "h1" { "h2" } else { "h1" }
}

/// What the host's agent reports of the network.
async fn report(cloud: &Cloud, host: &str, network: &str, routed: bool) {
    let network = cloud.networks().get(network).await.unwrap();
    let entry = json!({"uid": network.metadata.uid, "vni": network.status.unwrap().vni, "routed": routed});
    set_status(&cloud.hosts(), host, json!({"networks": [entry]})).await;
}

/// The notes of the network's Events of this reason.
async fn notes(cloud: &Cloud, name: &str, reason: &str) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(cloud.admin.clone(), "default");
    let all = events.list(&ListParams::default()).await.unwrap();
    let about = |event: &Event| event.regarding.as_ref().is_some_and(|object| object.name.as_deref() == Some(name));
    all.iter()
        .filter(|event| about(event) && event.reason.as_deref() == Some(reason))
        .filter_map(|event| event.note.clone())
        .collect()
}

async fn with_pool() -> Cloud {
    let cloud = Cloud::start().await;
    cloud.network_pool("default", 100).await;
    cloud
}

#[tokio::test]
async fn networks_of_a_dead_router_move_once_and_stay() {
    let cloud = with_pool().await;
    let hearts = Hearts::start(&cloud, &["h1", "h2"]).await;
    let _controllers = Controllers::start(cloud.client().await, options());
    let names: Vec<String> = (0..6).map(|n| format!("net{n}")).collect();
    for name in &names {
        cloud.network(name).await;
        router_of(&cloud, name).await;
    }
    let mut routers = BTreeSet::new();
    for name in &names {
        routers.insert(router_of(&cloud, name).await);
    }
    assert_eq!(routers.len(), 2, "networks are spread over routers");

    let dead = router_of(&cloud, "net0").await;
    until_network(&cloud, "net0", ROUTED, "GatewayPending").await;
    report(&cloud, &dead, "net0", true).await;
    until_network(&cloud, "net0", ROUTED, "Routed").await;

    hearts.stop(&dead);
    for name in &names {
        until_router(&cloud, name, other(&dead)).await;
    }
    let pending = until_network(&cloud, "net0", ROUTED, "GatewayPending").await;
    assert!(pending.message.contains(other(&dead)), "{}", pending.message);
    eventually("an Event says who moved and why", async || {
        let expected = format!(
            "the gateway moves from host {dead} to host {}: host {dead} does not renew its lease any more",
            other(&dead)
        );
        notes(&cloud, "net0", "RouterMoved").await == [expected]
    })
    .await;
    report(&cloud, other(&dead), "net0", true).await;
    until_network(&cloud, "net0", ROUTED, "Routed").await;

    // it is back, and gets what is new; what it had stays where it is
    hearts.resume(&dead);
    cloud.network("new").await;
    eventually("the router that came back takes a new network", async || {
        if router_of(&cloud, "new").await == dead {
            return true;
        }
        crate::support::delete(&cloud.networks(), "new").await;
        crate::support::until_gone(&cloud.networks(), "new").await;
        cloud.network("new").await;
        false
    })
    .await;
    for name in &names {
        assert_eq!(router_of(&cloud, name).await, other(&dead), "{name} did not move back");
    }
}

/// When most routers are silent, it is more likely the way to them.
#[tokio::test]
async fn nothing_moves_while_most_routers_are_silent() {
    let cloud = with_pool().await;
    let hearts = Hearts::start(&cloud, &["h1", "h2"]).await;
    let _controllers = Controllers::start(cloud.client().await, options());
    for name in ["a", "b", "c", "d"] {
        cloud.network(name).await;
        until_network(&cloud, name, READY, "Ready").await;
    }
    let mut before = Vec::new();
    for name in ["a", "b", "c", "d"] {
        before.push(router_of(&cloud, name).await);
    }
    assert!(before.iter().any(|host| host == "h1") && before.iter().any(|host| host == "h2"), "{before:?}");
    hearts.stop("h1");
    hearts.stop("h2");
    for (name, host) in ["a", "b", "c", "d"].iter().zip(&before) {
        let silent = until_network(&cloud, name, ROUTED, "RouterSilent").await;
        assert!(silent.message.contains("nothing is moved"), "{}", silent.message);
        assert_eq!(&router_of(&cloud, name).await, host);
    }
    // one of them is back: so it is the other that is in trouble
    hearts.resume("h2");
    for name in ["a", "b", "c", "d"] {
        until_router(&cloud, name, "h2").await;
        until_network(&cloud, name, READY, "Ready").await;
    }
}

#[tokio::test]
async fn controllers_that_start_give_every_router_its_whole_time() {
    let cloud = with_pool().await;
    let hearts = Hearts::start(&cloud, &["h1", "h2"]).await;
    let controllers = Controllers::start(cloud.client().await, options());
    cloud.network("net").await;
    let dead = router_of(&cloud, "net").await;
    until_network(&cloud, "net", READY, "Ready").await;
    controllers.stop().await;
    hearts.stop(&dead);
    // the lease is long over, but these controllers have not seen that
    let started = Instant::now();
    let _controllers = Controllers::start(cloud.client().await, options());
    until_router(&cloud, "net", other(&dead)).await;
    assert!(started.elapsed() >= PATIENCE, "it moved after {:?}", started.elapsed());
}

#[tokio::test]
async fn a_lone_router_that_is_silent_keeps_its_networks() {
    let cloud = with_pool().await;
    let hearts = Hearts::start(&cloud, &["h1"]).await;
    let _controllers = Controllers::start(cloud.client().await, options());
    cloud.network("net").await;
    until_network(&cloud, "net", READY, "Ready").await;
    hearts.stop("h1");
    until_network(&cloud, "net", ROUTED, "RouterSilent").await;
    // a second one: one of two may fail
    let _hearts = Hearts::start(&cloud, &["h2"]).await;
    until_router(&cloud, "net", "h2").await;
}

#[tokio::test]
async fn cordon_and_the_loss_of_the_role_move_networks() {
    let cloud = with_pool().await;
    let _hearts = Hearts::start(&cloud, &["h1", "h2"]).await;
    let _controllers = Controllers::start(cloud.client().await, options());
    cloud.network("net").await;
    let first = router_of(&cloud, "net").await;
    patch(&cloud.hosts(), &first, json!({"spec": {"unschedulable": true}})).await;
    let second = other(&first);
    until_router(&cloud, "net", second).await;
    patch(&cloud.hosts(), second, json!({"spec": {"roles": ["compute"]}})).await;
    let none = until_network(&cloud, "net", ROUTED, "NoRouter").await;
    assert!(none.message.contains("layer 2 alone meanwhile"), "{}", none.message);
    patch(&cloud.hosts(), &first, json!({"spec": {"unschedulable": false}})).await;
    until_router(&cloud, "net", &first).await;
    eventually("Events say why", async || {
        let moved = format!("the gateway moves from host {first} to host {second}: host {first} is unschedulable");
        let left = format!("the gateway leaves host {second}: host {second} has not the role router any more");
        notes(&cloud, "net", "RouterMoved").await == [moved] && notes(&cloud, "net", "RouterLeft").await == [left]
    })
    .await;
}

/// Layer 2 works without a router: VMs are bound, and their agents find all they need.
#[tokio::test]
async fn a_network_without_a_router_has_what_vms_need_to_start() {
    let cloud = with_pool().await;
    cloud.host("h1", 8, "16Gi").await;
    patch(&cloud.hosts(), "h1", json!({"spec": {"roles": ["compute"]}})).await;
    let _controllers = Controllers::start(cloud.client().await, options());
    cloud.network("net").await;
    until_network(&cloud, "net", ROUTED, "NoRouter").await;
    cloud.vni_of("net").await;
    cloud.storage_pool("default").await;
    cloud.vm("web", "1Gi", &["net"]).await;
    assert_eq!(until_bound(&cloud, "web").await, "h1");
}

#[tokio::test]
async fn the_type_of_a_live_network_changes() {
    let cloud = with_pool().await;
    let _hearts = Hearts::start(&cloud, &["h1"]).await;
    let _controllers = Controllers::start(cloud.client().await, options());
    cloud.network("net").await;
    until_network(&cloud, "net", ROUTED, "GatewayPending").await;
    let before = cloud.networks().get("net").await.unwrap().status.unwrap();
    let changed_to = async |ipam: &str, wanted: Ipam| {
        patch(&cloud.networks(), "net", json!({"spec": {"ipam": ipam}})).await;
        let is = |network: &Network| network.status.as_ref().unwrap().ipam == Some(wanted);
        until(&cloud.networks(), "net", &format!("it is {ipam}"), is).await.status.unwrap()
    };
    let manual = changed_to("Manual", Ipam::Manual).await;
    assert_eq!((manual.vni, manual.prefix, manual.router), (before.vni, before.prefix, before.router.clone()));
    let none = changed_to("None", Ipam::None).await;
    assert_eq!((none.vni, none.prefix, none.gateway, none.router), (before.vni, None, None, None));
    assert!(condition::get(&none.conditions, ROUTED).is_none() && condition::is_true(&none.conditions, READY));
    let automatic = changed_to("Automatic", Ipam::Automatic).await;
    assert_eq!((automatic.vni, automatic.prefix, automatic.router), (before.vni, before.prefix, before.router));
    let network = cloud.networks().get("net").await.unwrap();
    assert!(network_condition(&network, ROUTED).is_some());
}
