//! Why a VM cannot be started yet: what it needs that is missing or not ready.

use ucloud_types::{Image, Network, StoragePool, condition};

use crate::{image::LocalImage, network, reason};

use super::{Desired, WantedDisk};

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

/// Everything that keeps the VM from being started: `networks` and `disks` are what is known about its wanted
/// interfaces and disks, in order.
pub fn blockers(desired: &Desired, networks: &[Option<&Network>], disks: &[DiskInput<'_>]) -> Vec<Blocker> {
    let interfaces = network_blockers(desired, networks).into_iter().flatten();
    let disks = desired.disks.iter().zip(disks).filter_map(|(wanted, input)| disk_blocker(wanted, input));
    interfaces.chain(disks).collect()
}

fn disk_blocker(wanted: &WantedDisk, input: &DiskInput<'_>) -> Option<Blocker> {
    let WantedDisk { name: disk, image_namespace, image_name, pool, .. } = wanted;
    if input.pool.is_none() {
        return Some(Blocker::new(
            reason::STORAGE_POOL_NOT_FOUND,
            format!("disk {disk} needs StoragePool {pool}, which does not exist: create it, or name another pool"),
        ));
    }
    if input.exists {
        return None;
    }
    let name = format!("{image_namespace}/{image_name}");
    let Some(image) = input.image else {
        return Some(Blocker::new(
            reason::IMAGE_NOT_FOUND,
            format!("disk {disk} needs Image {name}, which does not exist: create it, or name another image"),
        ));
    };
    let not_ready = |why: String| Some(Blocker::new(reason::IMAGE_NOT_READY, why));
    if image.metadata.deletion_timestamp.is_some() {
        return not_ready(format!("disk {disk} needs Image {name}, which is being deleted: name another image"));
    }
    if image.spec.effective_pool() != pool {
        return not_ready(format!(
            "disk {disk} is to be made in StoragePool {pool}, but Image {name} is kept in {}: name the same pool in both",
            image.spec.effective_pool()
        ));
    }
    match input.local {
        // A copy that is not proven yet to be what all hosts have is not cloned
        LocalImage::Ready(stored) => match image.status.as_ref().and_then(|status| status.sha256.as_ref()) {
            Some(pinned) if *pinned == stored.sha256 => None,
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
