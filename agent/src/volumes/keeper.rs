//! Removes the bytes of Volumes that are being deleted.

use std::sync::Arc;

use jiff::Timestamp;
use tracing::info;
use ucloud_agent_core::{HostError, block_store::DiskId, image, reason};
use ucloud_types::{
    Volume,
    condition::{self, Finding, REMOVED, Verdict},
    meta::AGENT_FINALIZER,
};

use crate::{
    api::ApiError,
    keeper::{Failure, keep},
    limit::limited,
    shared::Shared,
};

/// Removes what is to be removed, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let caches = &shared.caches;
    let changes = vec![caches.volumes.changes(), caches.pools.changes()];
    keep(&shared.config.timing, changes, "cannot remove a volume", || sweep(&shared)).await;
}

async fn sweep(shared: &Shared) -> Result<(), Failure> {
    let all = shared.caches.volumes.all();
    shared.volumes.keep(&all);
    let mut first = Ok(());
    for volume in all.into_iter().map(|volume| shared.volumes.newest(volume)) {
        if is_to_go(&volume, &shared.config.host) {
            match remove(shared, &volume).await {
                // it has changed or gone, which is told
                Err(Failure::Api(ApiError::Conflict | ApiError::Gone)) | Ok(()) => {}
                Err(error) => first = first.and(Err(error)),
            }
        }
    }
    first
}

/// Whether this host is to remove the bytes: nobody has the Volume any more, and nobody can come to have it.
fn is_to_go(volume: &Volume, host: &str) -> bool {
    let status = volume.status.as_ref();
    volume.metadata.deletion_timestamp.is_some()
        && volume.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == AGENT_FINALIZER)
        && status.is_some_and(|status| status.attachment.is_none() && status.host.as_deref() == Some(host))
}

async fn remove(shared: &Shared, volume: &Volume) -> Result<(), Failure> {
    let uid = volume.metadata.uid.as_deref().unwrap_or_default();
    if let Err(error) = remove_bytes(shared, volume, uid).await {
        let mut next = volume.status.clone().unwrap_or_default();
        let finding = Finding::new(REMOVED, Verdict::False, error.reason, error.message.clone());
        condition::set(&mut next.conditions, &finding, volume.metadata.generation, Timestamp::now());
        shared.api.report_volume(volume, &next).await?;
        return Err(error.into());
    }
    let finalizers = volume.metadata.finalizers.iter().flatten();
    let others: Vec<_> = finalizers.filter(|finalizer| *finalizer != AGENT_FINALIZER).cloned().collect();
    shared.api.set_finalizers(volume, &others).await?;
    Ok(())
}

async fn remove_bytes(shared: &Shared, volume: &Volume, uid: &str) -> Result<(), HostError> {
    let (limit, machine) = (shared.config.timing.step, &shared.machine);
    // No answer, however wrong, may cost a running VM its disk
    let domains = limited(limit, "list its domains", machine.hypervisor.domains()).await?;
    let user = domains.iter().find(|domain| domain.spec.disks.iter().any(|disk| disk.volume.as_deref() == Some(uid)));
    if let Some(user) = user {
        let vm = format!("{}/{}", user.spec.namespace, user.spec.name);
        return Err(HostError::retryable(reason::IN_USE, format!("the domain of VM {vm} still has it")));
    }
    let name = volume.spec.effective_pool();
    let pool = shared.caches.pools.get(None, name).and_then(|pool| image::pool(&pool)).ok_or_else(|| {
        let message = format!("StoragePool {name}, which has its bytes, does not exist: create it again");
        HostError::retryable(reason::STORAGE_POOL_NOT_FOUND, message)
    })?;
    info!(
        volume = volume.metadata.name.as_deref().unwrap_or_default(),
        namespace = volume.metadata.namespace.as_deref().unwrap_or_default(),
        uid,
        "removing a volume"
    );
    limited(limit, "remove a volume", machine.store.remove_disk(&pool, &DiskId::of_volume(uid))).await
}
