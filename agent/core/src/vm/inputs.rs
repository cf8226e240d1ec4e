//! Why a VM cannot be started yet: what it needs that is missing or not ready.

use ucloud_types::{Image, Network, StoragePool, Volume, condition, meta::AGENT_FINALIZER};

use crate::{image::LocalImage, network, reason};

use super::{Desired, WantedDisk, WantedSource};

/// Something that a VM waits for. It starts the moment that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// A word for programs.
    pub reason: &'static str,
    /// Which object is missing or not ready, and what to do.
    pub message: String,
}

impl Blocker {
    /// A blocker.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What is known about a disk that is wanted.
#[derive(Clone, Copy, Debug)]
pub struct DiskInput<'a> {
    /// Whether the disk is there already, so that it needs no image any more.
    pub exists: bool,
    /// The Volume that it is to be, if that exists.
    pub volume: Option<&'a Volume>,
    /// Its pool, if that exists.
    pub pool: Option<&'a StoragePool>,
    /// Its image, if that exists.
    pub image: Option<&'a Image>,
    /// The host's copy of its image.
    pub local: &'a LocalImage,
}

/// For each wanted interface, in order, what keeps it from being attached; `networks` is what was found of their names.
pub fn network_blockers(desired: &Desired, networks: &[Option<&Network>]) -> Vec<Option<Blocker>> {
    let found = desired.interfaces.iter().zip(networks);
    found.map(|(interface, found)| network::ready(*found, &desired.namespace, &interface.network).err()).collect()
}

/// For each wanted disk, in order, what keeps it from being made or used; `disks` is what is known about them.
pub fn disk_blockers(desired: &Desired, disks: &[DiskInput<'_>]) -> Vec<Option<Blocker>> {
    desired.disks.iter().zip(disks).map(|(wanted, input)| disk_blocker(desired, wanted, input).err()).collect()
}

fn disk_blocker(desired: &Desired, wanted: &WantedDisk, input: &DiskInput<'_>) -> Result<(), Blocker> {
    let disk = &wanted.name;
    let (pool, image) = match &wanted.source {
        WantedSource::Clone { namespace, image, pool, .. } => (pool.as_str(), Some(format!("{namespace}/{image}"))),
        WantedSource::Volume(name) => {
            let volume = volume_ready(desired, disk, name, input)?;
            let image = volume.image().map(|image| {
                let (namespace, name) = image.resolve(&desired.namespace);
                format!("{namespace}/{name}")
            });
            (volume.spec.effective_pool(), image)
        }
    };
    if input.pool.is_none() {
        return Err(Blocker::new(
            reason::STORAGE_POOL_NOT_FOUND,
            format!("disk {disk} needs StoragePool {pool}, which does not exist: create it, or name another pool"),
        ));
    }
    match image {
        Some(name) if !input.exists => image_ready(disk, pool, &name, input.image, input.local),
        _ => Ok(()),
    }
}

/// The Volume that a disk is to be, if the VM has it or may have it.
fn volume_ready<'a>(desired: &Desired, disk: &str, name: &str, input: &DiskInput<'a>) -> Result<&'a Volume, Blocker> {
    let Some(volume) = input.volume else {
        return Err(Blocker::new(
            reason::VOLUME_NOT_FOUND,
            format!("disk {disk} needs Volume {name}, which does not exist: create it, or name another volume"),
        ));
    };
    claimable(desired, volume, input.pool)
        .map_err(|(reason, why)| Blocker::new(reason, format!("disk {disk} needs Volume {name}, {why}")))?;
    Ok(volume)
}

/// Whether the VM has the Volume, or may have it; else a reason, and a relative clause.
pub fn claimable(desired: &Desired, volume: &Volume, pool: Option<&StoragePool>) -> Result<(), (&'static str, String)> {
    let status = volume.status.as_ref();
    if let Some(attachment) = status.and_then(|status| status.attachment.as_ref()) {
        let ours = attachment.vm_uid == desired.uid && attachment.epoch <= desired.epoch;
        let (other, name) = (&attachment.vm, volume.metadata.name.as_deref().unwrap_or_default());
        return if ours {
            Ok(())
        } else {
            let why = format!(
                "which VM {other} on host {} has: `ucloudctl detach {other} {name}` takes it from there",
                attachment.host
            );
            Err((reason::VOLUME_IN_USE, why))
        };
    }
    if volume.metadata.deletion_timestamp.is_some() {
        return Err((reason::VOLUME_NOT_READY, "which is being deleted: name another volume".to_owned()));
    }
    // Without it, a deletion would leave the bytes behind
    if !volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == AGENT_FINALIZER) {
        return Err((reason::VOLUME_NOT_READY, "which is new, and waits for the volume controller".to_owned()));
    }
    // The first VM that has it must find the disk that is to become it, and not make one
    if let Some(orphan) = volume.spec.orphan().filter(|_| status.is_none_or(|status| status.size.is_none())) {
        let why =
            format!("which has yet to be made of Orphan {orphan}: `ucloudctl get orphan {orphan} -o wide` says why");
        return Err((reason::VOLUME_NOT_READY, why));
    }
    let place = status.and_then(|status| status.host.as_ref()).filter(|host| **host != desired.host);
    match place {
        Some(host) if pool.is_some_and(|pool| !pool.spec.is_shared()) => {
            let why = format!(
                "whose bytes are on host {host} alone, and this VM is bound to host {}: a VM that is made anew goes there",
                desired.host
            );
            Err((reason::VOLUME_ELSEWHERE, why))
        }
        _ => Ok(()),
    }
}

fn image_ready(disk: &str, pool: &str, name: &str, image: Option<&Image>, local: &LocalImage) -> Result<(), Blocker> {
    let Some(image) = image else {
        return Err(Blocker::new(
            reason::IMAGE_NOT_FOUND,
            format!("disk {disk} needs Image {name}, which does not exist: create it, or name another image"),
        ));
    };
    let not_ready = |why: String| Err(Blocker::new(reason::IMAGE_NOT_READY, why));
    if image.metadata.deletion_timestamp.is_some() {
        return not_ready(format!("disk {disk} needs Image {name}, which is being deleted: name another image"));
    }
    if image.spec.effective_pool() != pool {
        return not_ready(format!(
            "disk {disk} is to be made in StoragePool {pool}, but Image {name} is kept in {}: name the same pool in both",
            image.spec.effective_pool()
        ));
    }
    match local {
        // A copy that is not proven yet to be what all hosts have is not cloned
        LocalImage::Ready(stored) => match image.status.as_ref().and_then(|status| status.sha256.as_ref()) {
            Some(pinned) if *pinned == stored.sha256 => Ok(()),
            Some(_) => not_ready(format!("the copy of Image {name} on this host is being replaced: it differs")),
            None => not_ready(format!("Image {name} is on this host, and waits to be confirmed for all hosts")),
        },
        LocalImage::Importing { percent } => not_ready(format!("Image {name} is being imported: {percent}%")),
        LocalImage::Failed { message, .. } => not_ready(format!("Image {name} cannot be imported: {message}")),
        LocalImage::Absent => {
            let status = image.status.as_ref();
            let known = status
                .and_then(|status| condition::get(&status.conditions, condition::READY))
                .filter(|ready| ready.status != "True" && !ready.message.is_empty())
                .map_or_else(|| "its import has not begun".to_owned(), |ready| ready.message.clone());
            not_ready(format!("Image {name} is not on this host yet: {known}"))
        }
    }
}
