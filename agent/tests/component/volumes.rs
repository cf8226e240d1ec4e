//! Volumes: one VM at a time has them, whatever happens between any two steps.

use std::sync::Arc;

use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use ucloud_agent_sim::{Effect, Fault, Method, SimHost, When};
use ucloud_types::{
    VM, Volume, VolumeStatus,
    condition::{self, Condition},
    vm::VMPhase,
};

use crate::world::{Running, World, effect, eventually, ready_of, uid};

fn volumes(world: &World) -> Api<Volume> {
    world.namespaced()
}

async fn make(world: &World, name: &str, spec: Value) -> Volume {
    world.make(&volumes(world), name, spec).await
}

/// A disk of the VM's own, and these volumes.
fn disks(volumes: &[&str]) -> Value {
    let mut disks = vec![json!({"name": "root", "image": "alpine"})];
    disks.extend(volumes.iter().map(|name| json!({"name": name, "volume": name})));
    json!({"disks": disks})
}

fn status(volume: &Volume) -> VolumeStatus {
    volume.status.clone().unwrap_or_default()
}

fn user(volume: &Volume) -> Option<String> {
    status(volume).attachment.map(|attachment| attachment.vm)
}

async fn until_user(world: &World, volume: &str, vm: Option<&str>) -> Volume {
    let is = |volume: &Volume| user(volume).as_deref() == vm;
    world.wait_for(&volumes(world), volume, &format!("{vm:?} to have it"), is).await
}

fn waits(vm: &VM) -> Option<&Condition> {
    condition::get(&vm.status.as_ref()?.conditions, condition::DISKS_READY)
}

/// The disks that are reported of a VM, once they are those of its spec.
async fn until_disks(world: &World, vm: &str, expected: &[&str]) -> VM {
    let is = |vm: &VM| {
        let status = vm.status.clone().unwrap_or_default();
        let names: Vec<_> = status.disks.iter().map(|disk| disk.name.as_str()).collect();
        names == expected && waits(vm).is_none() && status.observed_generation == vm.metadata.generation
    };
    world.wait_vm(vm, &format!("the disks {expected:?}"), is).await
}

fn domain_has(host: &SimHost, vm: &VM, disk: &str) -> bool {
    host.domain_of(&uid(vm)).is_some_and(|domain| domain.spec.disks.iter().any(|has| has.name == disk))
}

async fn with_host(world: &World) -> (Arc<SimHost>, Running) {
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    (host, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_from_one_vm_to_another_and_grows_on_the_way() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    make(&world, "data", json!({"size": "1Gi"})).await;
    let first = world.bound_vm("first", &host, disks(&["data"])).await;
    world.wait_running("first").await;
    let data = until_user(&world, "data", Some("first")).await;
    assert_eq!((status(&data).size, status(&data).host.as_deref()), ("1Gi".parse().ok(), Some("h1")));
    let reported = until_disks(&world, "first", &["root", "data"]).await.status.unwrap().disks;
    assert_eq!((reported[1].volume.as_deref(), reported[1].pool.as_str()), (Some("data"), "default"));

    // Another one has to wait, and says for whom
    world.bound_vm("second", &host, disks(&["data"])).await;
    let second = world.wait_reason("second", "VolumeInUse").await;
    assert!(ready_of(&second).1.contains("which VM first on host h1 has"), "{}", ready_of(&second).1);

    let grow = json!({"spec": {"size": "2Gi"}});
    volumes(&world).patch("data", &PatchParams::default(), &Patch::Merge(grow)).await.unwrap();
    let grown = |volume: &Volume| status(volume).size == "2Gi".parse().ok();
    world.wait_for(&volumes(&world), "data", "it to grow", grown).await;
    assert_eq!(effect(&host, "grow disk"), 1);

    world.respecify("first", disks(&[])).await;
    until_disks(&world, "first", &["root"]).await;
    world.wait_running("second").await;
    until_user(&world, "data", Some("second")).await;
    assert!(!domain_has(&host, &first, "data"));
    assert_eq!((effect(&host, "start"), effect(&host, "unplug disk"), effect(&host, "make disk")), (2, 1, 3));
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_come_and_go_while_a_vm_runs_and_its_own_disks_grow() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    world.respecify("web", disks(&["later"])).await;
    let missing = |vm: &VM| waits(vm).is_some_and(|found| found.reason == "VolumeNotFound");
    world.wait_vm("web", "VolumeNotFound", missing).await;
    make(&world, "later", json!({"size": "1Gi", "source": {"image": "alpine"}})).await;
    until_disks(&world, "web", &["root", "later"]).await;
    assert!(domain_has(&host, &vm, "later"));
    let larger = json!({"disks": [{"name": "root", "image": "alpine", "size": "3Gi"}]});
    world.respecify("web", larger).await;
    let vm = until_disks(&world, "web", &["root"]).await;
    let larger = |vm: &VM| vm.status.as_ref().unwrap().disks[0].size == "3Gi".parse().unwrap();
    world.wait_vm("web", "the disk to grow", larger).await;
    until_user(&world, "later", None).await;
    assert!(!domain_has(&host, &vm, "later"));
    assert_eq!((effect(&host, "start"), effect(&host, "plug disk"), effect(&host, "grow disk")), (1, 1, 1));
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_stays_a_vms_as_long_as_its_guest_has_it() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    make(&world, "data", json!({"size": "1Gi"})).await;
    world.bound_vm("web", &host, disks(&["data"])).await;
    world.wait_running("web").await;
    host.deafen_guests();
    world.respecify("web", disks(&[])).await;
    let waiting = |vm: &VM| waits(vm).is_some_and(|found| found.reason == "WaitingForGuest");
    let vm = world.wait_vm("web", "WaitingForGuest", waiting).await;
    assert!(waits(&vm).unwrap().message.contains("let go of disk data"), "{}", waits(&vm).unwrap().message);
    let asked = host.calls(Method::UnplugDisk);
    eventually("more questions", || host.calls(Method::UnplugDisk) >= asked + 2).await;
    assert_eq!(user(&volumes(&world).get("data").await.unwrap()).as_deref(), Some("web"));
    host.heal_guests();
    until_user(&world, "data", None).await;
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_volume_when_its_vm_is_deleted_is_its_policy() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    make(&world, "kept", json!({"size": "1Gi"})).await;
    let temporary = make(&world, "temporary", json!({"size": "1Gi", "reclaimPolicy": "Delete"})).await;
    let vm = world.bound_vm("web", &host, disks(&["kept", "temporary"])).await;
    world.wait_running("web").await;
    world.delete("web").await;
    world.wait_gone(&vm).await;
    world.wait_deleted(&volumes(&world), &temporary).await;
    let kept = until_user(&world, "kept", None).await;
    assert_eq!(host.contents()[1], 1, "its disk, and nothing else");
    volumes(&world).delete("kept", &DeleteParams::default()).await.unwrap();
    world.wait_deleted(&volumes(&world), &kept).await;
    assert_eq!(host.contents()[1], 0);
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_a_vm_has_is_deleted_after_the_vm_has_let_go_of_it() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    let data = make(&world, "data", json!({"size": "1Gi"})).await;
    world.bound_vm("web", &host, disks(&["data"])).await;
    world.wait_running("web").await;
    volumes(&world).delete("data", &DeleteParams::default()).await.unwrap();
    let held = |volume: &Volume| {
        let conditions = status(volume).conditions;
        condition::get(&conditions, condition::TERMINATING).is_some_and(|found| found.reason == "Attached")
    };
    world.wait_for(&volumes(&world), "data", "it to say who has it", held).await;
    assert_eq!(host.contents()[1], 2);
    world.respecify("web", disks(&[])).await;
    world.wait_deleted(&volumes(&world), &data).await;
    assert_eq!(host.contents()[1], 1);
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_vms_that_want_the_same_two_volumes_do_not_block_each_other_for_ever() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    for name in ["a", "b"] {
        make(&world, name, json!({"size": "1Gi"})).await;
    }
    let orders = [("first", ["a", "b"]), ("second", ["b", "a"])];
    let mut vms = Vec::new();
    for (name, order) in orders {
        vms.push(world.bound_vm(name, &host, disks(&order)).await);
    }
    let (winner, loser) = tokio::select! {
        _ = world.wait_running("first") => (&vms[0], "second"),
        _ = world.wait_running("second") => (&vms[1], "first"),
    };
    world.wait_reason(loser, "VolumeInUse").await;
    world.delete(&winner.name_any()).await;
    world.wait_running(loser).await;
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_is_lost_there_is_one_disk_with_one_writer() {
    for method in [Method::EnsureDisk, Method::PlugDisk, Method::UnplugDisk, Method::GrowDisk, Method::RemoveDisk] {
        for effect in [Effect::LoseReply, Effect::Refuse { reason: "Broken", terminal: false }] {
            let world = World::start().await;
            let (host, _agent) = with_host(&world).await;
            let data = make(&world, "data", json!({"size": "1Gi"})).await;
            world.bound_vm("web", &host, json!({})).await;
            world.wait_running("web").await;
            host.inject(Fault { method, when: When::Nth(1), effect });
            world.respecify("web", disks(&["data"])).await;
            until_user(&world, "data", Some("web")).await;
            until_disks(&world, "web", &["root", "data"]).await;
            let grow = json!({"spec": {"size": "2Gi"}});
            volumes(&world).patch("data", &PatchParams::default(), &Patch::Merge(grow)).await.unwrap();
            let grown = |volume: &Volume| status(volume).size == "2Gi".parse().ok();
            world.wait_for(&volumes(&world), "data", "it to grow", grown).await;
            world.respecify("web", disks(&[])).await;
            until_user(&world, "data", None).await;
            volumes(&world).delete("data", &DeleteParams::default()).await.unwrap();
            world.wait_deleted(&volumes(&world), &data).await;
            let counts = ["make disk", "plug disk", "grow disk", "unplug disk", "remove disk"];
            let counts: Vec<_> = counts.iter().map(|what| host.effects().get(what).copied().unwrap_or(0)).collect();
            assert_eq!(counts, [2, 1, 1, 1, 1], "{method:?}");
            assert_eq!(host.violations(), [""; 0], "{method:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_at_any_step_goes_on_where_it_was() {
    for method in [Method::EnsureDisk, Method::PlugDisk, Method::UnplugDisk, Method::GrowDisk] {
        let world = World::start().await;
        let (host, agent) = with_host(&world).await;
        make(&world, "data", json!({"size": "1Gi"})).await;
        world.bound_vm("web", &host, json!({})).await;
        world.wait_running("web").await;
        host.inject(Fault { method, when: When::Nth(1), effect: Effect::Hang });
        let mut hanging = host.hanging();
        let _ = hanging.borrow_and_update();
        let kill = async {
            hanging.changed().await.unwrap();
            agent.kill().await;
            world.agent(&host).await
        };
        let life = async {
            world.respecify("web", disks(&["data"])).await;
            until_disks(&world, "web", &["root", "data"]).await;
            let grow = json!({"spec": {"size": "2Gi"}});
            volumes(&world).patch("data", &PatchParams::default(), &Patch::Merge(grow)).await.unwrap();
            let grown = |volume: &Volume| status(volume).size == "2Gi".parse().ok();
            world.wait_for(&volumes(&world), "data", "it to grow", grown).await;
            world.respecify("web", disks(&[])).await;
            until_user(&world, "data", None).await;
        };
        let (_agent, ()) = tokio::join!(kill, life);
        assert_eq!(world.wait_running("web").await.status.unwrap().phase, Some(VMPhase::Running));
        let counts = ["start", "make disk", "plug disk", "grow disk", "unplug disk"];
        let counts: Vec<_> = counts.iter().map(|what| host.effects().get(what).copied().unwrap_or(0)).collect();
        assert_eq!(counts, [1, 2, 1, 1, 1], "{method:?}");
        assert_eq!(host.violations(), [""; 0], "{method:?}");
    }
}

/// Pattern 1: the end of a volume is not the end of the next one of its name.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_is_made_again_under_its_name_keeps_its_own_bytes() {
    let world = World::start().await;
    let (host, agent) = with_host(&world).await;
    let first = make(&world, "data", json!({"size": "1Gi"})).await;
    world.bound_vm("web", &host, disks(&["data"])).await;
    world.wait_running("web").await;
    until_user(&world, "data", Some("web")).await;
    // Its bytes are removed while the agent hears nothing more of it: the next one does it again
    host.inject(Fault { method: Method::RemoveDisk, when: When::Nth(1), effect: Effect::Hang });
    let mut hanging = host.hanging();
    let _ = hanging.borrow_and_update();
    world.respecify("web", disks(&[])).await;
    until_user(&world, "data", None).await;
    volumes(&world).delete("data", &DeleteParams::default()).await.unwrap();
    hanging.changed().await.unwrap();
    agent.kill().await;
    let _agent = world.agent(&host).await;
    world.wait_deleted(&volumes(&world), &first).await;
    let second = make(&world, "data", json!({"size": "1Gi"})).await;
    world.respecify("web", disks(&["data"])).await;
    until_user(&world, "data", Some("web")).await;
    until_disks(&world, "web", &["root", "data"]).await;
    let vm = world.vms().get("web").await.unwrap();
    let domain = host.domain_of(&uid(&vm)).unwrap();
    let has: Vec<_> = domain.spec.disks.iter().filter_map(|disk| disk.volume.clone()).collect();
    assert_eq!(has, [second.uid().unwrap()]);
    assert_eq!((effect(&host, "make disk"), effect(&host, "remove disk"), host.contents()[1]), (3, 1, 2));
    assert_eq!(host.violations(), [""; 0]);
}
