use serde_json::{Value, json};
use ucloud_types::condition::get;

use super::*;

fn volume(spec: &Value, status: &Value) -> Volume {
    let mut whole = json!({"size": "2Gi"});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
        "metadata": {"name": "data", "namespace": "p", "uid": "uid-data"}, "spec": whole, "status": status,
    }))
    .unwrap()
}

fn pool(spec: &Value) -> StoragePool {
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool", "metadata": {"name": "default"}, "spec": spec,
    }))
    .unwrap()
}

fn directory() -> StoragePool {
    pool(&json!({"directory": {"path": "/x"}}))
}

fn image(pool: &str) -> Image {
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image", "metadata": {"name": "debian", "namespace": "images"},
        "spec": {"source": {"file": {"name": "debian.qcow2"}}, "format": "qcow2", "pool": pool},
    }))
    .unwrap()
}

fn host(name: &str, ready: bool, error: Option<&str>) -> Host {
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {},
        "status": {
            "pools": [{"name": "default", "capacity": "1Ti", "available": "1Ti", "error": error}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "Unknown" }, "reason": "Agent",
                            "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    }))
    .unwrap()
}

fn web() -> Value {
    json!({"vm": "web", "vmUid": "u", "host": "h1", "epoch": 1})
}

fn said<'a>(status: &'a VolumeStatus, type_: &str) -> (&'a str, &'a str, &'a str) {
    let condition = get(&status.conditions, type_).unwrap();
    (&condition.status, &condition.reason, &condition.message)
}

#[test]
fn says_where_it_is_in_its_life() {
    let (pool, h1) = (directory(), host("h1", true, None));
    let around = Around { pool: Some(&pool), image: None, snapshot: None, host: Some(&h1) };
    for (status, phase, expected) in [
        (json!({}), VolumePhase::Pending, ("False", "Pending", "it is made when the first VM has it")),
        (
            json!({"attachment": web(), "host": "h1"}),
            VolumePhase::Pending,
            ("False", "Pending", "host h1 makes it for VM web"),
        ),
        (
            json!({"attachment": web(), "host": "h1", "size": "2Gi"}),
            VolumePhase::Attached,
            ("True", "Attached", "VM web on host h1 has it"),
        ),
        (json!({"host": "h1", "size": "3Gi"}), VolumePhase::Available, ("True", "Available", "no VM has it")),
        (
            json!({"host": "h1", "size": "1Gi"}),
            VolumePhase::Available,
            ("True", "Growing", "it grows from 1Gi to 2Gi when the next VM has it"),
        ),
        (
            json!({"attachment": web(), "host": "h1", "size": "1Gi"}),
            VolumePhase::Attached,
            (
                "True",
                "Growing",
                "VM web on host h1 has it: it grows from 1Gi to 2Gi at once if it runs, else when it starts",
            ),
        ),
    ] {
        let mut volume = volume(&json!({}), &status);
        let planned = plan(&volume, &around);
        assert_eq!((planned.phase, said(&planned, READY)), (Some(phase), expected));
        volume.status = Some(planned.clone());
        assert_eq!(plan(&volume, &around), planned, "pattern 13: nothing new, nothing to write");
    }
}

#[test]
fn says_what_is_missing() {
    let pool = directory();
    let reason = |volume: &Volume, pool: Option<&StoragePool>, image: Option<&Image>| {
        let status = plan(volume, &Around { pool, image, snapshot: None, host: None });
        let (verdict, reason, _) = said(&status, READY);
        assert_eq!(verdict, "False");
        reason.to_owned()
    };
    let fresh = volume(&json!({"source": {"image": "images/debian"}}), &json!({}));
    assert_eq!(reason(&fresh, None, None), "PoolNotFound");
    assert_eq!(reason(&fresh, Some(&pool), None), "ImageNotFound");
    assert_eq!(reason(&fresh, Some(&pool), Some(&image("fast"))), "ImageInOtherPool");
    assert_eq!(reason(&fresh, Some(&pool), Some(&image("default"))), "Pending");
    let made = volume(&json!({}), &json!({"host": "h1", "size": "2Gi"}));
    assert_eq!(reason(&made, Some(&pool), None), "HostGone");
    let ceph = self::pool(&json!({"rbd": {"pool": "vms"}}));
    let status = plan(&made, &Around { pool: Some(&ceph), image: None, snapshot: None, host: None });
    assert_eq!(said(&status, READY).1, "Available", "all hosts see it");
}

fn reason_of(deletion: &Deletion) -> &str {
    match deletion {
        Deletion::Release => "released",
        Deletion::Move(host) => host,
        Deletion::Wait(status) => {
            assert_eq!(status.phase, Some(VolumePhase::Terminating));
            said(status, TERMINATING).1
        }
    }
}

#[test]
fn bytes_go_by_the_host_that_has_them() {
    let pool = directory();
    let hosts = [Arc::new(host("h2", true, None))];
    let kept = volume(&json!({}), &json!({"host": "h1", "size": "2Gi"}));
    let step = |volume: &Volume, host: Option<&Host>| {
        deletion(volume, &Around { pool: Some(&pool), image: None, snapshot: None, host }, &hosts)
    };
    assert_eq!(step(&volume(&json!({}), &json!({})), None), Deletion::Release, "it was never made");
    assert_eq!(reason_of(&step(&kept, Some(&host("h1", true, None)))), "Removing");
    assert_eq!(reason_of(&step(&kept, Some(&host("h1", false, None)))), "BytesRemain");
    assert_eq!(step(&kept, None), Deletion::Release, "the bytes went with their host");

    let removed = json!([{"type": "Removed", "status": "False", "reason": "Failed", "message": "the disk is read-only",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    let failing = volume(&json!({}), &json!({"host": "h1", "size": "2Gi", "conditions": removed}));
    let Deletion::Wait(status) = step(&failing, Some(&host("h1", true, None))) else { panic!("it waits") };
    assert_eq!(said(&status, TERMINATING).2, "waiting until host h1 has removed its bytes: the disk is read-only");
}

#[test]
fn shared_bytes_go_by_any_host_that_sees_them() {
    let pool = pool(&json!({"rbd": {"pool": "vms"}}));
    let kept = volume(&json!({}), &json!({"host": "h1", "size": "2Gi"}));
    let others = [host("h4", true, None), host("h2", false, None), host("h3", true, Some("no key"))].map(Arc::new);
    let step = |host: Option<&Host>, hosts: &[Arc<Host>]| {
        deletion(&kept, &Around { pool: Some(&pool), image: None, snapshot: None, host }, hosts)
    };
    assert_eq!(reason_of(&step(Some(&host("h1", true, None)), &others)), "Removing");
    for former in [None, Some(host("h1", false, None)), Some(host("h1", true, Some("no key")))] {
        assert_eq!(step(former.as_ref(), &others), Deletion::Move("h4".into()));
        assert_eq!(reason_of(&step(former.as_ref(), &others[1..])), "NoHost");
    }
}

#[test]
fn what_a_vm_has_stays_and_says_how_to_free_it() {
    let kept = volume(&json!({}), &json!({"attachment": web(), "host": "h1", "size": "2Gi"}));
    let status = attached(&kept, "web");
    let words = "VM web has it: detach it with `ucloudctl detach web data`, or delete the VM";
    assert_eq!(said(&status, TERMINATING), ("True", "Attached", words));
    assert_eq!(abandoned(&kept, "web"), "VM p/web, which had p/data, is gone");
}
