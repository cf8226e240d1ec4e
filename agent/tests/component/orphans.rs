//! What belongs to no object: it is found, destroyed and adopted, and never what belongs to one.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use ucloud_agent::Timing;
use ucloud_agent_core::{
    BlockStore as _,
    block_store::{Content, DiskId, DiskRequest, ImageRequest, Pool, PoolBackend, RbdPool},
};
use ucloud_agent_sim::{Effect, Fault, Method, SimHost, When};
use ucloud_machinery::storage::Storage as _;
use ucloud_types::{
    Host, Orphan, StoragePool, VM, Volume, condition,
    image::{FileSource, ImageFormat, ImageSource},
    orphan::{HostOrphan, OrphanKind, OrphanPhase},
};

use crate::world::{PATIENCE, Running, World, effect, eventually, ready_of, timing, uid};

fn orphans(world: &World) -> Api<Orphan> {
    world.cluster()
}

/// The Orphan of this kind and UID, once there is one.
async fn orphan(world: &World, kind: OrphanKind, uid: &str) -> Orphan {
    let waiting = async {
        loop {
            let all = orphans(world).list(&ListParams::default()).await.unwrap();
            if let Some(found) = all.into_iter().find(|orphan| orphan.spec.kind == kind && orphan.spec.uid == uid) {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it is listed as an Orphan")
}

async fn order(world: &World, orphan: &Orphan, order: Value) {
    let patch = Patch::Merge(json!({"spec": order}));
    orphans(world).patch(&orphan.name_any(), &PatchParams::default(), &patch).await.unwrap();
}

async fn wait_ready_reason(world: &World, orphan: &Orphan, reason: &str) -> Orphan {
    let is = |orphan: &Orphan| {
        let ready = orphan.status.as_ref().and_then(|status| condition::get(&status.conditions, condition::READY));
        ready.is_some_and(|ready| ready.reason == reason)
    };
    world.wait_for(&orphans(world), &orphan.name_any(), reason, is).await
}

/// An agent that looks often.
async fn quick(world: &World, host: &Arc<SimHost>) -> Running {
    world.agent_with(host, Timing { survey: Duration::from_millis(200), ..timing() }).await
}

/// A VM that ran and was taken away by force while the agent was away.
async fn lost(world: &World, host: &Arc<SimHost>) -> (VM, Running) {
    let agent = quick(world, host).await;
    let vm = world.bound_vm("web", host, json!({})).await;
    world.wait_running("web").await;
    agent.kill().await;
    world.delete("web").await;
    let force = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.vms().patch("web", &PatchParams::default(), &force).await.unwrap();
    world.wait_gone(&vm).await;
    (vm, quick(world, host).await)
}

/// The fault happens; if the call is never answered, the agent is killed then and another one comes.
async fn suffer(world: &World, host: &Arc<SimHost>, agent: Running, effect: &Effect) -> Running {
    if matches!(effect, Effect::Hang | Effect::Stall) {
        let mut hanging = host.hanging();
        hanging.wait_for(|hanging| *hanging > 0).await.unwrap();
        agent.kill().await;
        host.heal();
        return quick(world, host).await;
    }
    agent
}

const FATES: [Effect; 3] = [Effect::Hang, Effect::Stall, Effect::LoseReply];

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_nobody_is_listed_and_goes_when_somebody_says_so() {
    let world = World::start().await;
    let host = world.host("h1");
    let (vm, _agent) = lost(&world, &host).await;
    let domain = orphan(&world, OrphanKind::Domain, &uid(&vm)).await;
    let disk = orphan(&world, OrphanKind::Disk, &uid(&vm)).await;
    let told = wait_ready_reason(&world, &disk, "Found").await.status.unwrap();
    assert_eq!((told.origin.as_deref(), told.size), (Some("default/web"), "1Gi".parse().ok()));
    assert_eq!((told.phase, told.destroy_at.is_none()), (Some(OrphanPhase::Found), true));
    let told = wait_ready_reason(&world, &domain, "Found").await.status.unwrap();
    assert_eq!((told.host.as_deref(), told.size), (Some("h1"), "64Mi".parse().ok()));

    // A disk is not taken from under a domain
    order(&world, &disk, json!({"destroy": true})).await;
    let held = wait_ready_reason(&world, &disk, "DestructionFailed").await.status.unwrap();
    let message = &condition::get(&held.conditions, condition::READY).unwrap().message;
    assert!(message.contains("default/web runs and has it: destroy that first"), "{message}");
    assert_eq!(host.contents()[..2], [1, 1]);

    order(&world, &domain, json!({"destroy": true})).await;
    world.wait_deleted(&orphans(&world), &domain).await;
    world.wait_deleted(&orphans(&world), &disk).await;
    assert_eq!(host.contents()[..2], [0, 0]);
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_agent_dies_it_is_destroyed_once() {
    let steps = [Method::Destroy, Method::Undefine, Method::RemoveDisk];
    join_all(steps.into_iter().flat_map(|step| FATES.map(|fate| destroyed_once(step, fate)))).await;
}

async fn destroyed_once(step: Method, fate: Effect) {
    let world = World::start().await;
    let host = world.host("h1");
    let (vm, agent) = lost(&world, &host).await;
    let domain = orphan(&world, OrphanKind::Domain, &uid(&vm)).await;
    let disk = orphan(&world, OrphanKind::Disk, &uid(&vm)).await;
    host.inject(Fault { method: step, when: When::Nth(1), effect: fate.clone() });
    order(&world, &domain, json!({"destroy": true})).await;
    if step == Method::RemoveDisk {
        world.wait_deleted(&orphans(&world), &domain).await;
        order(&world, &disk, json!({"destroy": true})).await;
    }
    let _agent = suffer(&world, &host, agent, &fate).await;
    world.wait_deleted(&orphans(&world), &domain).await;
    if step != Method::RemoveDisk {
        order(&world, &disk, json!({"destroy": true})).await;
    }
    world.wait_deleted(&orphans(&world), &disk).await;
    assert_eq!(host.contents()[..2], [0, 0], "{step:?} {fate:?}");
    assert_eq!((effect(&host, "stop"), effect(&host, "remove disk")), (1, 1), "{step:?} {fate:?}");
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_life_after_the_order_is_not_destroyed() {
    let world = World::start().await;
    let host = world.host("h1");
    let agent = quick(&world, &host).await;
    let vm = world.bound_vm("web", &host, json!({})).await;
    world.wait_running("web").await;
    let storage = world.api.storage();
    let stored = storage.list("").await.unwrap().values;
    let stored = stored.into_iter().find(|value| value.key.ends_with("/vms/default/web")).unwrap();
    agent.kill().await;
    world.delete("web").await;
    let force = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    world.vms().patch("web", &PatchParams::default(), &force).await.unwrap();
    world.wait_gone(&vm).await;
    let agent = quick(&world, &host).await;
    let (domain, disk) =
        (orphan(&world, OrphanKind::Domain, &uid(&vm)).await, orphan(&world, OrphanKind::Disk, &uid(&vm)).await);
    agent.kill().await;
    for orphan in [&domain, &disk] {
        order(&world, orphan, json!({"destroy": true})).await;
        wait_ready_reason(&world, orphan, "Destroying").await;
    }
    // The order is given, nobody is there who could take it back, and etcd gets an older state back
    world.stop_controllers();
    storage.create(&stored.key, stored.value.clone(), None, &[]).await.unwrap();
    let _agent = quick(&world, &host).await;
    world.wait_running("web").await;
    let surveys = host.calls(Method::Usage);
    eventually("two more surveys", || host.calls(Method::Usage) >= surveys + 2).await;
    assert!(orphans(&world).get_opt(&disk.name_any()).await.unwrap().is_some(), "the order stands");
    assert_eq!(host.contents()[..2], [1, 1]);
    assert_eq!((effect(&host, "stop"), effect(&host, "remove disk")), (0, 0));

    let refused = orphans(&world)
        .patch(
            &disk.name_any(),
            &PatchParams::default(),
            &Patch::Merge(json!({"spec": {"destroy": false, "adopt": {"namespace": "default", "volume": "data"}}})),
        )
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("it belongs to VM default/web, which is there"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_the_agent_dies_a_disk_becomes_one_volume() {
    let fates = [Effect::Delay(Duration::ZERO)].into_iter().chain(FATES);
    join_all(fates.map(adopted_once)).await;
}

async fn adopted_once(fate: Effect) {
    let world = World::start().await;
    let host = world.host("h1");
    let (vm, agent) = lost(&world, &host).await;
    let domain = orphan(&world, OrphanKind::Domain, &uid(&vm)).await;
    let disk = orphan(&world, OrphanKind::Disk, &uid(&vm)).await;
    order(&world, &domain, json!({"destroy": true})).await;
    world.wait_deleted(&orphans(&world), &domain).await;

    host.inject(Fault { method: Method::RenameDisk, when: When::Nth(1), effect: fate.clone() });
    let volumes = world.namespaced::<Volume>();
    let spec = json!({"size": "1Gi", "source": {"orphan": disk.name_any()}});
    world.make::<Volume>(&volumes, "rescued", spec).await;
    // a VM that comes early neither makes the disk nor finds another
    let early = json!({"disks": [{"name": "root", "image": "alpine"}, {"name": "data", "volume": "rescued"}]});
    world.bound_vm("next", &host, early).await;
    world.wait_vm("next", "it waits", |vm| ready_of(vm).1.contains("has yet to be made of Orphan")).await;
    order(&world, &disk, json!({"adopt": {"namespace": "default", "volume": "rescued"}})).await;
    let _agent = suffer(&world, &host, agent, &fate).await;
    let made = world
        .wait_for(&volumes, "rescued", "it is made", |volume: &Volume| {
            volume.status.as_ref().is_some_and(|status| status.size.is_some())
        })
        .await;
    assert_eq!(made.status.unwrap().host.as_deref(), Some("h1"));
    world.wait_deleted(&orphans(&world), &disk).await;
    world.wait_running("next").await;
    assert_eq!((effect(&host, "rename disk"), effect(&host, "make disk")), (1, 2), "{fate:?}");
    assert_eq!((host.contents()[..2].to_vec(), effect(&host, "remove disk")), (vec![1, 2], 0), "{fate:?}");
    assert_eq!(host.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_pool_that_all_hosts_share_one_looks_and_knows_whose_the_disks_are() {
    let world = World::start().await;
    world.make::<StoragePool>(&world.cluster(), "ceph", json!({"rbd": {"pool": "vms"}})).await;
    let host = world.host("h1");
    let backend = RbdPool { pool: "vms".into(), user: "ucloud".into(), conf: "/etc/ceph/ceph.conf".into() };
    let pool = Pool { name: "ceph".into(), backend: PoolBackend::Rbd(backend) };
    // The disk of a VM of another host, of which this one knows nothing, and one of nobody
    let theirs = world.vm("theirs", json!({})).await;
    for owner in [uid(&theirs), "nobody".to_owned()] {
        let id = DiskId { owner_uid: owner, name: "root".into() };
        let request = DiskRequest { id, pool: pool.clone(), content: Content::Empty, size: "1Gi".parse().ok() };
        host.ensure_disk(&request).await.unwrap();
    }
    let _agent = quick(&world, &host).await;
    let found = orphan(&world, OrphanKind::Disk, "nobody").await;
    assert_eq!((found.spec.host.as_deref(), found.spec.pool.as_deref()), (None, Some("ceph")));
    let surveyed = |pool: &StoragePool| pool.status.as_ref().is_some_and(|s| s.surveyor.as_deref() == Some("h1"));
    world.wait_for(&world.cluster::<StoragePool>(), "ceph", "it has a surveyor", surveyed).await;
    order(&world, &found, json!({"destroy": true})).await;
    world.wait_deleted(&orphans(&world), &found).await;
    assert_eq!(orphans(&world).list(&ListParams::default()).await.unwrap().items.len(), 0);
    assert_eq!((host.contents()[1], effect(&host, "remove disk")), (1, 1), "the other's is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_an_unknown_image_is_not_thrown_away() {
    let world = World::start().await;
    let host = world.host("h1");
    let pool = Pool { name: "default".into(), backend: PoolBackend::Directory { path: "/pool".into() } };
    let request = ImageRequest {
        uid: "unknown".into(),
        namespace: "default".into(),
        name: "gone".into(),
        pool,
        source: ImageSource { file: Some(FileSource { name: "gone.qcow2".into() }), ..ImageSource::default() },
        format: ImageFormat::Qcow2,
        compression: None,
        checksum: None,
    };
    host.import_image(&request, &tokio::sync::watch::channel(0).0).await.unwrap();
    let _agent = quick(&world, &host).await;
    let copy = orphan(&world, OrphanKind::Image, "unknown").await;
    assert_eq!(wait_ready_reason(&world, &copy, "Found").await.status.unwrap().size, "1Gi".parse().ok());
    assert_eq!(effect(&host, "remove image"), 0);
    order(&world, &copy, json!({"destroy": true})).await;
    world.wait_deleted(&orphans(&world), &copy).await;
    let without = |host: &Host| host.status.iter().flat_map(|s| &s.images).all(|image| image.uid != "unknown");
    world.wait_for::<Host>(&world.cluster(), "h1", "nothing of it is reported", without).await;
    assert_eq!(effect(&host, "remove image"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_neither_listed_nor_forgotten() {
    let world = World::start().await;
    let host = world.host("h1");
    let (vm, _agent) = lost(&world, &host).await;
    let disk = orphan(&world, OrphanKind::Disk, &uid(&vm)).await;
    let broken = Effect::Refuse { reason: "PoolUnavailable", terminal: false };
    host.inject(Fault { method: Method::Disks, when: When::Always, effect: broken });
    let surveys = host.calls(Method::Usage);
    eventually("two more surveys", || host.calls(Method::Usage) >= surveys + 2).await;
    let reported = |host: Host| host.status.unwrap().orphans;
    let kept: Vec<HostOrphan> = reported(world.cluster::<Host>().get("h1").await.unwrap());
    assert!(kept.iter().any(|found| disk.spec.is(found)), "{kept:?}");
    assert_eq!(orphans(&world).get(&disk.name_any()).await.unwrap().uid(), disk.uid(), "it is the same");
}
