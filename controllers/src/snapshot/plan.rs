//! What a snapshot is made of, and what its status is to say. Pure.

use std::sync::Arc;

use kube::{Resource as _, ResourceExt as _};
use ucloud_types::{
    Image, ImageSpec, Snapshot, SnapshotStatus, VM, Volume,
    condition::{self, Finding, READY, TAKEN, TAKING, TERMINATING, Verdict, is_true},
    image::{ImageFormat, ImageSource, SnapshotSource},
    snapshot::{SnapshotDisk, SnapshotPhase, VOLUME_DISK, image_name},
};

use crate::runtime::{
    report::{find, status_of},
    uid_of,
};

/// What a snapshot is of, as far as it is there.
pub enum Source {
    /// A VM, and the Volumes in its namespace.
    Vm(Arc<VM>, Vec<Arc<Volume>>),
    /// A Volume.
    Volume(Arc<Volume>),
    /// Nothing of that name.
    Missing,
}

impl Source {
    fn uid(&self) -> Option<&str> {
        match self {
            Self::Vm(vm, _) => Some(uid_of(&**vm)),
            Self::Volume(volume) => Some(uid_of(&**volume)),
            Self::Missing => None,
        }
    }

    /// The host that has it now.
    fn host(&self) -> Option<String> {
        match self {
            Self::Vm(vm, _) => vm.status.as_ref()?.binding.as_ref().map(|binding| binding.host.clone()),
            Self::Volume(volume) => {
                let status = volume.status.as_ref()?;
                status.attachment.as_ref().map(|attachment| attachment.host.clone()).or_else(|| status.host.clone())
            }
            Self::Missing => None,
        }
    }
}

/// What the snapshot is of, for messages.
fn source_name(snapshot: &Snapshot) -> String {
    match (&snapshot.spec.vm, &snapshot.spec.volume) {
        (Some(vm), _) => format!("VM {vm}"),
        (None, Some(volume)) => format!("Volume {volume}"),
        (None, None) => "nothing".to_owned(),
    }
}

/// Whether it was taken.
pub fn is_taken(snapshot: &Snapshot) -> bool {
    snapshot.status.as_ref().is_some_and(|status| is_true(&status.conditions, TAKEN))
}

/// Whether its host may be at work on it, or has left something half done.
pub fn is_being_taken(snapshot: &Snapshot) -> bool {
    let taken = snapshot.status.as_ref().and_then(|status| condition::get(&status.conditions, TAKEN));
    taken.is_some_and(|taken| taken.status != "True" && taken.reason == TAKING)
}

/// The status of a snapshot that is to be there. `images` are those in its namespace.
pub fn plan(snapshot: &Snapshot, source: &Source, images: &[Arc<Image>]) -> SnapshotStatus {
    let mut status = status_of(snapshot);
    if is_taken(snapshot) {
        return taken(snapshot, status, images);
    }
    let name = source_name(snapshot);
    if let Some(uid) = &status.source_uid
        && source.uid() != Some(uid)
    {
        let message = format!("{name} was deleted before the snapshot was taken: make a new snapshot");
        return said(snapshot, status, SnapshotPhase::Failed, "SourceGone", message);
    }
    let Some(uid) = source.uid().map(str::to_owned) else {
        let message = format!("{name} does not exist: create it, or make a snapshot of something else");
        return said(snapshot, status, SnapshotPhase::Pending, "SourceNotFound", message);
    };
    if status.disks.is_empty() {
        status.disks = match disks(snapshot, source) {
            Ok(disks) => disks,
            Err(message) => return said(snapshot, status, SnapshotPhase::Pending, "NoDisks", message),
        };
    }
    status.source_uid = Some(uid);
    // whoever has begun cleans up before another begins
    if !is_being_taken(snapshot) || status.host.is_none() {
        status.host = source.host().or(status.host);
    }
    let Some(host) = status.host.clone() else {
        let message = format!("{name} is on no host yet: it is taken as soon as it is");
        return said(snapshot, status, SnapshotPhase::Pending, "NoHost", message);
    };
    let known = condition::get(&status.conditions, TAKEN).map(|taken| (taken.reason.clone(), taken.message.clone()));
    match known {
        Some((reason, message)) if reason != TAKING => {
            said(snapshot, status, SnapshotPhase::Pending, "NotTaken", message)
        }
        _ => said(snapshot, status, SnapshotPhase::Taking, "Taking", format!("host {host} is taking it")),
    }
}

fn taken(snapshot: &Snapshot, status: SnapshotStatus, images: &[Arc<Image>]) -> SnapshotStatus {
    let is_ready = |name: &String| {
        let image = images.iter().find(|image| image.metadata.name.as_ref() == Some(name));
        image.and_then(|image| image.status.as_ref()).is_some_and(|status| is_true(&status.conditions, READY))
    };
    if let Some(waits) = status.disks.iter().find(|disk| !is_ready(&disk.image)) {
        let message = format!("it was taken; Image {} is about to be ready", waits.image);
        return said(snapshot, status, SnapshotPhase::Taking, "Taking", message);
    }
    let mut status = status;
    status.phase = Some(SnapshotPhase::Ready);
    let names: Vec<_> = status.disks.iter().map(|disk| disk.image.as_str()).collect();
    let message = format!("disks can be made of its images: {}", names.join(", "));
    find(snapshot, &mut status, &Finding::new(READY, Verdict::True, "Taken", message));
    status
}

fn said(
    snapshot: &Snapshot,
    mut status: SnapshotStatus,
    phase: SnapshotPhase,
    reason: &'static str,
    message: String,
) -> SnapshotStatus {
    status.phase = Some(phase);
    find(snapshot, &mut status, &Finding::new(READY, Verdict::False, reason, message));
    status
}

/// The disks that the source has now.
fn disks(snapshot: &Snapshot, source: &Source) -> Result<Vec<SnapshotDisk>, String> {
    let image = |disk: &str| image_name(&snapshot.name_any(), disk);
    let disks: Vec<_> = match source {
        Source::Missing => Vec::new(),
        Source::Volume(volume) => {
            let size = volume.status.as_ref().and_then(|status| status.size);
            let disk = size.map(|size| SnapshotDisk {
                name: VOLUME_DISK.to_owned(),
                volume_uid: volume.metadata.uid.clone(),
                pool: volume.spec.effective_pool().to_owned(),
                size,
                image: image(VOLUME_DISK),
            });
            disk.into_iter().collect()
        }
        Source::Vm(vm, volumes) => {
            let reported = vm.status.iter().flat_map(|status| &status.disks);
            let disk = |disk: &ucloud_types::vm::DiskStatus| {
                let uid = match &disk.volume {
                    None => None,
                    Some(name) => {
                        let volume = volumes.iter().find(|volume| volume.metadata.name.as_ref() == Some(name));
                        Some(volume.and_then(|volume| volume.metadata.uid.clone()).ok_or_else(|| {
                            format!("VM {} has Volume {name}, which nobody knows: detach it", vm.name_any())
                        })?)
                    }
                };
                Ok(SnapshotDisk {
                    name: disk.name.clone(),
                    volume_uid: uid,
                    pool: disk.pool.clone(),
                    size: disk.size,
                    image: image(&disk.name),
                })
            };
            reported.map(disk).collect::<Result<_, String>>()?
        }
    };
    if disks.is_empty() {
        return Err(format!("{} has no disk that was made yet: it is taken as soon as it has", source_name(snapshot)));
    }
    Ok(disks)
}

/// The image that is made of a disk.
pub fn image_of(snapshot: &Snapshot, disk: &SnapshotDisk) -> Image {
    let source = SnapshotSource { name: snapshot.name_any(), disk: disk.name.clone() };
    let spec = ImageSpec {
        source: ImageSource { snapshot: Some(source), ..ImageSource::default() },
        format: ImageFormat::Raw,
        compression: None,
        checksum: None,
        pool: Some(disk.pool.clone()),
    };
    let mut image = Image::new(&disk.image, spec);
    image.metadata.namespace = snapshot.namespace();
    image.metadata.owner_references = snapshot.controller_owner_ref(&()).map(|owner| vec![owner]);
    image
}

/// Whether the image is one of the snapshot's.
pub fn owns(snapshot: &Snapshot, image: &Image) -> bool {
    image.owner_references().iter().any(|owner| owner.uid == uid_of(snapshot))
}

/// The status of a snapshot that is being deleted while its host may be at work on it.
pub fn terminating(snapshot: &Snapshot, host: &str) -> SnapshotStatus {
    let mut status = status_of(snapshot);
    status.phase = Some(SnapshotPhase::Terminating);
    let message = format!("host {host} gives up taking it; if that host never returns, delete the Host");
    find(snapshot, &mut status, &Finding::new(TERMINATING, Verdict::True, "GivingUp", message));
    status
}
