//! `ucloudctl snapshot` and `restore`: keep the disks of a VM, or a volume, as they are, and go back to what was kept.

use std::time::Duration;

use anyhow::bail;
use serde_json::{Value, json};

use crate::{
    cli::{Restore, Snapshot, Structured},
    ensure::ensure,
    failure::{self, Failure},
    output,
    progress::{self, Progress},
    resource::Resource,
    server::{Form, Server},
    watch::{self, Followed, within},
};

/// Takes a snapshot, and waits until disks can be made of it.
pub async fn take(server: &Server, options: &Snapshot) -> anyhow::Result<()> {
    let name = options.name.strip_prefix("snapshot/").unwrap_or(&options.name);
    let wanted = spec(&options.source)?;
    let kind = server.catalog().await?.one("snapshots.ucloud.ungleich.ch")?;
    let object = json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": name}, "spec": wanted,
    });
    let shown = kind.display(name);
    let found = ensure(server, &kind, name, &object, |found| !found["metadata"]["deletionTimestamp"].is_null()).await?;
    if found["spec"] != wanted {
        bail!("{shown} is there already, of {}: choose another name, or delete it first", source(&found));
    }
    if found["status"]["phase"] == "Ready" {
        failure::note(&format!("{shown} was taken at {}", found["status"]["takenAt"].as_str().unwrap_or_default()));
    }
    let mut progress = Progress::new(shown.clone());
    let followed = Followed::object(server, &kind, &server.namespace, name);
    let taken = watch::until(&followed, |snapshot| {
        let Some(snapshot) = snapshot else { return Some(Err(format!("{shown} was deleted"))) };
        progress.show(snapshot);
        match snapshot["status"]["phase"].as_str() {
            Some("Ready") => Some(Ok(snapshot.clone())),
            Some("Failed") => Some(Err(format!("{shown} cannot be taken: {}", progress::state(snapshot)))),
            _ => None,
        }
    });
    let Some(taken) = within(Some(options.timeout), taken).await? else {
        let last = progress.last().to_owned();
        return Err(Failure::TimedOut(format!("{shown} was not taken after {:?}: {last}", options.timeout)).into());
    };
    drop(progress);
    let taken = taken.map_err(anyhow::Error::msg)?;
    match options.output {
        Some(Structured::Json) => output::document(&format!("{taken:#}\n")),
        None => output::line(&format!("{shown} was taken: {}", kept(&taken))),
    }
}

/// The spec of a snapshot of this VM or volume.
fn spec(source: &str) -> anyhow::Result<Value> {
    match source.split_once('/') {
        None => Ok(json!({ "vm": source })),
        Some(("vm" | "vms", name)) => Ok(json!({ "vm": name })),
        Some(("volume" | "volumes" | "vol", name)) => Ok(json!({ "volume": name })),
        Some((kind, _)) => bail!("a snapshot is of a VM or a volume: write NAME, vm/NAME or volume/NAME, not {kind}/…"),
    }
}

fn source(snapshot: &Value) -> String {
    match (snapshot["spec"]["vm"].as_str(), snapshot["spec"]["volume"].as_str()) {
        (Some(vm), _) => format!("VM {vm}"),
        (None, Some(volume)) => format!("volume {volume}"),
        (None, None) => "something else".to_owned(),
    }
}

/// What can be made of it.
fn kept(snapshot: &Value) -> String {
    let disks = snapshot["status"]["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let images: Vec<_> = disks.iter().filter_map(|disk| disk["image"].as_str()).collect();
    let consistency = match snapshot["status"]["consistency"].as_str() {
        Some("Filesystems") => "its file systems were written out",
        _ => "as after a failure of power",
    };
    let plural = if images.len() == 1 { "image" } else { "images" };
    format!("{plural} {} ({consistency})", images.join(", "))
}

/// Makes a VM of a snapshot, or restores the VM of which it was taken.
pub async fn restore(server: &Server, options: &Restore) -> anyhow::Result<()> {
    let name = options.snapshot.strip_prefix("snapshot/").unwrap_or(&options.snapshot);
    let catalog = server.catalog().await?;
    let (snapshots, vms) = (catalog.one("snapshots.ucloud.ungleich.ch")?, catalog.one("vms.ucloud.ungleich.ch")?);
    let snapshot = server.get(&snapshots, &server.namespace, name, Form::Object).await?;
    let shown = snapshots.display(name);
    if snapshot["status"]["phase"] != "Ready" {
        bail!("{shown} was not taken yet: {}", progress::state(&snapshot));
    }
    let Some(of) = snapshot["spec"]["vm"].as_str() else {
        bail!("{shown} is of a volume: make a volume of its image, {}", kept(&snapshot));
    };
    match options.vm.as_deref() {
        Some(vm) => {
            let original = server.find(&vms, &server.namespace, of).await?;
            make(server, &vms, (&snapshot, &shown), original, vm.strip_prefix("vm/").unwrap_or(vm)).await
        }
        None => in_place(server, &vms, name, of, options.timeout).await,
    }
}

/// Makes a VM of a snapshot.
async fn make(
    server: &Server,
    vms: &Resource,
    (snapshot, shown): (&Value, &str),
    original: Option<Value>,
    vm: &str,
) -> anyhow::Result<()> {
    let Some(original) = original else {
        let of = source(snapshot);
        bail!("{of} is gone, and with it what its VMs are like: write a VM with disks of {}", kept(snapshot));
    };
    let (spec, left_out) = spec_of(&original["spec"], snapshot);
    if !left_out.is_empty() {
        failure::note(&format!("not in the snapshot, and so not in the VM: disk {}", left_out.join(", ")));
    }
    let object = json!({"apiVersion": vms.api_version(), "kind": vms.kind, "metadata": {"name": vm}, "spec": spec});
    server.create(vms, &server.namespace, &object).await?;
    output::line(&format!("{} is made of {shown}; its addresses are its own", vms.display(vm)))
}

/// Restores the disks of a VM, and waits until that is done.
async fn in_place(server: &Server, vms: &Resource, snapshot: &str, vm: &str, timeout: Duration) -> anyhow::Result<()> {
    let body = json!({"apiVersion": vms.api_version(), "kind": "VMRestore", "snapshot": snapshot});
    let asked = server.post(vms, (&server.namespace, vm), "restore", Some(&body)).await?;
    let request = asked["status"]["restoreRequest"].clone();
    let wanted = request["disks"].as_array().cloned().unwrap_or_default();
    let names: Vec<_> = wanted.iter().filter_map(|disk| disk["name"].as_str()).collect();
    let others = asked["spec"]["disks"].as_array().into_iter().flatten().filter_map(|disk| disk["name"].as_str());
    let others: Vec<_> = others.filter(|name| !names.contains(name)).collect();
    if !others.is_empty() {
        failure::note(&format!("not in the snapshot, and left as it is: disk {}", others.join(", ")));
    }
    let shown = vms.display(vm);
    let mut progress = Progress::new(shown.clone());
    let followed = Followed::object(server, vms, &server.namespace, vm);
    let ended = watch::until(&followed, |found| {
        let Some(found) = found.filter(|found| found["metadata"]["uid"] == asked["metadata"]["uid"]) else {
            return Some(None);
        };
        progress.show(found);
        let observed = found["status"]["observedRestore"].as_u64();
        (observed >= request["id"].as_u64()).then(|| Some(found.clone()))
    });
    let Some(ended) = within(Some(timeout), ended).await? else {
        let last = progress.last().to_owned();
        let message = format!("{shown} was not restored after {timeout:?}, and will be as soon as it can: {last}");
        return Err(Failure::TimedOut(message).into());
    };
    drop(progress);
    let Some(ended) = ended else { bail!("{shown} was deleted") };
    if !is_restored(&ended, &wanted) {
        bail!("{shown} was not restored, and its disks are as they were: snapshot {snapshot} was deleted meanwhile");
    }
    let start = format!("start it with `ucloudctl start {vm}`");
    output::line(&format!("{shown} is restored from snapshot {snapshot} (disk {}): {start}", names.join(", ")))
}

/// Whether the VM says that the disks of its own among these were restored.
fn is_restored(vm: &Value, wanted: &[Value]) -> bool {
    let is = vm["status"]["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
    wanted
        .iter()
        .filter(|disk| disk["volumeUid"].is_null())
        .all(|disk| is.iter().any(|is| is["name"] == disk["name"] && is["restored"] == disk["imageUid"]))
}

/// The spec of a VM like this one with the disks of the snapshot, and the names of its disks that are not in there. What is
/// the one VM's alone, its MAC addresses and IP addresses, is not the other's.
fn spec_of(original: &Value, snapshot: &Value) -> (Value, Vec<String>) {
    let mut spec = original.clone();
    let (mut disks, mut left_out) = (Vec::new(), Vec::new());
    let taken = snapshot["status"]["disks"].as_array().map(Vec::as_slice).unwrap_or_default();
    for disk in original["disks"].as_array().map(Vec::as_slice).unwrap_or_default() {
        match taken.iter().find(|taken| taken["name"] == disk["name"]) {
            Some(taken) => {
                let mut made = json!({"name": disk["name"], "image": taken["image"], "pool": taken["pool"]});
                for field in ["size", "limits"] {
                    if !disk[field].is_null() {
                        made[field] = disk[field].clone();
                    }
                }
                disks.push(made);
            }
            None => left_out.push(disk["name"].as_str().unwrap_or_default().to_owned()),
        }
    }
    spec["disks"] = json!(disks);
    // whoever halted the one to be sure of its disks wants the other to run
    if let Some(fields) = spec.as_object_mut().filter(|fields| fields.get("runStrategy") == Some(&json!("Halted"))) {
        fields.remove("runStrategy");
    }
    for interface in spec["networks"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        interface.retain(|field, _| field != "mac" && field != "addresses");
    }
    (spec, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_of_a_vm_or_a_volume() {
        for (source, expected) in [
            ("web", json!({"vm": "web"})),
            ("vm/web", json!({"vm": "web"})),
            ("volume/data", json!({"volume": "data"})),
        ] {
            assert_eq!(spec(source).unwrap(), expected);
        }
        assert!(spec("image/a").unwrap_err().to_string().contains("volume/NAME"));
    }

    #[test]
    fn a_restored_vm_has_disks_of_the_snapshot_and_addresses_of_its_own() {
        let original = json!({
            "cpus": 2, "runStrategy": "Halted", "disks": [{"name": "root", "image": "alpine", "size": "4Gi"}, {"name": "data", "volume": "data"},
                {"name": "new", "volume": "new"}],
            "networks": [{"name": "eth0", "network": "lan", "mac": "02:00:00:00:00:01", "addresses": ["2001:db8::1"]}],
        });
        let snapshot = json!({"status": {"disks": [
            {"name": "root", "image": "kept-root", "pool": "default"},
            {"name": "data", "image": "kept-data", "pool": "ceph"},
        ]}});
        let (spec, left_out) = spec_of(&original, &snapshot);
        assert_eq!(
            spec,
            json!({
                "cpus": 2, "networks": [{"name": "eth0", "network": "lan"}],
                "disks": [{"name": "root", "image": "kept-root", "pool": "default", "size": "4Gi"},
                    {"name": "data", "image": "kept-data", "pool": "ceph"}],
            })
        );
        assert_eq!(left_out, ["new"]);
    }
}
