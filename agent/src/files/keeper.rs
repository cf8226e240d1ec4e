//! Reports what there is of Files, and removes what nobody wants any more.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use tokio::{sync::mpsc, time::Instant};
use tracing::info;
use ucloud_agent_core::{
    HostError,
    file::{self, Report},
    file_store::{FileRequest, Stored},
};
use ucloud_types::{
    File, StoragePool,
    condition::{self, Finding, READY, Verdict},
    meta::AGENT_FINALIZER,
};

use super::Failed;
use crate::{
    api::ApiError,
    keeper::{Failure, keep, pause},
    limit::limited,
    shared::Shared,
};

/// Keeps the Files as they should be, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let changes = vec![shared.caches.files.changes(), shared.caches.pools.changes(), shared.files.changes()];
    let round = || async {
        let begun = Instant::now();
        let kept = keep_all(&shared).await;
        pause(begun, &shared.files.awaited).await;
        kept
    };
    keep(&shared.config.timing, changes, "the Files are not as they should be", round).await;
}

/// What there is in each pool, by the pool's name.
type Found = BTreeMap<String, Result<BTreeMap<String, Stored>, HostError>>;

async fn keep_all(shared: &Arc<Shared>) -> Result<(), Failure> {
    let files = shared.caches.files.all();
    let pools = shared.caches.pools.all();
    let pools: Vec<&StoragePool> = pools.iter().map(AsRef::as_ref).collect();
    let mut found = Found::new();
    let mut first = Ok(());
    for file in &files {
        let kept = match file::wanted(file, &pools) {
            Ok(Some(request)) => keep_one(shared, file, request, &mut found).await,
            Ok(None) => Ok(()),
            Err(blocker) => {
                let ready = Finding::new(READY, Verdict::False, blocker.reason, blocker.message);
                report(shared, file, |_| ready).await
            }
        };
        match kept {
            // the File has changed or gone, which is told
            Err(Failure::Api(ApiError::Conflict | ApiError::Gone)) | Ok(()) => {}
            Err(error) => first = first.and(Err(error)),
        }
    }
    first
}

async fn keep_one(shared: &Arc<Shared>, file: &File, request: FileRequest, found: &mut Found) -> Result<(), Failure> {
    let (limit, store) = (shared.config.timing.step, &shared.machine.files);
    if file.metadata.deletion_timestamp.is_some() {
        return release(shared, file, &request).await;
    }
    if !found.contains_key(&request.pool.name) {
        let listed = limited(limit, "list its files", store.files(&request.pool)).await;
        found.insert(request.pool.name.clone(), listed);
    }
    let stored = match &found[&request.pool.name] {
        Ok(files) => files.get(&request.uid).cloned().unwrap_or(Stored::Partial(0)),
        Err(error) => {
            let ready = Finding::new(READY, Verdict::False, error.reason, error.message.clone());
            report(shared, file, |_| ready).await?;
            return Err(HostError::retryable(error.reason, error.message.clone()).into());
        }
    };
    let coming = shared.files.is_coming(&request.uid);
    if stored == Stored::Partial(request.size) && !coming && request.sha256.is_some() {
        // the last byte came, and the agent ended before it could say so. Where the sender has promised the checksum it is awaited
        let (_, none) = mpsc::channel(1);
        tokio::spawn(super::append(Arc::clone(shared), request, file.spec.size.bytes(), none));
        return Ok(());
    }
    let failed = shared.files.state().failed.get(&request.uid).cloned();
    let told = file.status.as_ref().and_then(|status| status.received).unwrap_or_default().bytes();
    let next = match (failed, &stored) {
        (Some(Failed::Checksum(message)), Stored::Partial(0)) => Some(file::mismatch(message)),
        // until those who try again get further
        (Some(Failed::Host { reason, message }), Stored::Partial(size)) if !coming || *size <= told => {
            Some(file::failure(*size, reason, message))
        }
        _ => file::report(file, &stored, coming),
    };
    if let Some(Report { received, sha256, ready }) = next {
        report(shared, file, |status| {
            status.received = Some(received);
            status.sha256 = sha256;
            ready
        })
        .await?;
    }
    Ok(())
}

/// Writes what `change` makes of the status, and the condition that it gives.
async fn report(
    shared: &Shared,
    file: &File,
    change: impl FnOnce(&mut ucloud_types::FileStatus) -> Finding,
) -> Result<(), Failure> {
    let mut next = file.status.clone().unwrap_or_default();
    let finding = change(&mut next);
    condition::set(&mut next.conditions, &finding, file.metadata.generation, Timestamp::now());
    shared.api.report_file(file, &next).await?;
    Ok(())
}

/// Removes the bytes, and then lets the File go.
async fn release(shared: &Shared, file: &File, request: &FileRequest) -> Result<(), Failure> {
    let mut finalizers = file.metadata.finalizers.clone().unwrap_or_default();
    if !finalizers.iter().any(|finalizer| finalizer == AGENT_FINALIZER) {
        return Ok(());
    }
    if shared.files.is_coming(&request.uid) {
        // they end as soon as they see that it goes, which is told
        return Ok(());
    }
    info!(file = request.name, namespace = request.namespace, uid = request.uid, "removing the bytes of a file");
    let removed = shared.machine.files.remove(&request.pool, &request.uid);
    if let Err(error) = limited(shared.config.timing.step, "remove a file", removed).await {
        let ready = Finding::new(READY, Verdict::False, error.reason, error.message.clone());
        report(shared, file, |_| ready).await?;
        return Err(error.into());
    }
    shared.files.state().failed.remove(&request.uid);
    finalizers.retain(|finalizer| finalizer != AGENT_FINALIZER);
    shared.api.set_finalizers(file, &finalizers).await?;
    Ok(())
}
