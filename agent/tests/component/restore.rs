//! Restoring a VM in place: all its disks are the snapshot's again, whatever happens between any two steps, and it runs on no
//! others.

use std::sync::Arc;

use futures::StreamExt as _;
use kube::{Api, api::DeleteParams};
use serde_json::json;
use ucloud_agent_core::block_store::DiskId;
use ucloud_agent_sim::{Effect, Fault, Method, SimHost, When};
use ucloud_types::{Image, Snapshot, VM, Volume, condition, vm::VMPhase};

use crate::{
    snapshots::{AT_ONCE, make, snapshots, until_ready, with_host, with_three_disks},
    world::{PATIENCE, Running, World, effect, eventually, uid},
};

/// A VM with three disks that is halted, and a snapshot of it, `kept`.
struct Halted {
    world: World,
    host: Arc<SimHost>,
    agent: Running,
}

fn observed(id: u64) -> impl Fn(&VM) -> bool {
    move |vm| vm.status.as_ref().is_some_and(|status| status.observed_restore == Some(id))
}

impl Halted {
    async fn start() -> Self {
        let world = World::start().await;
        let (host, agent) = with_host(&world).await;
        with_three_disks(&world, &host).await;
        make(&world, "kept", json!({"vm": "web"})).await;
        until_ready(&world, "kept").await;
        let halted = Self { world, host, agent };
        halted.halt().await;
        halted
    }

    async fn halt(&self) {
        let vm = self.world.respecify("web", json!({"runStrategy": "Halted"})).await;
        let stopped = |is: &VM| {
            let status = is.status.clone().unwrap_or_default();
            (status.phase, status.observed_generation) == (Some(VMPhase::Stopped), vm.metadata.generation)
        };
        self.world.wait_vm("web", "it to stop", stopped).await;
    }

    /// The agent is killed, and another one begins.
    async fn restarted(self) -> Self {
        self.agent.kill().await;
        let agent = self.world.agent(&self.host).await;
        Self { agent, ..self }
    }

    /// Each disk is made of the snapshot's image of it, and says so.
    async fn is_restored(&self, case: &str) {
        let vm = self.world.vms().get("web").await.unwrap();
        let root = vm.status.clone().unwrap().disks.into_iter().find(|disk| disk.name == "root").unwrap();
        let volumes: Api<Volume> = self.world.namespaced();
        let mut disks = vec![("kept-root", DiskId { owner_uid: uid(&vm), name: "root".into() }, root.restored)];
        for (name, image) in [("data", "kept-data"), ("far", "kept-far")] {
            let volume = volumes.get(name).await.unwrap();
            let restored = volume.status.and_then(|status| status.restored);
            disks.push((image, DiskId::of_volume(volume.metadata.uid.unwrap()), restored));
        }
        for (image, disk, restored) in disks {
            let image = self.world.namespaced::<Image>().get(image).await.unwrap();
            assert_eq!(restored, image.metadata.uid, "{case}: {disk:?}");
            assert_eq!(self.host.made_of(&disk), image.status.unwrap().sha256, "{case}: {disk:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_gets_back_all_its_disks_and_keeps_them() {
    let halted = Halted::start().await;
    let (world, host) = (&halted.world, &halted.host);
    for id in [1, 2] {
        world.restore("web", "kept").await;
        world.wait_vm("web", "the restore", observed(id)).await;
        halted.is_restored("restored").await;
        world.respecify("web", json!({"runStrategy": "Always"})).await;
        world.wait_running("web").await;
        halted.halt().await;
    }
    let made = effect(host, "make disk");
    let halted = halted.restarted().await;
    let (world, host) = (&halted.world, &halted.host);
    world.respecify("web", json!({"runStrategy": "Always"})).await;
    world.wait_running("web").await;
    halted.is_restored("started again").await;
    assert_eq!(effect(host, "make disk"), made, "what was carried out is not done again");

    // The volume is what it is for other VMs too, and the snapshot may go
    snapshots(world).delete("kept", &DeleteParams::default()).await.unwrap();
    world.respecify("web", json!({"disks": [{"name": "root", "image": "alpine"}]})).await;
    let disks = json!([{"name": "root", "image": "alpine"}, {"name": "data", "volume": "data"}]);
    world.bound_vm("other", host, json!({ "disks": disks })).await;
    world.wait_running("other").await;
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_or_is_killed_it_is_restored_before_it_runs() {
    let calls = [Method::Undefine, Method::Image, Method::RemoveDisk, Method::EnsureDisk];
    let faults = [Effect::LoseReply, Effect::Refuse { reason: "Broken", terminal: false }, Effect::Hang];
    let cases = calls.into_iter().flat_map(|method| faults.clone().map(|fault| (method, fault)));
    // The second one: some disks are restored, and some are not
    let cases = cases.flat_map(|(method, fault)| [1, 2].map(|nth| (method, fault.clone(), nth)));
    // A definition is removed once
    let cases = cases.filter(|(method, _, nth)| (*method, *nth) != (Method::Undefine, 2));
    futures::stream::iter(cases)
        .for_each_concurrent(AT_ONCE, async |(method, fault, nth)| {
            let case = format!("{method:?} {fault:?} {nth}");
            let mut halted = Halted::start().await;
            halted.host.inject(Fault { method, when: When::Nth(nth), effect: fault.clone() });
            let mut hanging = halted.host.hanging();
            let known = *hanging.borrow_and_update();
            halted.world.restore("web", "kept").await;
            halted.world.respecify("web", json!({"runStrategy": "Always"})).await;
            if matches!(fault, Effect::Hang) {
                tokio::time::timeout(PATIENCE, hanging.wait_for(|calls| *calls > known)).await.expect(&case).unwrap();
                assert_eq!(effect(&halted.host, "start"), 1, "{case}");
                halted = halted.restarted().await;
            }
            halted.world.wait_vm("web", "the restore", observed(1)).await;
            halted.world.wait_running("web").await;
            halted.is_restored(&case).await;
            assert!(halted.host.had_its_faults(), "{case}");
            assert_eq!(effect(&halted.host, "start"), 2, "{case}");
            assert_eq!(halted.host.violations(), [""; 0], "{case}");
        })
        .await;
}

/// Nobody knows then whether the bytes that are there may go: they stay, and no guest has them for what they are not.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_vm_is_deleted_meanwhile_waits_for_a_word() {
    let Halted { world, host, agent } = Halted::start().await;
    // The root disk first, and then a volume
    host.inject(Fault { method: Method::RemoveDisk, when: When::Nth(2), effect: Effect::Stall });
    let mut hanging = host.hanging();
    world.restore("web", "kept").await;
    hanging.wait_for(|calls| *calls > 0).await.unwrap();
    agent.kill().await;
    host.heal();
    let vm = world.vms().get("web").await.unwrap();
    world.delete("web").await;
    let _agent = world.agent(&host).await;
    world.wait_gone(&vm).await;

    let image = world.namespaced::<Image>().get("kept-data").await.unwrap();
    let data = world.namespaced::<Volume>().get("data").await.unwrap();
    let disk = DiskId::of_volume(data.metadata.uid.clone().unwrap());
    assert_eq!(data.status.and_then(|status| status.restored), image.metadata.uid, "it was said");
    let (old, made) = (host.made_of(&disk), effect(&host, "make disk"));
    assert_ne!(old, image.status.as_ref().unwrap().sha256, "it was not done");
    let disks = json!([{"name": "root", "image": "alpine"}, {"name": "data", "volume": "data"}]);
    world.bound_vm("other", &host, json!({ "disks": disks })).await;
    world.wait_reason("other", "DiskMismatch").await;
    snapshots(&world).delete("kept", &DeleteParams::default()).await.unwrap();
    world.wait_deleted(&world.namespaced::<Image>(), &image).await;
    world.respecify("other", json!({"runStrategy": "Manual"})).await;
    world.respecify("other", json!({"runStrategy": "Always"})).await;
    world.wait_running("other").await;
    assert_eq!((host.made_of(&disk), effect(&host, "make disk")), (old, made + 1), "the root disk alone is new");
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_images_stay_until_it_is_restored() {
    let halted = Halted::start().await;
    let (world, host) = (&halted.world, &halted.host);
    let refuse = Effect::Refuse { reason: "Broken", terminal: false };
    host.inject(Fault { method: Method::EnsureDisk, when: When::Always, effect: refuse });
    world.restore("web", "kept").await;
    world.wait_reason("web", "Broken").await;
    snapshots(world).delete("kept", &DeleteParams::default()).await.unwrap();
    world.respecify("web", json!({"runStrategy": "Always"})).await;
    let images = world.namespaced::<Image>();
    world.wait_for(&images, "kept-root", "it to be held", |image| image.metadata.deletion_timestamp.is_some()).await;
    host.heal();
    world.wait_vm("web", "the restore", observed(1)).await;
    world.wait_running("web").await;
    // Alpine alone
    eventually("the images to go", || host.contents()[2] == 1).await;
    assert_eq!((effect(host, "start"), host.violations().len()), (2, 0));
}

/// Some of its disks may be the snapshot's, and others not yet.
#[tokio::test(flavor = "multi_thread")]
async fn no_snapshot_is_taken_of_a_vm_that_is_being_restored() {
    let halted = Halted::start().await;
    let (world, host) = (&halted.world, &halted.host);
    let refuse = Effect::Refuse { reason: "Broken", terminal: false };
    host.inject(Fault { method: Method::EnsureDisk, when: When::Always, effect: refuse });
    world.restore("web", "kept").await;
    world.wait_reason("web", "Broken").await;
    make(world, "half", json!({"vm": "web"})).await;
    let waits = |half: &Snapshot| {
        let status = half.status.clone().unwrap_or_default();
        condition::get(&status.conditions, condition::TAKEN).is_some_and(|taken| taken.reason == "Restoring")
    };
    world.wait_for(&snapshots(world), "half", "it to wait", waits).await;
    assert_eq!(effect(host, "snapshot"), 3, "those of `kept`");
    host.heal();
    world.wait_vm("web", "the restore", observed(1)).await;
    until_ready(world, "half").await;
    assert_eq!(
        (effect(host, "snapshot"), host.violations().len()),
        (4, 0),
        "a VM that is halted has given back its volumes"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_the_spec_meanwhile_holds_nothing_up() {
    let halted = Halted::start().await;
    let (world, host) = (&halted.world, &halted.host);
    let refuse = Effect::Refuse { reason: "Broken", terminal: false };
    host.inject(Fault { method: Method::Undefine, when: When::Always, effect: refuse });
    world.restore("web", "kept").await;
    world.wait_reason("web", "Broken").await;
    let (volumes, vm) = (world.namespaced::<Volume>(), world.vms().get("web").await.unwrap());
    let data = DiskId::of_volume(volumes.get("data").await.unwrap().metadata.uid.unwrap());
    let made = host.made_of(&data);
    let spec = json!({"disks": [{"name": "root", "image": "alpine"}], "runStrategy": "Always"});
    world.respecify("web", spec).await;
    host.heal();
    world.wait_vm("web", "the restore", observed(1)).await;
    world.wait_running("web").await;
    let kept = world.namespaced::<Image>().get("kept-root").await.unwrap();
    let root = DiskId { owner_uid: uid(&vm), name: "root".into() };
    assert_eq!((host.made_of(&root), host.made_of(&data)), (kept.status.unwrap().sha256, made));
    assert_eq!(host.violations(), [""; 0]);
}

/// The image may go in the moment in which the restore is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_restored_any_more_is_left_as_it_is() {
    let halted = Halted::start().await;
    let (world, host) = (&halted.world, &halted.host);
    let vm = world.vms().get("web").await.unwrap();
    let root = DiskId { owner_uid: uid(&vm), name: "root".into() };
    let (made, count) = (host.made_of(&root), effect(host, "make disk"));
    let gone = json!({"name": "root", "imageUid": "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11"});
    let request = json!({"id": 1, "snapshot": "kept", "disks": [gone]});
    world.alter("web", |vm| vm["status"]["restoreRequest"] = request).await;
    world.wait_vm("web", "it to be given up", observed(1)).await;
    assert_eq!((host.made_of(&root), effect(host, "make disk")), (made, count));
    world.respecify("web", json!({"runStrategy": "Always"})).await;
    world.wait_running("web").await;
    assert_eq!(host.violations(), [""; 0]);
}
