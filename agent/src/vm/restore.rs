//! Making the disks of a VM anew, of what a snapshot has of them.

use tracing::info;
use ucloud_agent_core::{
    HostError,
    block_store::{Content, DiskId, DiskRequest, Pool},
    reason,
    vm::{Desired, EndedRestore, WantedSource},
};
use ucloud_types::{
    Quantity, VM,
    vm::{RestoreRequest, RestoredDisk},
};

use crate::{limit::limited, shared::Shared, volumes};

use super::steps;

/// Restores the VM, which does not run; or finds that it cannot be restored any more, and changes nothing.
pub async fn restore(shared: &Shared, vm: &VM, desired: &Desired, request: &RestoreRequest) -> Result<(), HostError> {
    // What a cache believes must not cost anybody's data
    let newest = shared.api.read_vm(vm).await.map_err(|error| {
        HostError::retryable("RestoreUnknown", "the API server does not say whether the VM is still to be restored")
            .caused_by(error)
    })?;
    let newest = Desired::of(&newest, &shared.config.host).ok().filter(|newest| newest.uid == desired.uid);
    if newest.is_none_or(|newest| newest.epoch != desired.epoch || newest.restore.as_ref() != Some(request)) {
        return Err(HostError::retryable(
            "RestoreChanged",
            "what is to be restored has changed: it is looked at again",
        ));
    }
    let volumes = request.disks.iter().filter_map(|disk| disk.volume_uid.clone());
    let owners: Vec<_> = volumes.chain([desired.uid.clone()]).collect();
    if !shared.snapshots.claim(&owners, &request.snapshot) {
        return Err(HostError::retryable(reason::SNAPSHOT_BEING_TAKEN, "a snapshot is being taken of its disks"));
    }
    let restored = all(shared, desired, request).await;
    shared.snapshots.release(&owners);
    let done = restored?;
    let ended = EndedRestore { id: request.id, done };
    shared.memories.with(&desired.uid, |remembered| remembered.core.restore = Some(ended));
    let snapshot = &request.snapshot;
    if done {
        info!(vm = desired.name, namespace = desired.namespace, snapshot, "restored");
        shared.events.normal(vm, "Restored", format!("its disks are as in Snapshot {snapshot}"));
    } else {
        let message = format!("Snapshot {snapshot} was deleted: the disks were left as they are");
        shared.events.warning(vm, "NotRestored", message);
    }
    Ok(())
}

/// Restores all disks, and says true; or none, where an image is gone.
async fn all(shared: &Shared, desired: &Desired, request: &RestoreRequest) -> Result<bool, HostError> {
    // No answer, however wrong, may cost a running VM its disks: nothing runs after this, or it fails
    steps::destroy(shared, desired).await?;
    steps::undefine(shared, desired).await?;
    let mut disks = Vec::new();
    for disk in &request.disks {
        // What has left the spec since, or is another Volume by now, is no disk of the VM any more
        let Some(pool) = pool_of(shared, desired, disk) else { continue };
        let pool = shared.pool(&pool)?;
        let found = shared.machine.store.image(&pool, &disk.image_uid);
        if limited(shared.config.timing.step, "look for an image", found).await?.is_none() {
            return if is_gone(shared, &disk.image_uid) {
                Ok(false)
            } else {
                let message = format!("the image of disk {} is not in StoragePool {}", disk.name, pool.name);
                Err(HostError::retryable(reason::IMAGE_NOT_READY, message))
            };
        }
        disks.push((disk, pool));
    }
    for (disk, pool) in disks {
        match &disk.volume_uid {
            Some(uid) => volumes::restore(shared, desired, &disk.name, uid, &disk.image_uid).await?,
            None => own(shared, desired, disk, pool).await?,
        }
    }
    Ok(true)
}

fn is_gone(shared: &Shared, image_uid: &str) -> bool {
    !shared.caches.images.all().iter().any(|image| image.metadata.uid.as_deref() == Some(image_uid))
}

/// The name of the pool of the disk, where its image is too. None if it is not the VM's any more.
fn pool_of(shared: &Shared, desired: &Desired, disk: &RestoredDisk) -> Option<String> {
    let wanted = desired.disks.iter().find(|wanted| wanted.name == disk.name)?;
    match (&wanted.source, &disk.volume_uid) {
        (WantedSource::Clone { pool, .. }, None) => Some(pool.clone()),
        (WantedSource::Volume(name), Some(uid)) => {
            let volume = shared.volumes.get(shared, &desired.namespace, name)?;
            (volume.metadata.uid.as_ref() == Some(uid)).then(|| volume.spec.effective_pool().to_owned())
        }
        _ => None,
    }
}

/// Restores a disk of the VM's own, in the size that it has.
async fn own(shared: &Shared, desired: &Desired, disk: &RestoredDisk, pool: Pool) -> Result<(), HostError> {
    let wanted = desired.disks.iter().find(|wanted| wanted.name == disk.name).map(|wanted| &wanted.source);
    let size = match wanted {
        Some(WantedSource::Clone { size, .. }) => *size,
        _ => None,
    };
    let reported = desired.reported_disks.iter().find(|is| is.name == disk.name && is.volume.is_none());
    let id = DiskId { owner_uid: desired.uid.clone(), name: disk.name.clone() };
    replace(shared, pool, id, size.max(reported.map(|is| is.size)), &disk.image_uid).await.map(drop)
}

/// Makes a disk anew, as a clone of an image. Done once more, it ends the same.
pub async fn replace(
    shared: &Shared,
    pool: Pool,
    id: DiskId,
    size: Option<Quantity>,
    image_uid: &str,
) -> Result<Quantity, HostError> {
    let (limit, store) = (shared.config.timing.step, &shared.machine.store);
    limited(limit, "remove a disk", store.remove_disk(&pool, &id)).await?;
    let request = DiskRequest { id, pool, content: Content::Image(image_uid.to_owned()), size };
    Ok(limited(limit, "make a disk", store.ensure_disk(&request)).await?.size)
}
