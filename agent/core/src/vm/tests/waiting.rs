//! What a VM waits for before it is started.

use ucloud_types::{Image, Network, StoragePool, Volume, image::Sha256};

use super::*;
use crate::{block_store::StoredImage, image::LocalImage, reason};

fn network() -> Network {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Network",
        "metadata": {"name": "lan", "namespace": "default", "uid": "net-uid"},
        "spec": {}, "status": {"vni": 100, "prefix": "fd00::/64", "gateway": "fd00::1", "router": "host-1"}
    }))
    .unwrap()
}

fn sha() -> Sha256 {
    Sha256::from([7; 32])
}

fn image() -> Image {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
        "metadata": {"name": "alpine", "namespace": "default", "uid": "image-uid"},
        "spec": {"source": {"file": {"name": "alpine.qcow2"}}, "format": "qcow2"},
        "status": {"sha256": sha()}
    }))
    .unwrap()
}

fn pool() -> StoragePool {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool",
        "metadata": {"name": "default", "uid": "pool-uid"}, "spec": {"directory": {"path": "/pool"}}
    }))
    .unwrap()
}

fn stored() -> LocalImage {
    LocalImage::Ready(StoredImage { sha256: sha(), virtual_size: "1Gi".parse().unwrap() })
}

/// The first blocker, for a VM all of whose needs are met but for what `change` takes away.
fn blocker(change: impl FnOnce(&mut World)) -> Option<Blocker> {
    let mut world = World {
        network: Some(network()),
        wants_volume: false,
        volume: None,
        image: Some(image()),
        pool: Some(pool()),
        local: stored(),
        exists: false,
    };
    change(&mut world);
    let mut vm = vm(RunStrategy::Always);
    if world.wants_volume {
        (vm.spec.disks[0].image, vm.spec.disks[0].volume) = (None, Some("data".into()));
    }
    let disk = DiskInput {
        exists: world.exists,
        volume: world.volume.as_ref(),
        pool: world.pool.as_ref(),
        image: world.image.as_ref(),
        local: &world.local,
    };
    let desired = desired(&vm);
    let networks = network_blockers(&desired, &[world.network.as_ref()]);
    networks.into_iter().chain(disk_blockers(&desired, &[disk])).flatten().next()
}

type Change = Box<dyn FnOnce(&mut World)>;

struct World {
    network: Option<Network>,
    /// Whether the disk is to be a Volume.
    wants_volume: bool,
    volume: Option<Volume>,
    image: Option<Image>,
    pool: Option<StoragePool>,
    local: LocalImage,
    exists: bool,
}

#[test]
fn what_is_missing_is_named() {
    assert_eq!(blocker(|_| {}), None);
    let now = || Some(ucloud_types::condition::Time(at(0)));
    let failed = LocalImage::Failed { reason: "ChecksumMismatch", message: "it differs".into() };
    let cases: [(Change, &str, &str); 11] = [
        (Box::new(|w| w.network = None), reason::NETWORK_NOT_FOUND, "Network default/lan does not exist: create it"),
        (
            Box::new(|w| w.network.as_mut().unwrap().status = None),
            reason::NETWORK_NOT_READY,
            "Network default/lan is not ready",
        ),
        (
            Box::new(move |w| w.network.as_mut().unwrap().metadata.deletion_timestamp = now()),
            reason::NETWORK_NOT_READY,
            "is being deleted",
        ),
        (Box::new(|w| w.pool = None), reason::STORAGE_POOL_NOT_FOUND, "StoragePool default, which does not exist"),
        (Box::new(|w| w.image = None), reason::IMAGE_NOT_FOUND, "Image default/alpine, which does not exist"),
        (Box::new(|w| w.local = LocalImage::Absent), reason::IMAGE_NOT_READY, "its import has not begun"),
        (Box::new(|w| w.local = LocalImage::Importing { percent: 42 }), reason::IMAGE_NOT_READY, "42%"),
        (Box::new(|w| w.local = failed), reason::IMAGE_NOT_READY, "cannot be imported: it differs"),
        (
            Box::new(move |w| w.image.as_mut().unwrap().metadata.deletion_timestamp = now()),
            reason::IMAGE_NOT_READY,
            "is being deleted",
        ),
        (
            Box::new(|w| w.image.as_mut().unwrap().status.as_mut().unwrap().sha256 = Some(Sha256::from([8; 32]))),
            reason::IMAGE_NOT_READY,
            "differs",
        ),
        (Box::new(|w| w.image.as_mut().unwrap().status = None), reason::IMAGE_NOT_READY, "waits to be confirmed"),
    ];
    for (change, reason, message) in cases {
        let found = blocker(change).unwrap();
        assert_eq!(found.reason, reason, "{}", found.message);
        assert!(found.message.contains(message), "{} has not {message}", found.message);
    }
}

#[test]
fn a_disk_that_is_there_needs_no_image() {
    let without = |w: &mut World| {
        w.exists = true;
        w.image = None;
        w.local = LocalImage::Absent;
    };
    assert_eq!(blocker(without), None);
}

fn volume(status: &serde_json::Value) -> Volume {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
        "metadata": {"name": "data", "namespace": "default", "uid": "volume-uid", "finalizers": [AGENT_FINALIZER]},
        "spec": {"size": "1Gi"}, "status": status
    }))
    .unwrap()
}

#[test]
fn a_volume_is_one_vms_and_where_its_bytes_are() {
    let with = |change: &dyn Fn(&mut World, &mut Volume), status: serde_json::Value| {
        blocker(|world| {
            let mut volume = volume(&status);
            world.wants_volume = true;
            change(world, &mut volume);
            world.volume = Some(volume);
        })
    };
    let has = |uid: &str, epoch: u64| serde_json::json!({"vm": "db", "vmUid": uid, "host": "host-2", "epoch": epoch});
    let fine = |_: &mut World, _: &mut Volume| {};
    assert_eq!(with(&fine, serde_json::json!({})), None, "it needs no image");
    assert_eq!(with(&fine, serde_json::json!({"host": HOST})), None);
    assert_eq!(with(&fine, serde_json::json!({"attachment": has(UID, 1), "host": "host-2"})), None, "it is its own");
    let other = with(&fine, serde_json::json!({"attachment": has("other", 1)})).unwrap();
    assert_eq!(other.reason, reason::VOLUME_IN_USE);
    assert!(other.message.contains("`ucloudctl detach db data`"), "{}", other.message);
    let later = with(&fine, serde_json::json!({"attachment": has(UID, 2)})).unwrap();
    assert_eq!(later.reason, reason::VOLUME_IN_USE, "another host has the VM since");
    let gone = blocker(|world| world.wants_volume = true).unwrap();
    assert_eq!(gone.reason, reason::VOLUME_NOT_FOUND);
    let bare = with(&|_, volume| volume.metadata.finalizers = None, serde_json::json!({})).unwrap();
    assert_eq!(bare.reason, reason::VOLUME_NOT_READY);
    let deleted = |_: &mut World, volume: &mut Volume| {
        volume.metadata.deletion_timestamp = Some(ucloud_types::condition::Time(at(0)));
    };
    assert_eq!(with(&deleted, serde_json::json!({})).unwrap().reason, reason::VOLUME_NOT_READY);
    assert_eq!(with(&deleted, serde_json::json!({"attachment": has(UID, 1)})), None, "it keeps what it has");
    let elsewhere = with(&fine, serde_json::json!({"host": "host-2"})).unwrap();
    assert_eq!(elsewhere.reason, reason::VOLUME_ELSEWHERE);
    let shared = |world: &mut World, _: &mut Volume| {
        world.pool.as_mut().unwrap().spec =
            serde_json::from_value(serde_json::json!({"rbd": {"pool": "vms"}})).unwrap();
    };
    assert_eq!(with(&shared, serde_json::json!({"host": "host-2"})), None);
    let of_image = |world: &mut World, volume: &mut Volume| {
        volume.spec.source = serde_json::from_value(serde_json::json!({"image": "alpine"})).unwrap();
        world.image = None;
    };
    assert_eq!(with(&of_image, serde_json::json!({})).unwrap().reason, reason::IMAGE_NOT_FOUND);
    let made = |world: &mut World, volume: &mut Volume| {
        of_image(world, volume);
        world.exists = true;
    };
    assert_eq!(with(&made, serde_json::json!({})), None);
}

#[test]
fn a_blocked_vm_waits_and_says_why() {
    let blockers =
        vec![Blocker::new(reason::NETWORK_NOT_FOUND, "no network"), Blocker::new(reason::IMAGE_NOT_READY, "no image")];
    let observed = Observed { blockers, confirmed: true, ..nothing() };
    let plan = plan(&desired(&vm(RunStrategy::Always)), &observed, &Pace::default(), at(0));
    assert_eq!((&plan.step, plan.requeue_after), (&None, None), "it waits for an event, not for time");
    assert_phase(&plan, VMPhase::Provisioning);
    assert_ready(&plan, Verdict::False, reason::NETWORK_NOT_FOUND);
    assert_eq!(ready(&plan).message, "no network; no image");
}

#[test]
fn nothing_is_made_before_the_api_server_has_confirmed() {
    let desired = desired(&vm(RunStrategy::Always));
    let go = |observed: &Observed| plan(&desired, observed, &Pace::default(), at(0)).step;
    assert_eq!(go(&nothing()), Some(Step::Confirm));
    assert_eq!(go(&Observed { confirmed: true, ..nothing() }), Some(Step::Provision));
    let provisioned = Observed { confirmed: true, provisioned: Some(provisioned()), ..nothing() };
    assert!(matches!(go(&provisioned), Some(Step::Start(_))));
}

#[test]
fn a_running_vm_does_not_care_for_blockers() {
    let vm = vm(RunStrategy::Always);
    let observed = Observed {
        blockers: vec![Blocker::new(reason::IMAGE_NOT_FOUND, "gone")],
        ..with(domain(&vm, DomainState::Running))
    };
    let plan = plan(&desired(&vm), &observed, &Pace::default(), at(0));
    assert_ready(&plan, Verdict::True, reason::RUNNING);
}
