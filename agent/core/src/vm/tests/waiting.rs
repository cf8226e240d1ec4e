//! What a VM waits for before it is started.

use ucloud_types::{Image, Network, StoragePool, image::Sha256};

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
    let mut world =
        World { network: Some(network()), image: Some(image()), pool: Some(pool()), local: stored(), exists: false };
    change(&mut world);
    let disk =
        DiskInput { exists: world.exists, pool: world.pool.as_ref(), image: world.image.as_ref(), local: &world.local };
    blockers(&desired(&vm(RunStrategy::Always)), &[world.network.as_ref()], &[disk]).into_iter().next()
}

type Change = Box<dyn FnOnce(&mut World)>;

struct World {
    network: Option<Network>,
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
