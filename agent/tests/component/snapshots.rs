//! Snapshots: all disks of a VM at one moment, whatever happens between any two steps, and nothing left behind.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use kube::{Api, ResourceExt as _, api::DeleteParams};
use serde_json::{Value, json};
use ucloud_agent_core::block_store::DiskId;
use ucloud_agent_sim::{Effect, Fault, Method, SimHost, When};
use ucloud_types::{
    Image, Snapshot, StoragePool, Volume, condition,
    host::HostRole,
    snapshot::{Consistency, SnapshotPhase},
    vm::VMPhase,
};

use crate::world::{Running, World, effect, eventually, timing, uid};

pub fn snapshots(world: &World) -> Api<Snapshot> {
    world.namespaced()
}

pub async fn with_host(world: &World) -> (Arc<SimHost>, Running) {
    let host = world.host("h1");
    let agent = world.agent(&host).await;
    (host, agent)
}

/// The pool `shared`, of which the simulated host takes snapshots without copying.
async fn shared_pool(world: &World) {
    world.make::<StoragePool>(&world.cluster(), "shared", json!({"rbd": {"pool": "vms"}})).await;
}

pub async fn make(world: &World, name: &str, spec: Value) -> Snapshot {
    world.make(&snapshots(world), name, spec).await
}

fn is_ready(snapshot: &Snapshot) -> bool {
    snapshot.status.as_ref().is_some_and(|status| status.phase == Some(SnapshotPhase::Ready))
}

pub async fn until_ready(world: &World, name: &str) -> Snapshot {
    world.wait_for(&snapshots(world), name, "the snapshot to be ready", is_ready).await
}

/// The moments that the images of this snapshot show.
async fn moments(world: &World, host: &SimHost, snapshot: &Snapshot) -> BTreeSet<u64> {
    let images: Api<Image> = world.namespaced();
    let mut moments = BTreeSet::new();
    for disk in &snapshot.status.as_ref().unwrap().disks {
        let image = images.get(&disk.image).await.unwrap();
        moments.insert(host.moments()[&image.uid().unwrap()]);
    }
    moments
}

/// A VM with a disk in a directory, a volume in a directory, and one in a pool that hosts share.
pub async fn with_three_disks(world: &World, host: &SimHost) {
    shared_pool(world).await;
    let volumes: Api<Volume> = world.namespaced();
    world.make(&volumes, "data", json!({"size": "1Gi"})).await;
    world.make(&volumes, "far", json!({"size": "1Gi", "pool": "shared"})).await;
    let disks = json!([{"name": "root", "image": "alpine"}, {"name": "data", "volume": "data"}, {"name": "far", "volume": "far"}]);
    world.bound_vm("web", host, json!({"disks": disks})).await;
    world.wait_running("web").await;
    let all = |vm: &ucloud_types::VM| vm.status.as_ref().is_some_and(|status| status.disks.len() == 3);
    world.wait_vm("web", "its disks", all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_disks_of_a_vm_are_taken_at_one_moment_while_it_runs() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    with_three_disks(&world, &host).await;
    make(&world, "kept", json!({"vm": "web"})).await;
    let kept = until_ready(&world, "kept").await;
    let status = kept.status.as_ref().unwrap();
    assert_eq!((status.consistency, status.host.as_deref()), (Some(Consistency::Filesystems), Some("h1")));
    assert!(status.taken_at.is_some());
    let names: Vec<_> = status.disks.iter().map(|disk| disk.image.as_str()).collect();
    assert_eq!(names, ["kept-root", "kept-data", "kept-far"]);
    assert_eq!(moments(&world, &host, &kept).await.len(), 1);
    assert_eq!((effect(&host, "snapshot"), effect(&host, "start"), effect(&host, "stop")), (3, 1, 0));

    // Another VM is made of it
    let disks = json!([{"name": "root", "image": "kept-root"}]);
    let second = world.bound_vm("second", &host, json!({"disks": disks})).await;
    world.wait_running("second").await;

    // What is made of it keeps its image, and everything else goes with it
    snapshots(&world).delete("kept", &DeleteParams::default()).await.unwrap();
    world.wait_deleted(&snapshots(&world), &kept).await;
    eventually("two images to go", || effect(&host, "remove image") == 2).await;
    world.delete("second").await;
    world.wait_gone(&second).await;
    eventually("the last image to go", || effect(&host, "remove image") == 3).await;
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_is_off_is_not_started_while_it_is_taken() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    world.respecify("web", json!({"runStrategy": "Halted"})).await;
    world.wait_phase("web", VMPhase::Stopped).await;
    host.inject(Fault { method: Method::Snapshot, when: When::Nth(1), effect: Effect::Delay(Duration::from_secs(2)) });
    make(&world, "kept", json!({"vm": "web"})).await;
    eventually("it to be taken", || host.calls(Method::Snapshot) == 1).await;
    world.respecify("web", json!({"runStrategy": "Always"})).await;
    world.wait_reason("web", "SnapshotBeingTaken").await;
    assert_eq!(effect(&host, "start"), 1);
    let kept = until_ready(&world, "kept").await;
    assert_eq!(moments(&world, &host, &kept).await, BTreeSet::from([0]));
    world.wait_running("web").await;
    assert!(host.domain_of(&uid(&vm)).is_some());
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_taken_with_and_without_a_vm() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    let volumes: Api<Volume> = world.namespaced();
    let data = world.make(&volumes, "data", json!({"size": "1Gi"})).await;
    make(&world, "early", json!({"volume": "data"})).await;
    let waits = |snapshot: &Snapshot| {
        let status = snapshot.status.clone().unwrap_or_default();
        condition::get(&status.conditions, condition::READY).is_some_and(|ready| ready.reason == "NoDisks")
    };
    world.wait_for(&snapshots(&world), "early", "it to wait for the volume", waits).await;
    let disks = |names: &[&str]| {
        let mut disks = vec![json!({"name": "root", "image": "alpine"})];
        disks.extend(names.iter().map(|name| json!({"name": name, "volume": name})));
        json!({"disks": disks})
    };
    world.bound_vm("web", &host, disks(&["data"])).await;
    world.wait_running("web").await;
    until_ready(&world, "early").await;
    world.respecify("web", disks(&[])).await;
    let is_free = |volume: &Volume| volume.status.as_ref().is_some_and(|status| status.attachment.is_none());
    world.wait_for(&volumes, "data", "nobody to have it", is_free).await;
    make(&world, "late", json!({"volume": "data"})).await;
    let late = until_ready(&world, "late").await;
    assert_eq!(moments(&world, &host, &late).await, BTreeSet::from([0]), "nobody has it open");

    let copy = json!({"size": "2Gi", "source": {"image": "late-volume"}});
    world.make(&volumes, "copy", copy).await;
    world.respecify("web", disks(&["copy"])).await;
    let made = |volume: &Volume| volume.status.as_ref().is_some_and(|status| status.size.is_some());
    world.wait_for(&volumes, "copy", "it to be made", made).await;
    volumes.delete("data", &DeleteParams::default()).await.unwrap();
    world.wait_deleted(&volumes, &data).await;
    assert_eq!(host.violations(), [""; 0]);
}

/// A volume is copied while a VM writes to it; what was needed for that is gone afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_a_copy_of_another() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    with_three_disks(&world, &host).await;
    let volumes: Api<Volume> = world.namespaced();
    let copy = world.make(&volumes, "copy", json!({"size": "2Gi", "source": {"volume": "data"}})).await;
    let taken = until_ready(&world, "copy-source").await;
    assert_eq!(moments(&world, &host, &taken).await.len(), 1);
    let image = world.namespaced::<Image>().get("copy-source-volume").await.unwrap();
    let disks = json!([{"name": "root", "image": "alpine"}, {"name": "copy", "volume": "copy"}]);
    world.bound_vm("second", &host, json!({ "disks": disks })).await;
    world.wait_running("second").await;
    let disk = DiskId::of_volume(copy.uid().unwrap());
    let expected = host.made_of(&disk);
    assert!(expected.is_some());
    world.wait_deleted(&snapshots(&world), &taken).await;
    world.wait_deleted(&world.namespaced::<Image>(), &image).await;
    eventually("all images to go but alpine", || host.contents()[2] == 1).await;

    world.respecify("second", json!({"disks": [{"name": "root", "image": "alpine"}]})).await;
    let is_free = |volume: &Volume| volume.status.as_ref().is_some_and(|status| status.attachment.is_none());
    world.wait_for(&volumes, "copy", "nobody to have it", is_free).await;
    world.respecify("second", json!({ "disks": disks })).await;
    let is_taken = |volume: &Volume| volume.status.as_ref().is_some_and(|status| status.attachment.is_some());
    world.wait_for(&volumes, "copy", "the VM to have it again", is_taken).await;
    assert_eq!(host.made_of(&disk), expected, "it is not made twice");
    assert_eq!((effect(&host, "snapshot"), host.violations().len()), (1, 0));
}

/// Whoever made a snapshot of that name keeps it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_nobodys_snapshot() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    with_three_disks(&world, &host).await;
    make(&world, "copy-source", json!({"volume": "far"})).await;
    until_ready(&world, "copy-source").await;
    let volumes: Api<Volume> = world.namespaced();
    let copy = world.make(&volumes, "copy", json!({"size": "2Gi", "source": {"volume": "data"}})).await;
    let refuses = |volume: &Volume| {
        let status = volume.status.clone().unwrap_or_default();
        condition::get(&status.conditions, condition::READY).is_some_and(|ready| ready.reason == "SnapshotExists")
    };
    world.wait_for(&volumes, "copy", "it to say so", refuses).await;
    volumes.delete("copy", &DeleteParams::default()).await.unwrap();
    world.wait_deleted(&volumes, &copy).await;
    until_ready(&world, "copy-source").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_is_not_taken() {
    let world = World::start().await;
    let (host, _agent) = with_host(&world).await;
    let refuse = Effect::Refuse { reason: "Broken", terminal: false };
    host.inject(Fault { method: Method::StandStill, when: When::Always, effect: refuse });
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    let kept = make(&world, "kept", json!({"vm": "web"})).await;
    let says = |reason: &'static str| {
        move |snapshot: &Snapshot| {
            let status = snapshot.status.clone().unwrap_or_default();
            condition::get(&status.conditions, condition::READY).is_some_and(|ready| ready.reason == reason)
        }
    };
    world.wait_for(&snapshots(&world), "kept", "it to say that it fails", says("NotTaken")).await;
    world.delete("web").await;
    world.wait_gone(&vm).await;
    let failed = world.wait_for(&snapshots(&world), "kept", "it to fail for good", says("SourceGone")).await;
    assert_eq!(failed.status.unwrap().phase, Some(SnapshotPhase::Failed));
    snapshots(&world).delete("kept", &DeleteParams::default()).await.unwrap();
    world.wait_deleted(&snapshots(&world), &kept).await;
    assert_eq!((effect(&host, "snapshot"), host.moments().len()), (0, 0));
    assert_eq!(host.contents()[1..3], [0, 1], "no disk, and no image but alpine");
}

/// How many lives are lived at once.
pub const AT_ONCE: usize = 4;
/// Every call that taking makes.
const CALLS: [Method; 8] = [
    Method::CopyTarget,
    Method::StandStill,
    Method::BeginCopy,
    Method::Snapshot,
    Method::Resume,
    Method::Copying,
    Method::KeepCopy,
    Method::RemoveImage,
];

/// A VM with three disks that runs, and a snapshot of it, `kept`, which is being taken.
struct Life {
    world: World,
    host: Arc<SimHost>,
    agent: Running,
    kept: Snapshot,
}

impl Life {
    /// One in which the first call of a method meets this fault.
    async fn with_fault(method: Method, effect: Effect) -> Self {
        let world = World::start().await;
        let (host, agent) = with_host(&world).await;
        with_three_disks(&world, &host).await;
        host.inject(Fault { method, when: When::Nth(1), effect });
        let kept = make(&world, "kept", json!({"vm": "web"})).await;
        Self { world, host, agent, kept }
    }

    /// One in which the first call of a method never ends: that is where it is.
    async fn hanging_at(method: Method) -> Self {
        let life = Self::with_fault(method, Effect::Hang).await;
        let mut hanging = life.host.hanging();
        let hangs = tokio::time::timeout(Duration::from_secs(30), hanging.wait_for(|calls| *calls > 0)).await;
        hangs.expect("it comes there").unwrap();
        life
    }

    /// The agent is killed, and another one begins.
    async fn restarted(self) -> Self {
        self.agent.kill().await;
        let agent = self.world.agent(&self.host).await;
        Self { agent, ..self }
    }

    /// The snapshot is taken, and shows one moment.
    async fn is_taken(&self, case: &str) {
        let kept = until_ready(&self.world, "kept").await;
        let shown = moments(&self.world, &self.host, &kept).await;
        assert_eq!(shown.len(), 1, "{case}: {:?} {:?}", self.host.moments(), self.host.effects());
    }

    /// The guest goes on.
    async fn goes_on(&self) {
        let vm = self.world.vms().get("web").await.unwrap();
        eventually("the guest to go on", || !self.host.domain_of(&uid(&vm)).unwrap().spec.standstill).await;
    }

    async fn delete(&self) {
        snapshots(&self.world).delete("kept", &DeleteParams::default()).await.unwrap();
    }

    /// Nothing of the snapshot is left, and nothing happened to the VM.
    async fn leaves_nothing(&self, case: &str) {
        self.world.wait_deleted(&snapshots(&self.world), &self.kept).await;
        eventually("all images to go but alpine", || self.host.contents()[2] == 1).await;
        self.goes_on().await;
        assert_eq!((effect(&self.host, "start"), effect(&self.host, "stop")), (1, 0), "{case}");
        assert_eq!(self.host.violations(), [""; 0], "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_call_is_lost_it_shows_one_moment_and_the_guest_goes_on() {
    let faults = [Effect::LoseReply, Effect::Refuse { reason: "Broken", terminal: false }];
    let cases = CALLS.into_iter().flat_map(|method| faults.clone().map(|fault| (method, fault)));
    futures::stream::iter(cases)
        .for_each_concurrent(AT_ONCE, async |(method, fault)| {
            let case = format!("{method:?} {fault:?}");
            let life = Life::with_fault(method, fault).await;
            life.is_taken(&case).await;
            life.goes_on().await;
            life.delete().await;
            life.leaves_nothing(&case).await;
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_at_any_step_takes_it_anew() {
    futures::stream::iter(CALLS)
        .for_each_concurrent(AT_ONCE, async |method| {
            let life = Life::hanging_at(method).await.restarted().await;
            life.is_taken(&format!("{method:?}")).await;
            life.goes_on().await;
            assert_eq!(life.host.contents()[2], 4, "alpine and three, {method:?}");
            assert_eq!(life.host.violations(), [""; 0], "{method:?}");
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_deleted_while_it_is_taken_leaves_nothing() {
    futures::stream::iter(CALLS)
        .for_each_concurrent(AT_ONCE, async |method| {
            let life = Life::hanging_at(method).await;
            life.delete().await;
            let life = life.restarted().await;
            life.leaves_nothing(&format!("{method:?}")).await;
        })
        .await;
}

/// That it was taken is written, and the agent never hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_costs_no_snapshot() {
    let world = World::start().await;
    let host = world.host("h1");
    let client = world.api.agent(host.name()).await.unwrap();
    let lost = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&lost);
    let line = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (client, lost) = (client.clone(), Arc::clone(&count));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let is_last = String::from_utf8_lossy(&body).contains("takenAt");
            let answer = client.send(http::Request::from_parts(head, body.to_vec().into())).await?;
            if is_last && lost.fetch_add(1, Ordering::SeqCst) == 0 {
                return Err(tower::BoxError::from("the answer was lost"));
            }
            Ok::<_, tower::BoxError>(answer)
        }
    });
    let _agent = World::agent_through(kube::Client::new(line, "default"), &host, &HostRole::ALL, timing());
    with_three_disks(&world, &host).await;
    make(&world, "kept", json!({"vm": "web"})).await;
    let kept = until_ready(&world, "kept").await;
    assert_eq!(moments(&world, &host, &kept).await.len(), 1);
    assert_eq!((lost.load(Ordering::SeqCst), effect(&host, "snapshot")), (1, 3));
    assert_eq!(host.violations(), [""; 0]);
}
