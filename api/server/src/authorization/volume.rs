//! What the agent of a host may write of a Volume: it takes the volume for a VM of its own host, gives it back, makes one of an
//! orphan that it is to see to, and removes the bytes of one that nobody has any more.
//!
//! A disk has one writer because only the host of the VM that has it may open it. So nobody but that host takes a volume
//! from its VM, and no host takes a volume that no VM of its own asks for.

use serde_json::Value;
use ucloud_machinery::{meta, strategy::Lister};
use ucloud_types::{
    GROUP,
    meta::{AGENT_FINALIZER, DEFAULT_POOL},
};

use super::{Refusal, change::only_removes_finalizer};

/// Whether the agent may make `new` of the status of the volume, which is in this namespace.
pub fn check_status(host: &str, namespace: &str, old: &Value, new: &Value, lister: &dyn Lister) -> Result<(), Refusal> {
    if old.get("status") == new.get("status") {
        return Ok(());
    }
    let (before, after) = (attachment(old), attachment(new));
    if before.is_none() && after.is_none() {
        let removes = is_left(host, old) && without_conditions(old) == without_conditions(new);
        return if removes || adopts(host, old, new, lister) {
            Ok(())
        } else {
            Err(format!("no VM of host {host:?} has this Volume"))
        };
    }
    if let Some(before) = before
        && bound_vm(host, namespace, before, lister).is_none()
    {
        return Err(format!("VM {:?} has the Volume, which is not bound to host {host:?}", text(before, "vm")));
    }
    if let Some(after) = after {
        let vm = bound_vm(host, namespace, after, lister)
            .filter(|vm| after.get("epoch") == vm.pointer("/status/binding/epoch") && text(after, "host") == host);
        let Some(vm) = vm else {
            return Err(format!("status.attachment names no VM that is bound to host {host:?} by that epoch"));
        };
        // what a VM has stays its own until its agent gives it back, whatever its spec says meanwhile
        if before.is_none() && !names(&vm, meta::text(new, "name")) {
            return Err(format!("no disk of VM {:?} is this Volume", text(after, "vm")));
        }
    }
    check_host(host, old, new, lister)
}

/// Whether the host says that it has made the volume of an orphan, which it is to do.
fn adopts(host: &str, old: &Value, new: &Value, lister: &dyn Lister) -> bool {
    let source = old.pointer("/spec/source/orphan").and_then(Value::as_str);
    let Some(orphan) = source.and_then(|name| lister.get(GROUP, "orphans", None, name)) else { return false };
    let told = |field: &str| orphan["status"][field].as_str().unwrap_or_default();
    let mut made = old.clone();
    made["status"]["host"] = host.into();
    made["status"]["size"] = new["status"]["size"].clone();
    !meta::is_terminating(old)
        && old.pointer("/status/size").is_none()
        && (told("phase"), told("host"), told("volumeUid")) == ("Adopting", host, meta::text(old, "uid"))
        && made["status"] == new["status"]
}

/// A volume is where the VM is that has it; in a pool that is not shared it was made there, and stays.
fn check_host(host: &str, old: &Value, new: &Value, lister: &dyn Lister) -> Result<(), Refusal> {
    let (was, is) = (host_of(old), host_of(new));
    if attachment(new).is_none() {
        return if was == is { Ok(()) } else { Err("status.host stays when a VM gives the Volume back".to_owned()) };
    }
    if is != Some(host) {
        return Err(format!("status.host must be {host:?}, which has the Volume then"));
    }
    match was.filter(|was| *was != host) {
        Some(was) if !is_shared(old, lister) => Err(format!("the bytes of this Volume are on host {was:?}")),
        _ => Ok(()),
    }
}

/// Whether the agent may change anything but the status of the volume: it lets go of one whose bytes it has removed.
pub fn check_release(host: &str, old: &Value, new: &Value) -> Result<(), Refusal> {
    if is_left(host, old) && only_removes_finalizer(old, new, AGENT_FINALIZER) {
        return Ok(());
    }
    Err(format!(
        "an agent changes nothing of a Volume but its status, and removes {AGENT_FINALIZER} once the Volume is being \
         deleted, no VM has it, and host {host:?} is the one that has its bytes"
    ))
}

/// Whether the volume is being deleted, no VM has it, and its bytes are this host's to remove.
fn is_left(host: &str, volume: &Value) -> bool {
    meta::is_terminating(volume) && attachment(volume).is_none() && host_of(volume) == Some(host)
}

/// The VM that an attachment names, if it is bound to the host.
fn bound_vm(host: &str, namespace: &str, attachment: &Value, lister: &dyn Lister) -> Option<Value> {
    let vm = lister.get(GROUP, "vms", Some(namespace), text(attachment, "vm"))?;
    let bound = vm.pointer("/status/binding/host").and_then(Value::as_str) == Some(host);
    (bound && meta::text(&vm, "uid") == text(attachment, "vmUid")).then_some(vm)
}

fn names(vm: &Value, volume: &str) -> bool {
    let disks = vm.pointer("/spec/disks").and_then(Value::as_array);
    disks.into_iter().flatten().any(|disk| disk["volume"] == volume)
}

fn is_shared(volume: &Value, lister: &dyn Lister) -> bool {
    let pool = volume.pointer("/spec/pool").and_then(Value::as_str).unwrap_or(DEFAULT_POOL);
    lister.get(GROUP, "storagepools", None, pool).is_some_and(|pool| pool.pointer("/spec/rbd").is_some())
}

fn attachment(volume: &Value) -> Option<&Value> {
    volume.pointer("/status/attachment").filter(|attachment| !attachment.is_null())
}

fn host_of(volume: &Value) -> Option<&str> {
    volume.pointer("/status/host").and_then(Value::as_str)
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object[field].as_str().unwrap_or_default()
}

fn without_conditions(volume: &Value) -> Value {
    let mut status = volume.get("status").cloned().unwrap_or_default();
    if let Some(fields) = status.as_object_mut() {
        fields.remove("conditions");
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ucloud_machinery::auth::Decision;

    use super::super::test_support::{Objects, Request, user};
    use super::*;

    /// VMs `mine` of h1 and `theirs` of h2, each in its first epoch and with the Volume data; a pool of directories and one
    /// that is shared.
    fn objects() -> Objects {
        let vm = |name: &str, host: &str| {
            json!({"metadata": {"name": name, "namespace": "p", "uid": format!("uid-{name}")},
                "spec": {"disks": [{"name": "data", "volume": "data"}]}, "status": {"binding": {"host": host, "epoch": 2}}})
        };
        let mut without = vm("without", "h1");
        without["spec"]["disks"] = json!([{"name": "root", "image": "debian"}]);
        Objects::default()
            .with("vms", vm("mine", "h1"))
            .with("vms", vm("theirs", "h2"))
            .with("vms", without)
            .with("storagepools", json!({"metadata": {"name": "default"}, "spec": {"directory": {"path": "/x"}}}))
            .with("storagepools", json!({"metadata": {"name": "ceph"}, "spec": {"rbd": {"pool": "x"}}}))
    }

    fn has(vm: &str, host: &str, epoch: u64) -> Value {
        json!({"vm": vm, "vmUid": format!("uid-{vm}"), "host": host, "epoch": epoch})
    }

    fn volume(attachment: Value, host: Option<&str>) -> Value {
        let mut volume = json!({"metadata": {"name": "data", "namespace": "p", "finalizers": [AGENT_FINALIZER]},
            "spec": {"size": "1Gi"}, "status": {"phase": "Pending"}});
        if !attachment.is_null() {
            volume["status"]["attachment"] = attachment;
        }
        if let Some(host) = host {
            volume["status"]["host"] = json!(host);
        }
        volume
    }

    fn may(old: &Value, new: &Value) -> bool {
        let user = user("ucloud:agent:h1", &["ucloud:agents:compute"]);
        let request = Request::new(&user, "patch", "volumes").namespace("p").name("data").subresource("status");
        request.allowed(Some(old), Some(new), &objects())
    }

    #[test]
    fn it_takes_volumes_for_its_own_vms_alone() {
        let free = volume(Value::Null, None);
        for (attachment, on, allowed) in [
            (has("mine", "h1", 2), Some("h1"), true),
            (has("mine", "h1", 2), None, false),
            (has("mine", "h1", 2), Some("h2"), false),
            (has("mine", "h2", 2), Some("h1"), false),
            (has("mine", "h1", 1), Some("h1"), false),
            (has("mine", "h1", 3), Some("h1"), false),
            (has("theirs", "h2", 2), Some("h2"), false),
            (has("theirs", "h1", 2), Some("h1"), false),
            (has("without", "h1", 2), Some("h1"), false),
            (has("absent", "h1", 2), Some("h1"), false),
        ] {
            assert_eq!(may(&free, &volume(attachment.clone(), on)), allowed, "{attachment} on {on:?}");
        }
        let mut other = has("mine", "h1", 2);
        other["vmUid"] = json!("uid-of-a-former-one");
        assert!(!may(&free, &volume(other, Some("h1"))));
        assert!(!may(&free, &volume(Value::Null, Some("h1"))), "not the bytes without the volume");
    }

    #[test]
    fn it_reports_on_gives_back_and_never_steals() {
        let mine = volume(has("mine", "h1", 2), Some("h1"));
        let mut made = mine.clone();
        made["status"]["size"] = json!("1Gi");
        assert!(may(&mine, &made));
        let given_back = volume(Value::Null, Some("h1"));
        assert!(may(&mine, &given_back));
        assert!(!may(&mine, &volume(Value::Null, None)), "where its bytes are is not forgotten");
        let former = volume(has("mine", "h3", 1), Some("h1"));
        assert!(may(&former, &mine), "the VM was bound anew");

        let theirs = volume(has("theirs", "h2", 2), Some("h2"));
        let mut sized = theirs.clone();
        sized["status"]["size"] = json!("1Gi");
        for new in [&mine, &sized, &volume(Value::Null, Some("h2"))] {
            assert!(!may(&theirs, new), "{new}");
        }
        assert!(may(&theirs, &theirs), "what changes nothing hurts nobody");
        let mut free = volume(Value::Null, Some("h1"));
        free["status"]["size"] = json!("9Gi");
        assert!(!may(&given_back, &free), "no VM of its own has it");
    }

    #[test]
    fn it_makes_volumes_of_the_orphans_that_it_is_told_to() {
        let user = user("ucloud:agent:h1", &["ucloud:agents:compute"]);
        let request = Request::new(&user, "patch", "volumes").namespace("p").name("data").subresource("status");
        let mut new = volume(Value::Null, None);
        new["metadata"]["uid"] = json!("volume-uid");
        new["spec"]["source"] = json!({"orphan": "disk-1"});
        let made = |host: &str| {
            let mut made = new.clone();
            made["status"]["host"] = json!(host);
            made["status"]["size"] = json!("1Gi");
            made
        };
        let told = |phase: &str, host: &str, uid: &str| {
            let status = json!({"phase": phase, "host": host, "volumeUid": uid});
            Objects::default().with("orphans", json!({"metadata": {"name": "disk-1"}, "status": status}))
        };
        for (objects, allowed) in [
            (told("Adopting", "h1", "volume-uid"), true),
            (told("Found", "h1", "volume-uid"), false),
            (told("Adopting", "h2", "volume-uid"), false),
            (told("Adopting", "h1", "another"), false),
            (Objects::default(), false),
        ] {
            assert_eq!(request.allowed(Some(&new), Some(&made("h1")), &objects), allowed);
            assert!(!request.allowed(Some(&new), Some(&made("h2")), &objects));
            assert!(!request.allowed(Some(&made("h1")), Some(&made("h2")), &objects), "it was made once");
        }
        let mut more = made("h1");
        more["status"]["phase"] = json!("Available");
        assert!(!request.allowed(Some(&new), Some(&more), &told("Adopting", "h1", "volume-uid")));
    }

    #[test]
    fn bytes_move_in_shared_pools_alone() {
        let mut was = volume(Value::Null, Some("h2"));
        let mut is = volume(has("mine", "h1", 2), Some("h1"));
        assert!(!may(&was, &is));
        for volume in [&mut was, &mut is] {
            volume["spec"]["pool"] = json!("ceph");
        }
        assert!(may(&was, &is));
    }

    #[test]
    fn it_lets_go_of_what_is_left_to_it() {
        let user = user("ucloud:agent:h1", &["ucloud:agents:compute"]);
        let patch = Request::new(&user, "patch", "volumes").namespace("p").name("data");
        let leaving = |attachment: Value, host: Option<&str>| {
            let mut volume = volume(attachment, host);
            volume["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            volume
        };
        for (old, allowed) in [
            (leaving(Value::Null, Some("h1")), true),
            (leaving(Value::Null, Some("h2")), false),
            (leaving(Value::Null, None), false),
            (leaving(has("mine", "h1", 2), Some("h1")), false),
            (volume(Value::Null, Some("h1")), false),
        ] {
            let mut released = old.clone();
            released["metadata"]["finalizers"] = json!([]);
            assert_eq!(patch.allowed(Some(&old), Some(&released), &objects()), allowed, "{old}");
            released["spec"]["size"] = json!("2Gi");
            assert!(!patch.allowed(Some(&old), Some(&released), &objects()));
            let mut failed = old.clone();
            failed["status"]["conditions"] = json!([{"type": "Removed", "status": "False"}]);
            assert_eq!(may(&old, &failed), allowed || attachment(&old).is_some(), "{old}");
            failed["status"]["host"] = json!("h3");
            assert!(!may(&old, &failed));
        }
        for verb in ["create", "delete", "deletecollection"] {
            assert_ne!(Request::new(&user, verb, "volumes").namespace("p").decide(), Decision::Allow, "{verb}");
        }
    }
}
