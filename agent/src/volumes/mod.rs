//! The Volumes that the VMs of this host have.
//!
//! A VM's Volume is claimed before its bytes are touched, by a compare-and-swap on the Volume, and given back when the
//! domain has let go of it. Both are decided on what the API server says at that moment, never on the cache.

mod keeper;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::info;
use ucloud_agent_core::{
    HostError,
    block_store::{Content, DiskId, DiskRequest},
    reason,
    vm::{Desired, HeldVolume, MadeDisk, WantedDisk, claimable},
};
use ucloud_types::{Quantity, Volume, volume::Attachment};

use crate::{
    api::ApiError,
    limit::limited,
    shared::Shared,
    vm::{NO_IMAGE, replace, revision},
};

pub use keeper::run;

/// How often a claim is tried anew because the Volume has changed meanwhile.
const ATTEMPTS: u32 = 5;

/// Volumes, by UID, as the API server last answered a write, while the cache is behind it.
#[derive(Default)]
pub struct Volumes(Mutex<HashMap<String, Arc<Volume>>>);

impl Volumes {
    /// The newest that is known of this Volume.
    fn newest(&self, cached: Arc<Volume>) -> Arc<Volume> {
        let Some(uid) = cached.metadata.uid.as_ref() else { return cached };
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answers.get(uid) {
            Some(answer) if revision(&**answer) > revision(&*cached) => Arc::clone(answer),
            _ => {
                answers.remove(uid);
                cached
            }
        }
    }

    fn remember(&self, volume: &Volume) {
        if let Some(uid) = volume.metadata.uid.clone() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, Arc::new(volume.clone()));
        }
    }

    /// Forgets those that are gone.
    fn keep(&self, all: &[Arc<Volume>]) {
        let is_there = |uid: &String| all.iter().any(|volume| volume.metadata.uid.as_ref() == Some(uid));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| is_there(uid));
    }

    /// The Volume with this name.
    pub fn get(&self, shared: &Shared, namespace: &str, name: &str) -> Option<Arc<Volume>> {
        shared.caches.volumes.get(Some(namespace), name).map(|cached| self.newest(cached))
    }

    /// The Volumes that the VM has, sorted by name.
    pub fn held(&self, shared: &Shared, desired: &Desired) -> Vec<HeldVolume> {
        let all = shared.caches.volumes.all();
        let own = all.into_iter().filter(|volume| volume.metadata.namespace.as_ref() == Some(&desired.namespace));
        let mut held: Vec<_> = own
            .map(|volume| self.newest(volume))
            .filter(|volume| attachment(volume).is_some_and(|attachment| is_ours(attachment, desired)))
            .filter_map(|volume| {
                Some(HeldVolume { name: volume.metadata.name.clone()?, uid: volume.metadata.uid.clone()? })
            })
            .collect();
        held.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        held
    }
}

fn attachment(volume: &Volume) -> Option<&Attachment> {
    volume.status.as_ref()?.attachment.as_ref()
}

/// A claim of a later epoch is another host's affair.
fn is_ours(attachment: &Attachment, desired: &Desired) -> bool {
    attachment.vm_uid == desired.uid && attachment.epoch <= desired.epoch
}

/// The Volume of this name is the VM's, and its disk is there, with its size.
pub async fn ensure(shared: &Shared, desired: &Desired, name: &str) -> Result<MadeDisk, HostError> {
    let volume = claim(shared, desired, name).await?;
    let uid = volume.metadata.uid.clone().unwrap_or_default();
    let pool = shared.pool(volume.spec.effective_pool())?;
    let restored = volume.status.as_ref().and_then(|status| status.restored.clone());
    let content = match (restored, volume.image()) {
        (Some(image), _) => Content::Image(image),
        (None, None) if volume.spec.orphan().is_some() => Content::Kept,
        (None, None) => Content::Empty,
        (None, Some(image)) => {
            let (namespace, name) = image.resolve(&desired.namespace);
            let image = shared.caches.images.get(Some(namespace), name);
            Content::Image(image.and_then(|image| image.metadata.uid.clone()).unwrap_or_else(|| NO_IMAGE.to_owned()))
        }
    };
    let request = DiskRequest { id: DiskId::of_volume(&uid), pool, content, size: Some(volume.spec.size) };
    let disk = limited(shared.config.timing.step, "make a volume", shared.machine.store.ensure_disk(&request)).await?;
    report_size(shared, desired, name, &uid, disk.size).await?;
    Ok(MadeDisk { disk, volume: Some(uid), limits: volume.spec.limits })
}

/// The Volume that is the VM's disk of this name becomes what the image holds.
pub async fn restore(
    shared: &Shared,
    desired: &Desired,
    disk: &str,
    uid: &str,
    image_uid: &str,
) -> Result<(), HostError> {
    let wanted = desired.disks.iter().find(|wanted| wanted.name == disk);
    let Some(name) = wanted.and_then(WantedDisk::volume) else { return Ok(()) };
    let volume = claim(shared, desired, name).await?;
    if volume.metadata.uid.as_deref() != Some(uid) {
        let message = format!("Volume {name} is another one than the snapshot is of: restore the VM without it");
        return Err(HostError::retryable(reason::VOLUME_NOT_READY, message));
    }
    let pool = shared.pool(volume.spec.effective_pool())?;
    // Said first: whatever ends the agent, the volume is then made of this image or of none
    if !change(shared, desired, (name, uid), |status| status.restored = Some(image_uid.to_owned())).await? {
        let message = format!("Volume {name} is not the VM's any more: it is looked at again");
        return Err(HostError::retryable(reason::VOLUME_NOT_READY, message));
    }
    let size = Some(volume.spec.size);
    let size = replace(shared, pool, DiskId::of_volume(uid), size, image_uid).await?;
    report_size(shared, desired, name, uid, size).await
}

async fn claim(shared: &Shared, desired: &Desired, name: &str) -> Result<Volume, HostError> {
    for _ in 0..ATTEMPTS {
        let volume = read(shared, desired, name).await?;
        let pool = shared.caches.pools.get(None, volume.spec.effective_pool());
        claimable(desired, &volume, pool.as_deref())
            .map_err(|(reason, why)| HostError::retryable(reason, format!("the VM needs Volume {name}, {why}")))?;
        let mut next = volume.status.clone().unwrap_or_default();
        let attachment = Attachment {
            vm: desired.name.clone(),
            vm_uid: desired.uid.clone(),
            host: desired.host.clone(),
            epoch: desired.epoch,
        };
        let news = next.attachment.as_ref() != Some(&attachment);
        // With the claim, and so before the VM can write anything
        next.attachments += u64::from(news);
        next.attachment = Some(attachment);
        next.host = Some(desired.host.clone());
        match shared.api.report_volume(&volume, &next).await {
            Ok(None) => {
                shared.volumes.remember(&volume);
                return Ok(volume);
            }
            Ok(Some(written)) => {
                if news {
                    info!(volume = name, namespace = desired.namespace, vm = desired.name, "claimed");
                }
                shared.volumes.remember(&written);
                return Ok(written);
            }
            Err(ApiError::Conflict) => {}
            Err(error) => return Err(unwritten(name, error)),
        }
    }
    Err(unwritten(name, ApiError::Conflict))
}

/// Writes the size that the VM's Volume has.
pub async fn report_size(
    shared: &Shared,
    desired: &Desired,
    name: &str,
    uid: &str,
    size: Quantity,
) -> Result<(), HostError> {
    change(shared, desired, (name, uid), |status| status.size = Some(size)).await.map(drop)
}

/// Gives the Volume back. One that the VM does not have is left alone.
pub async fn release(shared: &Shared, desired: &Desired, held: &HeldVolume) -> Result<(), HostError> {
    change(shared, desired, (&held.name, &held.uid), |status| status.attachment = None).await?;
    info!(volume = held.name, namespace = desired.namespace, vm = desired.name, "given back");
    Ok(())
}

/// Changes the status of the Volume with this name and UID, if it is the VM's, and tells whether it is.
async fn change(
    shared: &Shared,
    desired: &Desired,
    (name, uid): (&str, &str),
    change: impl Fn(&mut ucloud_types::VolumeStatus),
) -> Result<bool, HostError> {
    for _ in 0..ATTEMPTS {
        let volume = match shared.api.read_volume(&desired.namespace, name).await {
            Ok(volume) if volume.metadata.uid.as_deref() == Some(uid) => volume,
            Ok(_) | Err(ApiError::Gone) => return Ok(false),
            Err(error) => return Err(unwritten(name, error)),
        };
        if !attachment(&volume).is_some_and(|attachment| is_ours(attachment, desired)) {
            shared.volumes.remember(&volume);
            return Ok(false);
        }
        let mut next = volume.status.clone().unwrap_or_default();
        change(&mut next);
        match shared.api.report_volume(&volume, &next).await {
            Ok(written) => {
                shared.volumes.remember(written.as_ref().unwrap_or(&volume));
                return Ok(true);
            }
            Err(ApiError::Conflict) => {}
            Err(error) => return Err(unwritten(name, error)),
        }
    }
    Err(unwritten(name, ApiError::Conflict))
}

async fn read(shared: &Shared, desired: &Desired, name: &str) -> Result<Volume, HostError> {
    match shared.api.read_volume(&desired.namespace, name).await {
        Ok(volume) => Ok(volume),
        Err(ApiError::Gone) => {
            Err(HostError::retryable(reason::VOLUME_NOT_FOUND, format!("Volume {name} does not exist: create it")))
        }
        Err(error) => Err(unwritten(name, error)),
    }
}

fn unwritten(name: &str, error: ApiError) -> HostError {
    let message = format!("Volume {name} cannot be claimed or given back: {error}; it is tried again");
    HostError::retryable("VolumeUnknown", message).caused_by(error)
}
