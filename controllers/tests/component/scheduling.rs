//! VMs get hosts.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{Api, ResourceExt as _, api::ListParams};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use ucloud_types::{VM, meta::AGENT_FINALIZER};

use crate::{
    faults::{Asked, Fate, line},
    support::{
        Cloud, Controllers, alone, create, delete, host_of, patch, ready, set_status, until, until_bound, until_gone,
        until_scheduled, vm_spec,
    },
};

#[tokio::test]
async fn a_vm_is_bound_with_epoch_and_finalizer() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    cloud.vm("web", "1Gi", &[]).await;
    assert_eq!(until_bound(&cloud, "web").await, "h1");
    let vm = cloud.vms().get("web").await.unwrap();
    assert_eq!(vm.status.unwrap().binding.unwrap().epoch, 1);
    assert_eq!(vm.metadata.finalizers, Some(vec![AGENT_FINALIZER.to_owned()]));
}

#[tokio::test]
async fn without_hosts_a_vm_says_so_and_goes_to_the_first_that_comes() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    cloud.vm("web", "1Gi", &[]).await;
    let why = until_scheduled(&cloud, "web", "Unschedulable").await;
    assert_eq!(why.message, "there are no hosts: start ucloud-agent on a machine that is to run VMs");
    assert_eq!(why.status, "False");
    cloud.host("h1", 8, "16Gi").await;
    assert_eq!(until_bound(&cloud, "web").await, "h1");
}

/// Pattern 15: there is a way back from a spec that cannot be met.
#[tokio::test]
async fn ten_tebibytes_fit_nowhere_and_one_gibibyte_does() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    cloud.vm("big", "10Ti", &[]).await;
    let why = until_scheduled(&cloud, "big", "Unschedulable").await;
    assert_eq!(why.message, "0/1 hosts fit: 1 lacks memory (need 10Ti, most free 16Gi)");
    patch(&cloud.vms(), "big", json!({"spec": {"memory": "1Gi"}})).await;
    until_bound(&cloud, "big").await;
}

#[tokio::test]
async fn two_vms_with_one_mac_address_in_one_network_do_not_both_run() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    let spec = |mac: &str| {
        let mut spec = vm_spec("1Gi", &["net"]);
        spec["networks"][0]["mac"] = json!(mac);
        spec
    };
    create(&cloud.vms(), "first", spec("02:00:00:00:00:01")).await;
    until_bound(&cloud, "first").await;
    let mut second = spec("02:00:00:00:00:02");
    second["runStrategy"] = json!("Halted");
    create(&cloud.vms(), "second", second).await;
    // the API refuses it where it can; two servers at once can not
    cloud.smuggle("/default/second", |vm| vm["spec"]["networks"][0]["mac"] = json!("02:00:00:00:00:01")).await;
    patch(&cloud.vms(), "second", json!({"spec": {"runStrategy": "Always"}})).await;
    let why = until_scheduled(&cloud, "second", "MacConflict").await;
    assert!(why.message.starts_with("VM default/first already uses the MAC address"), "{}", why.message);

    delete(&cloud.vms(), "first").await;
    patch(&cloud.vms(), "first", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&cloud.vms(), "first").await;
    until_bound(&cloud, "second").await;
}

/// One object that nobody can read stops nothing but itself.
#[tokio::test]
async fn a_malformed_object_stalls_nobody_else() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "16Gi").await;
    cloud.host("h2", 8, "16Gi").await;
    cloud.smuggle("hosts/h2", |host| host["spec"]["roles"] = json!("everything")).await;
    let controllers = cloud.controllers().await;
    cloud.vm("web", "1Gi", &[]).await;
    assert_eq!(until_bound(&cloud, "web").await, "h1");
    let text = controllers.options.metrics.encode().unwrap();
    assert!(text.contains("ucloud_malformed_objects_total{kind=\"Host\"} 1"), "{text}");
}

#[tokio::test]
async fn a_halted_vm_gets_a_host_only_when_it_is_to_run_and_keeps_it() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 8, "1Gi").await;
    let _controllers = cloud.controllers().await;
    let mut spec = vm_spec("1Gi", &[]);
    spec["runStrategy"] = json!("Halted");
    create(&cloud.vms(), "web", spec).await;
    until_scheduled(&cloud, "web", "Halted").await;
    patch(&cloud.vms(), "web", json!({"spec": {"runStrategy": "Manual"}})).await;
    until_bound(&cloud, "web").await;

    patch(&cloud.vms(), "web", json!({"spec": {"runStrategy": "Halted"}})).await;
    cloud.vm("other", "1Gi", &[]).await;
    let why = until_scheduled(&cloud, "other", "Unschedulable").await;
    assert_eq!(why.message, "0/1 hosts fit: 1 lacks memory (need 1Gi, most free 0)", "its room stays its own");
}

#[tokio::test]
async fn room_selectors_and_readiness_decide() {
    let cloud = Cloud::start().await;
    for (name, memory) in [("a", "2Gi"), ("b", "1Gi"), ("c", "2Gi"), ("d", "64Gi"), ("e", "64Gi")] {
        cloud.host(name, 8, memory).await;
        if name != "e" {
            patch(&cloud.hosts(), name, json!({"metadata": {"labels": {"zone": "a"}}})).await;
        }
    }
    set_status(&cloud.hosts(), "d", json!({"conditions": [ready(false)]})).await;
    let _controllers = cloud.controllers().await;
    let mut spec = vm_spec("4Gi", &[]);
    spec["hostSelector"] = json!({"zone": "a"});
    create(&cloud.vms(), "web", spec).await;
    let why = until_scheduled(&cloud, "web", "Unschedulable").await;
    assert_eq!(
        why.message,
        "0/5 hosts fit: 3 lack memory (need 4Gi, most free 2Gi), 1 is not Ready, 1 lacks the label zone=a"
    );
    // a change that gives it no room still brings the message up to date
    patch(&cloud.hosts(), "d", json!({"spec": {"unschedulable": true}})).await;
    set_status(&cloud.hosts(), "d", json!({"conditions": [ready(true)]})).await;
    let words = |vm: &VM| {
        let conditions = &vm.status.as_ref().unwrap().conditions;
        conditions.iter().any(|condition| condition.message.contains("1 is unschedulable"))
    };
    until(&cloud.vms(), "web", "it says that d is unschedulable", words).await;
    patch(&cloud.hosts(), "d", json!({"spec": {"unschedulable": false}})).await;
    assert_eq!(until_bound(&cloud, "web").await, "d");
}

/// Pattern 7: every reply to a binding is lost. No VM is bound twice, and no host gets more than it has room for.
#[tokio::test]
async fn lost_replies_neither_bind_twice_nor_overfill() {
    let cloud = Cloud::start().await;
    for host in ["h1", "h2"] {
        cloud.host(host, 3, "64Gi").await;
    }
    for n in 0..8 {
        cloud.vm(&format!("vm{n}"), "1Gi", &[]).await;
    }
    let lossy = |asked: &Asked| if asked.path.contains("/binding") { Fate::LoseReply } else { Fate::Pass };
    let _controllers = Controllers::start(line(cloud.client().await, lossy), alone());
    let mut bound = Vec::new();
    crate::support::eventually("6 VMs are bound and 2 say why not", async || {
        let vms = cloud.vms().list(&ListParams::default()).await.unwrap().items;
        let waiting = vms
            .iter()
            .filter(|vm| vm.status.as_ref().is_some_and(|s| s.conditions.iter().any(|c| c.reason == "Unschedulable")));
        let waiting = waiting.filter(|vm| host_of(vm).is_none()).count();
        bound = vms.into_iter().filter(|vm| host_of(vm).is_some()).collect();
        bound.len() == 6 && waiting == 2
    })
    .await;
    let mut per_host = BTreeMap::<String, usize>::new();
    for vm in &bound {
        *per_host.entry(host_of(vm).unwrap()).or_default() += 1;
        assert_eq!(vm.status.as_ref().unwrap().binding.as_ref().unwrap().epoch, 1, "{}", vm.name_any());
    }
    assert_eq!(per_host, BTreeMap::from([("h1".into(), 3), ("h2".into(), 3)]));
}

/// Pattern 7: a binding of which nobody knows whether it was carried out keeps its room until somebody does.
#[tokio::test]
async fn a_binding_in_doubt_keeps_its_room() {
    let cloud = Cloud::start().await;
    cloud.host("h1", 1, "64Gi").await;
    let (arrive, first) = (CancellationToken::new(), AtomicBool::new(true));
    let late = arrive.clone();
    let doubtful = move |asked: &Asked| match asked.path.contains("/vms/first/binding") {
        true if first.swap(false, Ordering::SeqCst) => Fate::Late(late.clone()),
        true => Fate::LoseRequest,
        false => Fate::Pass,
    };
    let _controllers = Controllers::start(line(cloud.client().await, doubtful), alone());
    cloud.vm("first", "1Gi", &[]).await;
    let doubt = until_scheduled(&cloud, "first", "ReconcileFailed").await;
    assert!(doubt.message.starts_with("cannot bind VM default/first to host h1"), "{}", doubt.message);
    cloud.vm("second", "1Gi", &[]).await;
    let why = until_scheduled(&cloud, "second", "Unschedulable").await;
    assert_eq!(why.message, "0/1 hosts fit: 1 lacks CPUs (need 1, most free 0)");
    arrive.cancel();
}

/// Binds are parallel: hundreds of VMs take seconds, and the load is even.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_vms_spread_evenly() {
    const HOSTS: usize = 20;
    const VMS: usize = 400;
    let cloud = Cloud::start().await;
    for n in 0..HOSTS {
        cloud.host(&format!("h{n:02}"), 64, "128Gi").await;
    }
    let vms: Api<VM> = cloud.vms();
    futures::stream::iter(0..VMS)
        .map(Ok::<_, std::convert::Infallible>)
        .try_for_each_concurrent(16, async |n| {
            create(&vms, &format!("vm{n}"), vm_spec("1Gi", &[])).await;
            Ok(())
        })
        .await
        .unwrap();
    let start = Instant::now();
    let _controllers = cloud.controllers().await;
    let mut per_host = BTreeMap::<String, usize>::new();
    crate::support::eventually("all VMs are bound", async || {
        per_host.clear();
        for vm in vms.list(&ListParams::default()).await.unwrap() {
            if let Some(host) = host_of(&vm) {
                *per_host.entry(host).or_default() += 1;
            }
        }
        per_host.values().sum::<usize>() == VMS
    })
    .await;
    assert!(per_host.values().all(|count| *count == VMS / HOSTS), "{per_host:?}");
    eprintln!("{VMS} VMs bound to {HOSTS} hosts in {:?}", start.elapsed());
}
