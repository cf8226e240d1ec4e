//! What goes with its owners, and what stays: the garbage collection cases of Kubernetes' conformance tests, with ConfigMaps
//! in the place of Deployments and Pods, and what must not be possible.

use futures::StreamExt as _;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Event, Namespace, Secret},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    faults::{Counter, Crash, Fate, dying, line},
    support::{Cloud, Controllers, Object, alone, eventually, until, until_gone},
};

fn maps(cloud: &Cloud, namespace: &str) -> Api<ConfigMap> {
    Api::namespaced(cloud.admin.clone(), namespace)
}

/// A reference to an object, which keeps that from going first.
fn owner<K: Object>(object: &K) -> Value {
    json!({"apiVersion": K::api_version(&()), "kind": K::kind(&()), "name": object.name_any(), "uid": object.uid(),
           "blockOwnerDeletion": true})
}

async fn make<K: Object>(api: &Api<K>, name: &str, owners: &[Value]) -> K {
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()),
        "metadata": {"name": name, "ownerReferences": owners},
    });
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

async fn own<K: Object>(api: &Api<K>, name: &str, owners: &[Value]) {
    let patch = Patch::Merge(json!({"metadata": {"ownerReferences": owners}}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

async fn delete_by<K: Object>(api: &Api<K>, name: &str, policy: PropagationPolicy) {
    let params = DeleteParams { propagation_policy: Some(policy), ..DeleteParams::default() };
    api.delete(name, &params).await.unwrap();
}

async fn hold(api: &Api<ConfigMap>, name: &str, finalizers: &[&str]) {
    let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
    api.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

fn owners_of(map: &ConfigMap) -> Vec<String> {
    map.owner_references().iter().map(|owner: &OwnerReference| owner.name.clone()).collect()
}

#[tokio::test]
async fn dependents_go_when_their_owner_is_deleted() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let maps = maps(&cloud, "default");
    let secrets: Api<Secret> = Api::namespaced(cloud.admin.clone(), "default");
    let deployment = make(&maps, "deployment", &[]).await;
    let replicas = make(&maps, "replicas", &[owner(&deployment)]).await;
    for number in 0..10 {
        make(&secrets, &format!("pod{number}"), &[owner(&replicas)]).await;
    }
    make(&maps, "other", &[]).await;
    delete_by(&maps, "deployment", PropagationPolicy::Background).await;
    until_gone(&maps, "replicas").await;
    eventually("all of its own dependents go", async || {
        secrets.list(&ListParams::default()).await.unwrap().items.is_empty()
    })
    .await;
    assert!(maps.get_opt("other").await.unwrap().is_some());
}

#[tokio::test]
async fn orphans_stay_without_their_owner() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let maps = maps(&cloud, "default");
    let parent = make(&maps, "parent", &[]).await;
    for name in ["a", "b"] {
        make(&maps, name, &[owner(&parent)]).await;
    }
    delete_by(&maps, "parent", PropagationPolicy::Orphan).await;
    until_gone(&maps, "parent").await;
    for name in ["a", "b"] {
        let orphan = maps.get(name).await.unwrap();
        assert_eq!(owners_of(&orphan), [""; 0]);
        assert!(orphan.metadata.deletion_timestamp.is_none());
    }
}

#[tokio::test]
async fn an_owner_stays_until_its_dependents_are_gone() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let maps = maps(&cloud, "default");
    let parent = make(&maps, "parent", &[]).await;
    for name in ["held", "free"] {
        make(&maps, name, &[owner(&parent)]).await;
    }
    let mut careless = owner(&parent);
    careless["blockOwnerDeletion"] = false.into();
    make(&maps, "careless", &[careless]).await;
    hold(&maps, "held", &["test.example.com/hold"]).await;
    hold(&maps, "careless", &["test.example.com/hold"]).await;
    delete_by(&maps, "parent", PropagationPolicy::Foreground).await;
    until_gone(&maps, "free").await;
    until(&maps, "held", "it is being deleted", |map| map.metadata.deletion_timestamp.is_some()).await;
    let waiting = maps.get("parent").await.unwrap();
    assert_eq!(waiting.finalizers(), ["foregroundDeletion"]);
    hold(&maps, "held", &[]).await;
    until_gone(&maps, "parent").await;
    assert!(maps.get("held").await.is_err());
    assert!(maps.get_opt("careless").await.unwrap().is_some(), "nobody waited for it");
}

#[tokio::test]
async fn what_has_another_owner_stays() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let maps = maps(&cloud, "default");
    let going = make(&maps, "going", &[]).await;
    let staying = make(&maps, "staying", &[]).await;
    make(&maps, "one", &[owner(&going)]).await;
    make(&maps, "both", &[owner(&going), owner(&staying)]).await;
    delete_by(&maps, "going", PropagationPolicy::Foreground).await;
    until_gone(&maps, "going").await;
    until_gone(&maps, "one").await;
    let both = until(&maps, "both", "the owner that is gone is taken out", |map| owners_of(map) == ["staying"]).await;
    assert!(both.metadata.deletion_timestamp.is_none());
    delete_by(&maps, "staying", PropagationPolicy::Background).await;
    until_gone(&maps, "both").await;
}

#[tokio::test]
async fn a_circle_goes_whole() {
    for policy in [PropagationPolicy::Background, PropagationPolicy::Foreground] {
        let cloud = Cloud::start().await;
        let _controllers = cloud.controllers().await;
        let maps = maps(&cloud, "default");
        let mut made = Vec::new();
        for name in ["a", "b", "c"] {
            made.push(make(&maps, name, &[]).await);
        }
        for (name, by) in [("a", 2), ("b", 0), ("c", 1)] {
            own(&maps, name, &[owner(&made[by])]).await;
        }
        delete_by(&maps, "a", policy).await;
        for name in ["a", "b", "c"] {
            until_gone(&maps, name).await;
        }
    }
}

#[tokio::test]
async fn kinds_that_no_controller_knows_take_part() {
    let cloud = Cloud::start().await;
    let leases: Api<Lease> = Api::namespaced(cloud.admin.clone(), "default");
    let namespaces: Api<Namespace> = Api::all(cloud.admin.clone());
    let maps = maps(&cloud, "default");
    let project = make(&namespaces, "project", &[]).await;
    let parent = make(&maps, "parent", &[]).await;
    make(&leases, "of-a-map", &[owner(&parent)]).await;
    make(&leases, "of-a-namespace", &[owner(&project)]).await;
    // gone before anybody watched
    maps.delete("parent", &DeleteParams::default()).await.unwrap();
    let _controllers = cloud.controllers().await;
    until_gone(&leases, "of-a-map").await;
    assert!(leases.get_opt("of-a-namespace").await.unwrap().is_some(), "its owner is there, in no namespace");
    namespaces.delete("project", &DeleteParams::default()).await.unwrap();
    until_gone(&namespaces, "project").await;
    until_gone(&leases, "of-a-namespace").await;
}

/// A reference names its owner in every respect, in its own namespace. One that does not is that of an owner which is not
/// there: the object that says so goes, and no other.
#[tokio::test]
async fn nobody_reaches_into_another_namespace() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let namespaces: Api<Namespace> = Api::all(cloud.admin.clone());
    make(&namespaces, "attacker", &[]).await;
    let (victims, attackers) = (maps(&cloud, "default"), maps(&cloud, "attacker"));
    let parent = make(&victims, "parent", &[]).await;
    make(&victims, "child", &[owner(&parent)]).await;

    // the parent's UID under a name that is not there: whoever believes it takes the parent for gone
    let mut wrong_name = owner(&parent);
    wrong_name["name"] = "absent".into();
    make(&attackers, "wrong-name", &[wrong_name]).await;
    let mut wrong_kind = owner(&parent);
    wrong_kind["kind"] = "Secret".into();
    make(&attackers, "wrong-kind", &[wrong_kind]).await;
    make(&attackers, "across", &[owner(&parent)]).await;
    for name in ["wrong-name", "wrong-kind", "across"] {
        until_gone(&attackers, name).await;
    }
    let events: Api<Event> = Api::namespaced(cloud.admin.clone(), "attacker");
    eventually("an Event says why", async || {
        let found = events.list(&ListParams::default().fields("involvedObject.name=across")).await.unwrap();
        found.iter().any(|event| {
            event.reason.as_deref() == Some("OwnerRefInvalidNamespace")
                && event.message.as_deref().unwrap_or_default().contains(r#"does not exist in namespace "attacker""#)
        })
    })
    .await;
    for name in ["parent", "child"] {
        assert!(victims.get(name).await.unwrap().metadata.deletion_timestamp.is_none(), "{name}");
    }

    // nor does anybody keep another's object from going
    let held = json!({"metadata": {
        "name": "held", "ownerReferences": [owner(&parent)], "finalizers": ["test.example.com/hold"],
    }});
    attackers.create(&PostParams::default(), &serde_json::from_value(held).unwrap()).await.unwrap();
    delete_by(&victims, "parent", PropagationPolicy::Foreground).await;
    until_gone(&victims, "parent").await;
    until_gone(&victims, "child").await;
}

/// A cluster-scoped object cannot have an owner in a namespace; nobody can tell in which.
#[tokio::test]
async fn a_cluster_scoped_object_is_kept_whatever_it_names() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let namespaces: Api<Namespace> = Api::all(cloud.admin.clone());
    let maps = maps(&cloud, "default");
    let absent = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "absent", "uid": "u"});
    make(&namespaces, "kept", std::slice::from_ref(&absent)).await;
    let unknown = json!({"apiVersion": "nobody.example.com/v1", "kind": "Unknown", "name": "x", "uid": "u"});
    make(&maps, "unknown-kind", &[unknown]).await;
    make(&maps, "collected", &[absent]).await;
    // by then the others were looked at as well: they came before
    until_gone(&maps, "collected").await;
    let events: Api<Event> = Api::namespaced(cloud.admin.clone(), "default");
    eventually("an Event says why", async || {
        let found = events.list(&ListParams::default().fields("involvedObject.name=kept")).await.unwrap();
        found.iter().any(|event| event.reason.as_deref() == Some("OwnerRefInvalidNamespace"))
    })
    .await;
    assert!(namespaces.get("kept").await.unwrap().metadata.deletion_timestamp.is_none());
    assert!(maps.get("unknown-kind").await.unwrap().metadata.deletion_timestamp.is_none());
}

/// Pattern 8: an object is made, and its owner a moment before it, while the collector's watch of owners stands still.
#[tokio::test]
async fn what_is_being_made_is_never_collected() {
    let cloud = Cloud::start().await;
    let never = CancellationToken::new();
    let slow = line(cloud.client().await, move |asked| {
        // the collector knows the secrets that were there when it began, and no others
        let follows = asked.path.starts_with("/api/v1/secrets?") && asked.path.contains("watch=true");
        if follows { Fate::Hold(never.clone()) } else { Fate::Pass }
    });
    let maps = maps(&cloud, "default");
    let secrets: Api<Secret> = Api::namespaced(cloud.admin.clone(), "default");
    let first = make(&secrets, "first", &[]).await;
    make(&maps, "of-first", &[owner(&first)]).await;
    let mut options = alone();
    options.controllers = [ucloud_controllers::ControllerName::GarbageCollector].into();
    let _controllers = Controllers::start(slow, options);
    for number in 0..20 {
        let parent = make(&secrets, &format!("parent{number}"), &[]).await;
        make(&maps, &format!("child{number}"), &[owner(&parent)]).await;
    }
    let gone = make(&maps, "gone", &[]).await;
    make(&maps, "orphaned", &[owner(&gone)]).await;
    maps.delete("gone", &DeleteParams::default()).await.unwrap();
    until_gone(&maps, "orphaned").await;
    let left = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.len(), 21, "every child of a living parent");
    assert!(left.iter().all(|map| map.metadata.deletion_timestamp.is_none() && map.owner_references().len() == 1));
}

/// Pattern 6: the collector dies after any single write, and the end is the same.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_left_undone_is_done_by_the_next() {
    let total = family(usize::MAX, Crash::AfterReply).await;
    assert!(total >= 6, "{total}");
    let lives =
        [Crash::AfterReply, Crash::BeforeReply].into_iter().flat_map(|crash| (1..=total).map(move |n| (n, crash)));
    futures::stream::iter(lives)
        .for_each_concurrent(4, async |(writes, crash)| {
            family(writes, crash).await;
        })
        .await;
}

/// A family in which somebody is deleted in each of the three ways.
async fn family(writes: usize, crash: Crash) -> usize {
    let cloud = Cloud::start().await;
    let maps = maps(&cloud, "default");
    for (root, policy) in [
        ("background", PropagationPolicy::Background),
        ("foreground", PropagationPolicy::Foreground),
        ("orphan", PropagationPolicy::Orphan),
    ] {
        let parent = make(&maps, root, &[]).await;
        let child = make(&maps, &format!("{root}-child"), &[owner(&parent)]).await;
        make(&maps, &format!("{root}-grandchild"), &[owner(&child)]).await;
        delete_by(&maps, root, policy).await;
    }
    let (counter, dead) = (Counter::default(), CancellationToken::new());
    let only = || {
        let mut options = alone();
        options.controllers = [ucloud_controllers::ControllerName::GarbageCollector].into();
        options
    };
    let first = line(cloud.client().await, dying(counter.clone(), writes, crash, dead.clone()));
    let second = cloud.client().await;
    let supervisor = tokio::spawn(async move {
        let first = Controllers::start(first, only());
        dead.cancelled().await;
        drop(first);
        let _second = Controllers::start(second, only());
        std::future::pending::<()>().await;
    });
    let left = async || {
        let mut left: Vec<String> =
            maps.list(&ListParams::default()).await.unwrap().iter().map(ConfigMap::name_any).collect();
        left.sort();
        left
    };
    eventually("only the orphans are left", async || left().await == ["orphan-child", "orphan-grandchild"]).await;
    let orphan = until(&maps, "orphan-child", "it has no owner", |map| map.owner_references().is_empty()).await;
    assert!(orphan.metadata.deletion_timestamp.is_none());
    supervisor.abort();
    counter.get()
}
