//! One network, one VNI: whatever gets lost, and however many allocate.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::Method;
use kube::{ResourceExt as _, api::ListParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use ucloud_types::condition::READY;

use crate::{
    faults::{Asked, Counter, Crash, Fate, dying, line},
    support::{
        Cloud, Controllers, alone, create, delete, eventually, names, network_condition, until_gone, until_network,
    },
};

/// Every network has exactly the allocation that its status names.
async fn is_consistent(cloud: &Cloud) -> bool {
    let networks = cloud.networks().list(&ListParams::default()).await.unwrap();
    let mut wanted: Vec<_> =
        networks.iter().filter_map(|network| Some((network.status.as_ref()?.vni?.get(), network.name_any()))).collect();
    wanted.sort();
    wanted.len() == networks.items.len() && cloud.allocated().await == wanted
}

/// Pattern 7: eight allocators at once, each of which loses every third reply to a write.
#[tokio::test(flavor = "multi_thread")]
async fn eight_allocators_that_lose_replies_make_one_allocation_per_network() {
    const NETWORKS: usize = 24;
    let cloud = Cloud::start().await;
    cloud.network_pool("default", 32).await;
    cloud.host("h1", 8, "16Gi").await;
    let mut allocators = Vec::new();
    for seed in 0..8 {
        allocators.push(Controllers::start(line(cloud.client().await, lossy(seed)), alone()));
    }
    for n in 0..NETWORKS {
        cloud.network(&format!("n{n}")).await;
    }
    for n in 0..NETWORKS {
        until_network(&cloud, &format!("n{n}"), READY, "Ready").await;
    }
    eventually("every network has the one allocation that its status names", async || is_consistent(&cloud).await)
        .await;
    let vnis: BTreeSet<_> = cloud.allocated().await.into_iter().map(|(vni, _)| vni).collect();
    assert_eq!(vnis.len(), NETWORKS);

    for n in 0..NETWORKS {
        delete(&cloud.networks(), &format!("n{n}")).await;
    }
    for n in 0..NETWORKS {
        until_gone(&cloud.networks(), &format!("n{n}")).await;
    }
    eventually("no allocation is left", async || cloud.allocated().await.is_empty()).await;
}

/// Eight allocators that lose replies, and networks that claim the same prefixes of their own: each prefix has one network,
/// and the next when that one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_one_networks_alone() {
    const PREFIXES: usize = 4;
    let cloud = Cloud::start().await;
    let spec = json!({"prefix": "fd00:1234::/48", "vniRange": {"first": 100, "last": 131},
        "ownPrefixes": [{"prefix": "2001:db8::/48", "namespaces": ["default"]}]});
    create(&cloud.network_pools(), "default", spec).await;
    cloud.host("h1", 8, "16Gi").await;
    let name = |prefix: usize, rival: usize| format!("n{prefix}-{rival}");
    for prefix in 0..PREFIXES {
        for rival in 0..3 {
            let spec = json!({"prefix": format!("2001:db8:0:{prefix}::/64").replace(":0:0::", "::")});
            create(&cloud.networks(), &name(prefix, rival), spec).await;
        }
    }
    let mut allocators = Vec::new();
    for seed in 0..8 {
        allocators.push(Controllers::start(line(cloud.client().await, lossy(seed)), alone()));
    }
    for prefix in 0..PREFIXES {
        let mut rivals: Vec<_> = (0..3).map(|rival| name(prefix, rival)).collect();
        while let Some(left) = rivals.len().checked_sub(1) {
            // one has it, all others say that they do not
            eventually("one has the prefix", async || {
                let mut reasons = Vec::new();
                for rival in &rivals {
                    let network = cloud.networks().get(rival).await.unwrap();
                    reasons.extend(network_condition(&network, READY).map(|ready| ready.reason));
                }
                reasons.sort();
                reasons == [vec!["PrefixInUse".to_owned(); left], vec!["Ready".to_owned()]].concat()
            })
            .await;
            let mut ready = Vec::new();
            for rival in &rivals {
                let status = cloud.networks().get(rival).await.unwrap().status.unwrap();
                ready.extend(status.prefix.map(|_| rival.clone()));
            }
            let [owner] = ready.try_into().unwrap();
            delete(&cloud.networks(), &owner).await;
            until_gone(&cloud.networks(), &owner).await;
            rivals.retain(|rival| *rival != owner);
        }
    }
    eventually("no allocation is left", async || names(&cloud.allocations()).await.is_empty()).await;
}

/// Loses every third reply to a write.
fn lossy(seed: usize) -> impl Fn(&Asked) -> Fate {
    let count = AtomicUsize::new(seed);
    move |asked: &Asked| {
        if asked.is_write() && count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) {
            Fate::LoseReply
        } else {
            Fate::Pass
        }
    }
}

/// Pattern 7: the reply to the creation is lost, and the list that follows does not show it yet. The second attempt
/// meets what the first has made, and takes it.
#[tokio::test]
async fn what_was_made_is_adopted_even_if_no_list_shows_it() {
    let cloud = Cloud::start().await;
    cloud.network_pool("default", 4).await;
    cloud.host("h1", 8, "16Gi").await;
    let (made, created) = (Made::default(), AtomicUsize::new(0));
    let log = made.clone();
    let fate = move |asked: &Asked| {
        log.watch(asked);
        if asked.method == Method::POST && asked.path.contains("/networkallocations") {
            return if created.fetch_add(1, Ordering::SeqCst) == 0 { Fate::LoseReply } else { Fate::Pass };
        }
        if asked.path.contains("/networkallocations?") && asked.path.contains("fieldSelector") {
            let list = serde_json::json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "items": [],
                "kind": "NetworkAllocationList", "metadata": {"resourceVersion": "1"}});
            return Fate::Answer(http::StatusCode::OK, list.to_string());
        }
        Fate::Pass
    };
    let _controllers = Controllers::start(line(cloud.client().await, fate), alone());
    cloud.network("net").await;
    until_network(&cloud, "net", READY, "Ready").await;
    assert_eq!(cloud.allocated().await.len(), 1);
    // all attempts are at the same slot: there would be more than one allocation else. How many there are depends on how
    // soon the controllers see the status that they wrote
    assert!(made.created.load(Ordering::SeqCst) >= 2, "it is tried again");
}

/// What allocating one network and deleting it again takes.
#[derive(Clone, Default)]
struct Made {
    created: Arc<AtomicUsize>,
    deleted: Arc<AtomicUsize>,
}

impl Made {
    fn watch(&self, asked: &Asked) {
        if asked.path.contains("/networkallocations") {
            match asked.method {
                Method::POST => drop(self.created.fetch_add(1, Ordering::SeqCst)),
                Method::DELETE => drop(self.deleted.fetch_add(1, Ordering::SeqCst)),
                _ => {}
            }
        }
    }
}

/// Pattern 6: the controllers die after every single write of a network's life, knowing of it or not. The end is the
/// same each time: one allocation while the network is there, none after; and as many made and removed as without a
/// crash, but for a request that is repeated because its reply was lost.
#[tokio::test]
async fn a_crash_after_any_write_changes_nothing_in_the_end() {
    let total = life(usize::MAX, Crash::AfterReply).await;
    assert!(total >= 5, "finalizer, allocation, status, deletion, finalizer: {total}");
    for crash in [Crash::AfterReply, Crash::BeforeReply] {
        for writes in 1..=total {
            life(writes, crash).await;
        }
    }
}

/// One network's life with a crash after so many writes. Tells how many writes there were, both processes together.
async fn life(writes: usize, crash: Crash) -> usize {
    let cloud = Cloud::start().await;
    cloud.network_pool("default", 4).await;
    cloud.host("h1", 8, "16Gi").await;
    let dead = CancellationToken::new();
    let (counter, made) = (Counter::default(), Made::default());
    // pools are written whenever something else is, and at no fixed time: they are left out
    let only_networks = || {
        let mut options = alone();
        options.controllers = [ucloud_controllers::ControllerName::Network].into();
        options
    };
    let fate = dying(counter.clone(), writes, crash, dead.clone());
    let log = made.clone();
    let first = line(cloud.client().await, move |asked| {
        if asked.path.contains("/networkpools") && asked.is_write() {
            return Fate::Pass;
        }
        log.watch(asked);
        fate(asked)
    });
    let mut controllers = Controllers::start(first, only_networks());
    cloud.network("net").await;

    let mut revived = false;
    for step in ["make", "delete"] {
        if step == "delete" {
            delete(&cloud.networks(), "net").await;
        }
        loop {
            let done = async {
                match step {
                    "make" => drop(until_network(&cloud, "net", READY, "Ready").await),
                    _ => until_gone(&cloud.networks(), "net").await,
                }
            };
            tokio::select! {
                () = done => break,
                () = dead.cancelled(), if !revived => {
                    revived = true;
                    let log = made.clone();
                    let (count, client) = (counter.clone(), cloud.client().await);
                    drop(controllers);
                    let second = line(client, move |asked| {
                        if !asked.path.contains("/networkpools") {
                            log.watch(asked);
                            count.count(asked);
                        }
                        Fate::Pass
                    });
                    controllers = Controllers::start(second, only_networks());
                }
            }
        }
        let expected: &[String] = if step == "make" { &["net".to_owned()] } else { &[] };
        eventually("the right allocations are there", async || {
            let owners: Vec<_> = cloud.allocated().await.into_iter().map(|(_, network)| network).collect();
            owners == expected
        })
        .await;
    }
    assert!(names(&cloud.networks()).await.is_empty());
    let lost = usize::from(crash == Crash::BeforeReply && writes != usize::MAX);
    let (created, deleted) = (made.created.load(Ordering::SeqCst), made.deleted.load(Ordering::SeqCst));
    assert_eq!(created, 1, "after {writes} writes, {crash:?}: what was made is found, not made again");
    assert!((1..=1 + lost).contains(&deleted), "after {writes} writes, {crash:?}: {deleted} deletions");
    counter.get()
}
