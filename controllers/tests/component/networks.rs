//! Networks get what they need, and give it back.

use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;
use ucloud_types::{
    NetworkPool,
    condition::{self, READY, TERMINATING},
    network::Ipam,
};

use crate::{
    faults::{Asked, Fate, line, refusal},
    support::{
        Cloud, Controllers, alone, create, delete, eventually, names, network_condition, patch, set_status, until,
        until_gone, until_network,
    },
};

async fn with_pool(size: u32) -> Cloud {
    let cloud = Cloud::start().await;
    cloud.network_pool("default", size).await;
    cloud.host("h1", 8, "16Gi").await;
    cloud
}

#[tokio::test]
async fn a_network_gets_vni_prefix_gateway_and_router() {
    let cloud = with_pool(100).await;
    let _controllers = cloud.controllers().await;
    cloud.network("net").await;
    until_network(&cloud, "net", READY, "Ready").await;
    let network = cloud.networks().get("net").await.unwrap();
    let status = network.status.unwrap();
    let index = status.vni.unwrap().get() - 100;
    assert_eq!(status.prefix.unwrap().to_string(), format!("fd00:1234:0:{index:x}::/64").replace(":0::/64", "::/64"));
    assert_eq!(status.gateway, Some(status.prefix.unwrap().gateway()));
    assert_eq!((status.router.as_deref(), status.ipam), (Some("h1"), Some(Ipam::Automatic)));
    assert_eq!(cloud.allocated().await.len(), 1);

    create(&cloud.networks(), "flat", json!({"ipam": "None"})).await;
    until_network(&cloud, "flat", READY, "Ready").await;
    let flat = cloud.networks().get("flat").await.unwrap().status.unwrap();
    assert_eq!((flat.prefix, flat.gateway, flat.router), (None, None, None));
    let counted = |pool: &NetworkPool| pool.status.as_ref().is_some_and(|s| (s.allocated, s.free) == (2, 98));
    until(&cloud.network_pools(), "default", "2 are used and 98 free", counted).await;
}

/// Pattern 15: what is missing is named, and comes.
#[tokio::test]
async fn pool_and_router_may_come_later() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    cloud.network("net").await;
    let why = until_network(&cloud, "net", READY, "PoolNotFound").await;
    assert!(why.message.starts_with("NetworkPool default does not exist"), "{}", why.message);
    cloud.network_pool("default", 4).await;
    until_network(&cloud, "net", READY, "NoRouter").await;
    cloud.host("h1", 8, "16Gi").await;
    until_network(&cloud, "net", READY, "Ready").await;
}

#[tokio::test]
async fn an_exhausted_pool_says_so_and_serves_again_when_one_is_given_back() {
    let cloud = with_pool(3).await;
    let _controllers = cloud.controllers().await;
    for name in ["a", "b", "c"] {
        cloud.network(name).await;
        cloud.vni_of(name).await;
    }
    cloud.network("d").await;
    let why = until_network(&cloud, "d", READY, "PoolExhausted").await;
    let expected = "pool default has 0 of 3 left: this project holds 3, others hold 0; \
                    delete networks, or ask the operator for more";
    assert_eq!(why.message, expected);
    let told = |pool: &NetworkPool| {
        let conditions = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        condition::get(conditions, READY)
            .is_some_and(|ready| ready.message.starts_with("pool default has 0 of 3 left: project default holds 3;"))
    };
    until(&cloud.network_pools(), "default", "it says who holds it", told).await;
    delete(&cloud.networks(), "b").await;
    until_network(&cloud, "d", READY, "Ready").await;
    assert_eq!(cloud.allocated().await.len(), 3);
}

#[tokio::test]
async fn deletion_says_who_holds_the_network() {
    let cloud = with_pool(10).await;
    let _controllers = cloud.controllers().await;
    cloud.network("net").await;
    let vni = cloud.vni_of("net").await;
    let uid = cloud.networks().get("net").await.unwrap().metadata.uid;
    cloud.vm("web", "1Gi", &["net"]).await;
    set_status(&cloud.hosts(), "h1", json!({"networks": [{"uid": uid, "vni": vni}]})).await;

    delete(&cloud.networks(), "net").await;
    let held = until_network(&cloud, "net", TERMINATING, "InUse").await;
    assert_eq!(held.message, "used by VM web: delete them, or take the network out of their specs");

    patch(&cloud.vms(), "web", json!({"metadata": {"finalizers": null}})).await;
    delete(&cloud.vms(), "web").await;
    patch_away_finalizers(&cloud).await;
    let held = until_network(&cloud, "net", TERMINATING, "DevicesRemain").await;
    assert!(held.message.starts_with("waiting until host h1 has removed its devices"), "{}", held.message);
    assert_eq!(cloud.allocated().await.len(), 1, "pattern 11: in use on a host, so it is not freed");

    set_status(&cloud.hosts(), "h1", json!({"networks": []})).await;
    until_gone(&cloud.networks(), "net").await;
    assert!(cloud.allocated().await.is_empty());
}

/// There is no agent in these tests that would let go of a VM.
async fn patch_away_finalizers(cloud: &Cloud) {
    if cloud.vms().get_opt("web").await.unwrap().is_some() {
        patch(&cloud.vms(), "web", json!({"metadata": {"finalizers": null}})).await;
    }
    until_gone(&cloud.vms(), "web").await;
}

/// A prefix of a project's own goes with a VNI of the pool that permits it, and is given back with it.
#[tokio::test]
async fn a_network_may_bring_its_prefix() {
    let cloud = with_pool(4).await;
    let _controllers = cloud.controllers().await;
    let spec = json!({"prefix": "2001:db8:1:2::/64"});
    let network = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Network", "metadata": {"name": "own"}, "spec": spec});
    let network: ucloud_types::Network = serde_json::from_value(network).unwrap();
    let refused = cloud.networks().create(&PostParams::default(), &network).await.unwrap_err();
    assert!(refused.to_string().contains("does not let project default bring 2001:db8:1:2::/64 along"), "{refused}");

    let own = json!([{"prefix": "2001:db8:1::/48", "namespaces": ["default"]}]);
    patch(&cloud.network_pools(), "default", json!({"spec": {"ownPrefixes": own}})).await;
    let permitted = |pool: &NetworkPool| !pool.spec.own_prefixes.is_empty();
    until(&cloud.network_pools(), "default", "it permits the prefix", permitted).await;
    cloud.networks().create(&PostParams::default(), &network).await.unwrap();
    until_network(&cloud, "own", READY, "Ready").await;
    let status = cloud.networks().get("own").await.unwrap().status.unwrap();
    assert_eq!(status.prefix, Some("2001:db8:1:2::/64".parse().unwrap()));
    assert_eq!(status.gateway, Some("2001:db8:1:2::1".parse().unwrap()));
    assert_eq!(
        names(&cloud.allocations()).await,
        ["prefix-20010db800010002".to_owned(), format!("vni-{}", status.vni.unwrap())]
    );

    // what is permitted no longer is left to the network that has it
    patch(&cloud.network_pools(), "default", json!({"spec": {"ownPrefixes": null}})).await;
    delete(&cloud.networks(), "own").await;
    until_gone(&cloud.networks(), "own").await;
    eventually("nothing is left", async || names(&cloud.allocations()).await.is_empty()).await;
}

#[tokio::test]
async fn a_pool_may_be_for_some_projects_alone() {
    let cloud = with_pool(4).await;
    let _controllers = cloud.controllers().await;
    patch(&cloud.network_pools(), "default", json!({"spec": {"namespaces": ["other"]}})).await;
    let network = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Network", "metadata": {"name": "net"}, "spec": {}});
    let network: ucloud_types::Network = serde_json::from_value(network).unwrap();
    let refused = cloud.networks().create(&PostParams::default(), &network).await.unwrap_err();
    assert!(refused.to_string().contains("NetworkPool default is not for project default"), "{refused}");
}

/// Pattern 11: a VNI that a host still uses, though nothing says whose it is, is given to nobody.
#[tokio::test]
async fn a_vni_that_a_host_still_has_is_not_given_out() {
    let cloud = with_pool(2).await;
    set_status(&cloud.hosts(), "h1", json!({"networks": [{"uid": "left-over", "vni": 100}]})).await;
    let _controllers = cloud.controllers().await;
    cloud.network("a").await;
    assert_eq!(cloud.vni_of("a").await, 101);
    cloud.network("b").await;
    until_network(&cloud, "b", READY, "PoolExhausted").await;
}

/// Patterns 9, 10 and 12: the controllers' cache holds no VM and no host, as if the list had come back empty. The VM
/// still holds the network, for the last word is the server's.
#[tokio::test]
async fn an_empty_list_frees_nothing() {
    let cloud = with_pool(10).await;
    let controllers = cloud.controllers().await;
    cloud.network("net").await;
    cloud.vni_of("net").await;
    cloud.vm("web", "1Gi", &["net"]).await;
    controllers.stop().await;

    let version = cloud.vms().list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let empty = move |asked: &Asked| {
        for (plural, kind) in [("vms", "VMList"), ("hosts", "HostList")] {
            if asked.is_list_of_a_cache(plural) {
                let list = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": kind,
                                  "metadata": {"resourceVersion": version}, "items": []});
                return Fate::Answer(http::StatusCode::OK, list.to_string());
            }
        }
        Fate::Pass
    };
    let _controllers = Controllers::start(line(cloud.client().await, empty), alone());
    delete(&cloud.networks(), "net").await;
    until_network(&cloud, "net", TERMINATING, "InUse").await;
    assert_eq!(cloud.allocated().await.len(), 1);
}

/// Pattern 14: the finalizer cannot be taken away at first. The network says so, and goes when it can.
#[tokio::test]
async fn a_refused_finalizer_is_said_and_tried_again() {
    let cloud = with_pool(10).await;
    let controllers = cloud.controllers().await;
    cloud.network("net").await;
    cloud.vni_of("net").await;
    controllers.stop().await;

    let open = tokio_util::sync::CancellationToken::new();
    let gate = open.clone();
    let refusing = move |asked: &Asked| {
        let is_finalizer = asked.method == http::Method::PATCH && !asked.path.contains("/status");
        if is_finalizer && asked.path.contains("/networks/") && !gate.is_cancelled() {
            return refusal(http::StatusCode::INTERNAL_SERVER_ERROR);
        }
        Fate::Pass
    };
    let _controllers = Controllers::start(line(cloud.client().await, refusing), alone());
    delete(&cloud.networks(), "net").await;
    let held = until_network(&cloud, "net", TERMINATING, "ReconcileFailed").await;
    assert!(held.message.contains("cannot change the finalizers of Network default/net"), "{}", held.message);
    assert!(held.message.contains("refused by the test (500)"), "{}", held.message);
    open.cancel();
    until_gone(&cloud.networks(), "net").await;
}

/// Pattern 3: the deletion was asked for while nobody watched.
#[tokio::test]
async fn a_deletion_that_nobody_saw_leaks_nothing() {
    let cloud = with_pool(10).await;
    let controllers = cloud.controllers().await;
    cloud.network("net").await;
    cloud.vni_of("net").await;
    controllers.stop().await;
    delete(&cloud.networks(), "net").await;
    let _controllers = cloud.controllers().await;
    until_gone(&cloud.networks(), "net").await;
    assert!(cloud.allocated().await.is_empty());
}

/// Pattern 4: deleted by force and made again under the same name, while nobody watched. The old allocation goes, the
/// new network has one of its own.
#[tokio::test]
async fn a_network_made_again_under_its_name_is_another_network() {
    let cloud = with_pool(10).await;
    let controllers = cloud.controllers().await;
    let old = cloud.network("net").await.metadata.uid.unwrap();
    cloud.vni_of("net").await;
    controllers.stop().await;
    patch(&cloud.networks(), "net", json!({"metadata": {"finalizers": null}})).await;
    cloud.networks().delete("net", &DeleteParams::default()).await.unwrap();
    until_gone(&cloud.networks(), "net").await;
    let new = cloud.network("net").await.metadata.uid.unwrap();

    let _controllers = cloud.controllers().await;
    until_network(&cloud, "net", READY, "Ready").await;
    eventually("the old allocation is gone and the new is there", async || {
        let list = cloud.allocations().list(&ListParams::default()).await.unwrap();
        let owners: Vec<_> = list.iter().map(|allocation| allocation.spec.network_uid.clone()).collect();
        assert!(!owners.is_empty(), "one of both is there at any time");
        owners == [new.clone()] && !owners.contains(&old)
    })
    .await;
}

#[tokio::test]
async fn a_router_moves_only_when_its_host_cannot_be_it() {
    let cloud = with_pool(10).await;
    let _controllers = cloud.controllers().await;
    cloud.network("net").await;
    until_network(&cloud, "net", READY, "Ready").await;
    cloud.host("h2", 8, "16Gi").await;
    set_status(&cloud.hosts(), "h1", json!({"conditions": [crate::support::ready(false)]})).await;
    let ready = until_network(&cloud, "net", READY, "RouterNotReady").await;
    assert_eq!(ready.status, "Unknown");
    assert_eq!(cloud.networks().get("net").await.unwrap().status.unwrap().router.as_deref(), Some("h1"));
    delete(&cloud.hosts(), "h1").await;
    let moved = |network: &ucloud_types::Network| network.status.as_ref().unwrap().router.as_deref() == Some("h2");
    let network = until(&cloud.networks(), "net", "h2 is the router", moved).await;
    assert!(condition::is_true(&network.status.as_ref().unwrap().conditions, READY));
    assert!(network_condition(&network, TERMINATING).is_none());
}
