//! Destroys orphans, and gives them to Volumes, as Orphans say.

use std::sync::Arc;

use kube::ResourceExt as _;
use tracing::info;
use ucloud_agent_core::{
    HostError,
    block_store::{DiskId, Pool},
    orphan::{self, Order},
    reason,
};
use ucloud_types::{Orphan, Volume, meta::AGENT_FINALIZER, orphan::OrphanKind};

use crate::{
    api::ApiError,
    keeper::{Failure, keep},
    limit::limited,
    shared::Shared,
};

/// Does what is to be done, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let caches = &shared.caches;
    let changes = vec![caches.orphans.changes(), caches.pools.changes()];
    keep(&shared.config.timing, changes, "cannot do with an orphan what is to be done", || sweep(&shared)).await;
}

async fn sweep(shared: &Shared) -> Result<(), Failure> {
    let all = shared.caches.orphans.all();
    let ordered: Vec<_> = all.iter().filter(|orphan| orphan::order(orphan, &shared.config.host).is_some()).collect();
    shared.orphans.retain(|failed| ordered.iter().any(|orphan| orphan::found(orphan).is(failed)));
    let mut first = Ok(());
    for cached in ordered {
        let found = orphan::found(cached);
        match carry_out(shared, cached).await {
            Ok(()) => shared.orphans.note(&found, None),
            // the Orphan has gone, which is told, or the Volume, which is told to the Orphan
            Err(Failure::Api(ApiError::Gone)) => {}
            // others write to the Volume
            Err(error @ Failure::Api(ApiError::Conflict)) => first = first.and(Err(error)),
            Err(error) => {
                let why = match &error {
                    Failure::Host(error) => error.message.clone(),
                    Failure::Api(error) => format!("the API server could not be asked: {error}; it is tried again"),
                };
                shared.orphans.note(&found, Some(why));
                first = first.and(Err(error));
            }
        }
    }
    first
}

/// Does what the Orphan says now, after the API server has said again that it belongs to nobody.
async fn carry_out(shared: &Shared, cached: &Orphan) -> Result<(), Failure> {
    let orphan = shared.api.read_orphan(&cached.name_any()).await?;
    let order = orphan::order(&orphan, &shared.config.host).filter(|_| orphan.metadata.uid == cached.metadata.uid);
    let Some(order) = order else { return Ok(()) };
    let uid = &orphan.spec.uid;
    let missing = shared.api.missing_owners(&shared.config.host, vec![uid.clone()]).await.map_err(|error| {
        let message = format!("the API server cannot say to whom it belongs: {error}; it is tried again");
        HostError::retryable("OwnerUnknown", message).caused_by(error)
    })?;
    if !missing.contains(uid) {
        let message = format!("there is an object with the UID {uid}: nothing that belongs to it is touched");
        return Err(HostError::retryable(reason::IN_USE, message).into());
    }
    match order {
        Order::Destroy => destroy(shared, &orphan).await.map_err(Failure::Host),
        Order::Adopt { namespace, volume, uid } => adopt(shared, &orphan, (&namespace, &volume, &uid)).await,
    }
}

async fn destroy(shared: &Shared, orphan: &Orphan) -> Result<(), HostError> {
    let (limit, machine, found) = (shared.config.timing.step, &shared.machine, orphan::found(orphan));
    info!(orphan = orphan.name_any(), what = found.describe(), pool = found.pool, "destroying what belongs to nobody");
    match found.kind {
        OrphanKind::Domain => {
            limited(limit, "switch a VM off", machine.hypervisor.destroy(&found.uid)).await?;
            limited(limit, "remove a VM's definition", machine.hypervisor.undefine(&found.uid)).await?;
            limited(limit, "remove a VM's console", machine.hypervisor.forget(&found.uid)).await
        }
        OrphanKind::Disk => {
            let (pool, disk) = disk(shared, orphan)?;
            require_idle(shared, &disk).await?;
            limited(limit, "remove a disk", machine.store.remove_disk(&pool, &disk)).await
        }
        OrphanKind::Image => {
            let pool = pool(shared, orphan)?;
            limited(limit, "remove an image", machine.store.remove_image(&pool, &found.uid)).await?;
            shared.images.forget(&found.uid);
            Ok(())
        }
        OrphanKind::File => {
            let pool = pool(shared, orphan)?;
            limited(limit, "remove a file", machine.files.remove(&pool, &found.uid)).await
        }
    }
}

/// Makes the disk the Volume's. Done again after whatever broke it off, it goes on where it was: the disk has the Volume's name, and
/// the Volume is told.
async fn adopt(shared: &Shared, orphan: &Orphan, (namespace, name, uid): (&str, &str, &str)) -> Result<(), Failure> {
    let volume = shared.api.read_volume(namespace, name).await?;
    if !takes_over(&volume, orphan, uid) {
        return Ok(());
    }
    let (pool, disk) = disk(shared, orphan)?;
    require_idle(shared, &disk).await?;
    info!(orphan = orphan.name_any(), volume = name, namespace, "a volume takes a disk over");
    let becomes = DiskId::of_volume(uid);
    let renamed = shared.machine.store.rename_disk(&pool, &disk, &becomes);
    let size = limited(shared.config.timing.step, "rename a disk", renamed).await?;
    let mut next = volume.status.clone().unwrap_or_default();
    next.host = Some(shared.config.host.clone());
    next.size = Some(size);
    shared.api.report_volume(&volume, &next).await?;
    Ok(())
}

/// Whether the Volume is the one that is meant, and is to be made of this Orphan yet.
fn takes_over(volume: &Volume, orphan: &Orphan, uid: &str) -> bool {
    let is_made = volume.status.as_ref().is_some_and(|status| status.size.is_some());
    volume.metadata.uid.as_deref() == Some(uid)
        && volume.spec.orphan() == orphan.metadata.name.as_deref()
        && volume.metadata.deletion_timestamp.is_none()
        && volume.finalizers().iter().any(|finalizer| finalizer == AGENT_FINALIZER)
        && !is_made
}

fn pool(shared: &Shared, orphan: &Orphan) -> Result<Pool, HostError> {
    shared.pool(orphan.spec.pool.as_deref().unwrap_or_default())
}

fn disk(shared: &Shared, orphan: &Orphan) -> Result<(Pool, DiskId), HostError> {
    let disk = orphan::disk_id(&orphan::found(orphan));
    let disk = disk.ok_or_else(|| HostError::terminal("InvalidOrphan", "it is no disk: only disks can be adopted"))?;
    Ok((pool(shared, orphan)?, disk))
}

/// No domain of this host that is up has the disk. Of other hosts' the block store knows.
async fn require_idle(shared: &Shared, disk: &DiskId) -> Result<(), HostError> {
    let domains = shared.machine.hypervisor.domains();
    let domains = limited(shared.config.timing.step, "list its domains", domains).await?;
    match orphan::user(&domains, disk) {
        None => Ok(()),
        Some(user) => {
            let vm = format!("{}/{}", user.spec.namespace, user.spec.name);
            let message = format!("the domain {} of VM {vm} runs and has it: destroy that first", user.spec.uid);
            Err(HostError::retryable(reason::IN_USE, message))
        }
    }
}
