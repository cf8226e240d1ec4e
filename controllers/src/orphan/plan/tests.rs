use serde_json::{Value, json};
use ucloud_types::condition::get;

use super::*;

fn found() -> HostOrphan {
    HostOrphan {
        name: Some("root".into()),
        pool: Some("default".into()),
        origin: Some("default/web".into()),
        size: "1Gi".parse().ok(),
        ..HostOrphan::new(OrphanKind::Disk, "vm-uid")
    }
}

/// A host with this to report, which has looked into its pool.
fn host(name: &str, orphans: &[HostOrphan], surveyed: bool) -> Arc<Host> {
    let part = json!({"name": "default", "capacity": "1Ti", "available": "1Ti", "surveyed": surveyed});
    Arc::new(
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {},
            "status": {"pools": [part], "orphans": orphans},
        }))
        .unwrap(),
    )
}

fn pool(shared: bool, surveyor: Option<&str>) -> StoragePool {
    let spec = if shared { json!({"rbd": {"pool": "vms"}}) } else { json!({"directory": {"path": "/pool"}}) };
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool", "metadata": {"name": "default"},
        "spec": spec, "status": {"surveyor": surveyor},
    }))
    .unwrap()
}

fn orphan(shared: bool, order: &Value) -> Orphan {
    let mut orphan = orphan_of(&host("h1", &[], true), &found(), shared);
    let mut spec = serde_json::to_value(&orphan.spec).unwrap();
    spec.as_object_mut().unwrap().extend(order.as_object().cloned().unwrap_or_default());
    orphan.spec = serde_json::from_value(spec).unwrap();
    orphan
}

fn volume(orphan: &Orphan, change: impl FnOnce(&mut Value)) -> Volume {
    let mut volume = json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
        "metadata": {"name": "data", "namespace": "p", "uid": "volume-uid", "finalizers": [AGENT_FINALIZER]},
        "spec": {"size": "1Gi", "source": {"orphan": orphan.name_any()}}, "status": {},
    });
    change(&mut volume);
    serde_json::from_value(volume).unwrap()
}

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn around<'a>(hosts: &'a [Arc<Host>], pool: &'a StoragePool) -> Around<'a> {
    Around { hosts, pool: Some(pool), volume: None, owned: false, destroy_at: None, now: NOW }
}

/// The phase, and the reason and message of the condition.
fn said(status: &OrphanStatus) -> (OrphanPhase, String, String) {
    let ready = get(&status.conditions, READY).unwrap();
    (status.phase.unwrap(), ready.reason.clone(), ready.message.clone())
}

#[test]
fn it_is_there_as_long_as_its_host_reports_it_and_nothing_owns_it() {
    let (pool, orphan) = (pool(false, None), orphan(false, &json!({})));
    let hosts = [host("h1", &[found()], true), host("h2", &[], true)];
    let mut around = around(&hosts, &pool);
    let status = plan(&orphan, &around).unwrap();
    let (phase, reason, message) = said(&status);
    assert_eq!((phase, reason.as_str()), (OrphanPhase::Found, "Found"));
    assert!(message.contains(&format!("`ucloudctl adopt {}`", orphan.name_any())), "{message}");
    assert_eq!((status.host.as_deref(), status.origin.as_deref()), (Some("h1"), Some("default/web")));
    assert_eq!((status.size, status.destroy_at.is_none()), ("1Gi".parse().ok(), true));
    let mut again = orphan.clone();
    again.status = Some(status.clone());
    assert_eq!(plan(&again, &around), Some(status), "pattern 13: nothing new, nothing to write");
    around.owned = true;
    assert_eq!(plan(&orphan, &around), None);
    let elsewhere = [host("h1", &[], true), host("h2", &[found()], true)];
    assert_eq!(plan(&orphan, &self::around(&elsewhere, &pool)), None, "that is another one");
}

#[test]
fn what_all_hosts_share_is_gone_when_its_surveyor_says_so() {
    let orphan = orphan(true, &json!({}));
    let gone = |hosts: &[Arc<Host>], pool: &StoragePool| plan(&orphan, &around(hosts, pool)).is_none();
    let surveyed = pool(true, Some("h2"));
    let by = |hosts: &[Arc<Host>]| plan(&orphan, &around(hosts, &surveyed)).unwrap().host;
    assert_eq!(by(&[host("h1", &[found()], false), host("h2", &[found()], true)]).as_deref(), Some("h2"));
    assert_eq!(by(&[host("h1", &[found()], false), host("h2", &[], true)]).as_deref(), Some("h1"));
    assert!(gone(&[host("h1", &[], false), host("h2", &[], true)], &surveyed));
    assert!(!gone(&[host("h1", &[], true), host("h2", &[], false)], &surveyed), "a new surveyor has yet to look");
    assert!(!gone(&[host("h2", &[], true)], &pool(true, None)));
}

#[test]
fn an_order_is_passed_on_and_so_is_why_it_fails() {
    let (pool, orphan) = (pool(false, None), orphan(false, &json!({"destroy": true})));
    let (phase, reason, message) = said(&plan(&orphan, &around(&[host("h1", &[found()], true)], &pool)).unwrap());
    assert_eq!(
        (phase, reason.as_str(), message.as_str()),
        (OrphanPhase::Destroying, "Destroying", "host h1 destroys it")
    );
    let failed = HostOrphan { error: Some("it is open".into()), ..found() };
    let (phase, reason, message) = said(&plan(&orphan, &around(&[host("h1", &[failed], true)], &pool)).unwrap());
    assert_eq!(
        (phase, reason.as_str(), message.as_str()),
        (OrphanPhase::Destroying, "DestructionFailed", "it is open")
    );
}

#[test]
fn nothing_goes_by_itself_but_when_its_time_has_come() {
    let (pool, orphan) = (pool(false, None), orphan(false, &json!({})));
    let hosts = [host("h1", &[found()], true)];
    let mut around = around(&hosts, &pool);
    let second = Timestamp::from_second(1).unwrap();
    around.destroy_at = Some(second);
    let status = plan(&orphan, &around).unwrap();
    let (phase, _, message) = said(&status);
    assert_eq!((phase, status.destroy_at), (OrphanPhase::Found, Some(Time(second))));
    assert!(message.ends_with("it is destroyed by itself at 1970-01-01T00:00:01Z"), "{message}");
    around.now = second;
    assert_eq!(said(&plan(&orphan, &around).unwrap()).0, OrphanPhase::Destroying);
    let adopted = self::orphan(false, &json!({"adopt": {"namespace": "p", "volume": "data"}}));
    assert_eq!(said(&plan(&adopted, &around).unwrap()).0, OrphanPhase::Found, "somebody wants it");
}

#[test]
fn a_volume_that_names_it_and_is_named_takes_it_over() {
    let pool = pool(false, None);
    let mut orphan = orphan(false, &json!({"adopt": {"namespace": "p", "volume": "data"}}));
    let (reports, silent) = ([host("h1", &[found()], true)], [host("h1", &[], true)]);
    let with = |orphan: &Orphan, hosts: &[Arc<Host>], volume: Option<&Volume>| {
        plan(orphan, &Around { volume, ..around(hosts, &pool) })
    };
    let of = |change: fn(&mut Value)| said(&with(&orphan, &reports, Some(&volume(&orphan, change))).unwrap());
    assert_eq!(said(&with(&orphan, &reports, None).unwrap()).1, "VolumeNotFound");
    for (change, reason) in [
        ((|volume| volume["spec"]["source"]["orphan"] = json!("disk-2")) as fn(&mut Value), "VolumeMismatch"),
        (|volume| volume["spec"]["pool"] = json!("other"), "VolumeMismatch"),
        (|volume| volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"), "VolumeMismatch"),
        (|volume| volume["status"]["size"] = json!("1Gi"), "VolumeMismatch"),
        (|volume| volume["metadata"]["finalizers"] = json!([]), "VolumeNotReady"),
    ] {
        let (phase, found, message) = of(change);
        assert_eq!((phase, found.as_str()), (OrphanPhase::Found, reason), "{message}");
    }
    let (new, made) = (volume(&orphan, |_| {}), volume(&orphan, |volume| volume["status"]["size"] = json!("1Gi")));
    let status = with(&orphan, &reports, Some(&new)).unwrap();
    assert_eq!(said(&status).0, OrphanPhase::Adopting);
    assert_eq!(status.volume_uid.as_deref(), Some("volume-uid"));
    assert_eq!(with(&orphan, &silent, Some(&new)), None, "it was not told to anybody yet, and is gone");
    orphan.status = Some(status);
    let renamed = with(&orphan, &silent, Some(&new)).unwrap();
    assert_eq!(said(&renamed).0, OrphanPhase::Adopting, "its host has yet to say so");
    assert_eq!(said(&with(&orphan, &reports, Some(&made)).unwrap()).0, OrphanPhase::Adopting, "an old report");
    assert_eq!(with(&orphan, &silent, Some(&made)), None);
}
