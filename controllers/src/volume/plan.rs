//! What a volume's status is to say, and how one goes that is being deleted. Pure.

use std::sync::Arc;

use kube::{Resource as _, ResourceExt as _};
use ucloud_types::{
    Host, Image, Snapshot, SnapshotSpec, StoragePool, Volume, VolumeStatus,
    condition::{self, Finding, READY, REMOVED, TERMINATING, Verdict, is_true},
    volume::{Attachment, VolumePhase},
};

use crate::runtime::{
    is_deleting, name_of,
    report::{find, status_of},
    uid_of,
};

/// What of a host a volume can depend on: whether it can remove bytes, and of which pools.
pub fn aspect(host: &Host) -> (bool, Vec<String>) {
    let pools = host.status.iter().flat_map(|status| &status.pools).filter(|pool| pool.error.is_none());
    (is_ready(host), pools.map(|pool| pool.name.clone()).collect())
}

fn is_ready(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY)) && !is_deleting(host)
}

/// The VM that has the volume.
pub fn attachment_of(volume: &Volume) -> Option<&Attachment> {
    volume.status.as_ref().and_then(|status| status.attachment.as_ref())
}

/// The host that has the volume's bytes, or was the last to use them where all hosts see them.
pub fn host_of(volume: &Volume) -> Option<&str> {
    volume.status.as_ref().and_then(|status| status.host.as_deref())
}

/// Whether the volume was made.
pub fn is_made(volume: &Volume) -> bool {
    volume.status.as_ref().is_some_and(|status| status.size.is_some())
}

/// What a volume depends on, as far as it is there.
pub struct Around<'a> {
    /// Its StoragePool.
    pub pool: Option<&'a StoragePool>,
    /// The image that it is to be a clone of.
    pub image: Option<&'a Image>,
    /// The Snapshot that is taken of the Volume of which it is to be a copy.
    pub snapshot: Option<&'a Snapshot>,
    /// The Host that has its bytes.
    pub host: Option<&'a Host>,
}

impl Around<'_> {
    fn is_shared(&self) -> bool {
        self.pool.is_some_and(|pool| pool.spec.is_shared())
    }
}

/// The status of a volume that is to be there.
pub fn plan(volume: &Volume, around: &Around<'_>) -> VolumeStatus {
    let mut status = status_of(volume);
    status.phase = Some(match (status.size, &status.attachment) {
        (None, _) => VolumePhase::Pending,
        (Some(_), Some(_)) => VolumePhase::Attached,
        (Some(_), None) => VolumePhase::Available,
    });
    let (verdict, reason, message) = if status.size.is_some() { made(volume, around) } else { pending(volume, around) };
    find(volume, &mut status, &Finding::new(READY, verdict, reason, message));
    status
}

type Said = (Verdict, &'static str, String);

fn pending(volume: &Volume, around: &Around<'_>) -> Said {
    let pool = volume.spec.effective_pool();
    let (reason, message) = if around.pool.is_none() {
        (
            "PoolNotFound",
            format!("StoragePool {pool} does not exist: create it, or make the volume again in another pool"),
        )
    } else if let Some(orphan) = volume.spec.orphan() {
        let message =
            format!("it is made of Orphan {orphan}, once that names it: `ucloudctl adopt {orphan}` does both");
        ("Adopting", message)
    } else if let Some(trouble) = source_trouble(volume, around).or_else(|| image_trouble(volume, around)) {
        trouble
    } else if let Some(Attachment { vm, host, .. }) = attachment_of(volume) {
        ("Pending", format!("host {host} makes it for VM {vm}"))
    } else {
        ("Pending", "it is made when the first VM has it".to_owned())
    };
    (Verdict::False, reason, message)
}

/// What keeps a copy of another volume from being made.
fn source_trouble(volume: &Volume, around: &Around<'_>) -> Option<(&'static str, String)> {
    let name = volume.source_snapshot()?;
    let of = volume.spec.source.as_ref()?.volume.as_deref()?;
    let Some(snapshot) = around.snapshot else {
        return Some(("SourcePending", format!("Snapshot {name} is about to be taken of Volume {of}")));
    };
    if !owns(volume, snapshot) {
        let message = format!(
            "Snapshot {name} is there already, and is not the one that is to be taken of Volume {of} for this volume: \
             delete it, or make the volume again under another name"
        );
        return Some(("SnapshotExists", message));
    }
    let (is_ready, said) = snapshot_aspect(snapshot);
    let said = said.unwrap_or_else(|| "it was not looked at yet".to_owned());
    (!is_ready).then(|| ("SourcePending", format!("it waits for Snapshot {name} of Volume {of}: {said}")))
}

/// What of a Snapshot a volume can depend on: whether it is Ready, and what it says.
pub fn snapshot_aspect(snapshot: &Snapshot) -> (bool, Option<String>) {
    let ready = snapshot.status.as_ref().and_then(|status| condition::get(&status.conditions, READY));
    (ready.is_some_and(|ready| ready.status == "True"), ready.map(|ready| ready.message.clone()))
}

/// The Snapshot that is to be taken of the Volume of which this one is to be a copy.
pub fn snapshot_of(volume: &Volume) -> Option<Snapshot> {
    let spec = SnapshotSpec { vm: None, volume: volume.spec.source.as_ref()?.volume.clone() };
    let mut snapshot = Snapshot::new(&volume.source_snapshot()?, spec);
    snapshot.metadata.namespace = volume.namespace();
    snapshot.metadata.owner_references = volume.controller_owner_ref(&()).map(|owner| vec![owner]);
    Some(snapshot)
}

/// Whether the snapshot was made for this volume.
pub fn owns(volume: &Volume, snapshot: &Snapshot) -> bool {
    snapshot.owner_references().iter().any(|owner| owner.uid == uid_of(volume))
}

fn image_trouble(volume: &Volume, around: &Around<'_>) -> Option<(&'static str, String)> {
    let own = volume.namespace().unwrap_or_default();
    let source = volume.image()?;
    let (namespace, name) = source.resolve(&own);
    let Some(image) = around.image else {
        let message =
            format!("Image {namespace}/{name} does not exist: create it, or make the volume again from another image");
        return Some(("ImageNotFound", message));
    };
    let (theirs, own) = (image.spec.effective_pool(), volume.spec.effective_pool());
    let message = || {
        format!(
            "Image {namespace}/{name} is in pool {theirs}, and the volume in pool {own}: make the volume again in pool \
             {theirs}, or from another image"
        )
    };
    (theirs != own).then(|| ("ImageInOtherPool", message()))
}

fn made(volume: &Volume, around: &Around<'_>) -> Said {
    let status = status_of(volume);
    let wanted = volume.spec.size;
    let grows = status.size.filter(|size| *size < wanted);
    let (reason, message) = match (&status.attachment, grows) {
        (None, _) if around.pool.is_some() && around.host.is_none() && !around.is_shared() => {
            let host = status.host.unwrap_or_default();
            let message = format!("Host {host}, which has its bytes, was deleted: delete the volume and make it again");
            return (Verdict::False, "HostGone", message);
        }
        (Some(Attachment { vm, host, .. }), Some(size)) => {
            let when = "at once if it runs, else when it starts";
            ("Growing", format!("VM {vm} on host {host} has it: it grows from {size} to {wanted} {when}"))
        }
        (None, Some(size)) => ("Growing", format!("it grows from {size} to {wanted} when the next VM has it")),
        (Some(Attachment { vm, host, .. }), None) => ("Attached", format!("VM {vm} on host {host} has it")),
        (None, None) => ("Available", "no VM has it".to_owned()),
    };
    (Verdict::True, reason, message)
}

/// The next step of a volume that is being deleted.
#[derive(Debug, PartialEq)]
pub enum Deletion {
    /// No bytes are left: it may go.
    Release,
    /// This host is to remove the bytes.
    Move(String),
    /// This is its status while it waits.
    Wait(VolumeStatus),
}

/// What keeps a volume that is being deleted and that a VM has.
pub fn attached(volume: &Volume, vm: &str) -> VolumeStatus {
    let name = volume.name_any();
    let message = format!("VM {vm} has it: detach it with `ucloudctl detach {vm} {name}`, or delete the VM");
    terminating(volume, "Attached", message)
}

/// How a volume goes that is being deleted and that no VM has. `around.host` is none only if there certainly is no such Host.
pub fn deletion(volume: &Volume, around: &Around<'_>, hosts: &[Arc<Host>]) -> Deletion {
    let Some(host) = host_of(volume) else { return Deletion::Release };
    let pool = volume.spec.effective_pool();
    let removes = |host: &Host| is_ready(host) && aspect(host).1.iter().any(|own| own == pool);
    if around.is_shared() && !around.host.is_some_and(removes) {
        let able = hosts.iter().filter(|host| removes(host)).map(|host| host.name_any());
        if let Some(other) = able.min() {
            return Deletion::Move(other);
        }
        let message = format!("waiting for a host that is Ready and has pool {pool}, which is to remove its bytes");
        return Deletion::Wait(terminating(volume, "NoHost", message));
    }
    let Some(known) = around.host else { return Deletion::Release };
    let (reason, mut message) = if is_ready(known) {
        ("Removing", format!("waiting until host {host} has removed its bytes"))
    } else {
        let silent = "which is not Ready, has removed its bytes; if it never returns, delete the Host";
        ("BytesRemain", format!("waiting until host {host}, {silent}"))
    };
    let status = status_of(volume);
    if let Some(removed) = condition::get(&status.conditions, REMOVED).filter(|removed| !removed.message.is_empty()) {
        message = format!("{message}: {}", removed.message);
    }
    Deletion::Wait(terminating(volume, reason, message))
}

fn terminating(volume: &Volume, reason: &'static str, message: String) -> VolumeStatus {
    let mut status = status_of(volume);
    status.phase = Some(VolumePhase::Terminating);
    find(volume, &mut status, &Finding::new(TERMINATING, Verdict::True, reason, message));
    status
}

/// What is said of a volume whose VM is gone.
pub fn abandoned(volume: &Volume, vm: &str) -> String {
    format!("VM {}/{vm}, which had {}, is gone", volume.namespace().unwrap_or_default(), name_of(volume))
}

#[cfg(test)]
mod tests;
