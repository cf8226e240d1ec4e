//! Taking one snapshot.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt as _;
use tracing::{info, warn};
use ucloud_agent_core::{
    HostError,
    block_store::{CopyTarget, SnapshotRequest, StoredImage},
    hypervisor::{Consistency, Copying, DiskCopy},
    reason,
    snapshot::{Method, Order, Task, method, task},
    vm::Desired,
};
use ucloud_types::{
    Snapshot, SnapshotStatus,
    condition::{self, Finding, TAKEN, TAKING, Time, Verdict},
    snapshot,
};

use crate::{api::ApiError, keeper::Failure, limit::limited, shared::Shared};

/// How often is asked how far a copy is.
const LOOK: Duration = Duration::from_millis(500);
/// How long a copy may get no further.
const STALL: Duration = Duration::from_mins(5);

/// What was taken.
struct Taken {
    at: Timestamp,
    consistency: snapshot::Consistency,
    images: Vec<(String, StoredImage)>,
}

/// Takes a snapshot, all of it or nothing, and reports that.
pub async fn take(shared: &Shared, snapshot: &Snapshot, order: &Order) -> Result<(), Failure> {
    // What was taken must not be thrown away because a cache does not know of it yet
    let snapshot = &shared.api.read_snapshot(snapshot).await?;
    if now(shared, snapshot) != Task::Take(order.clone()) {
        return Ok(());
    }
    if let Err(error) = check_source(shared, snapshot, order) {
        report(shared, snapshot, &unfinished(error.reason, &error.message), true, |_| {}).await?;
        return Err(error.into());
    }
    let host = &shared.config.host;
    let begun = unfinished(TAKING, &format!("host {host} is taking it"));
    let begun = report(shared, snapshot, &begun, true, |_| {}).await?;
    let taken = async {
        discard(shared, order).await?;
        all_at_once(shared, order).await
    };
    match taken.await {
        Ok(Taken { at, consistency, images }) => {
            // Before it says that it was taken: if that answer is lost, nobody comes here again. They are not used before
            shared.images.add(order.disks.iter().map(|disk| disk.request.pool.clone()).zip(images));
            let message = "all its disks were taken at one moment";
            let finding = Finding::new(TAKEN, Verdict::True, "Taken", message);
            report(shared, &begun, &finding, false, |status| {
                status.taken_at = Some(Time(at));
                status.consistency = Some(consistency);
            })
            .await?;
            let name = snapshot.name_any();
            info!(snapshot = name, namespace = snapshot.namespace(), ?consistency, "taken");
            Ok(())
        }
        Err(error) => {
            // As long as something may be left, it says so
            let said = match discard(shared, order).await {
                Ok(()) => unfinished(error.reason, &format!("{}; it is tried again", error.message)),
                Err(left) => {
                    warn!(reason = left.reason, error = &left as &dyn std::error::Error, "something may be left");
                    unfinished(TAKING, &format!("{}; it is tried again", error.message))
                }
            };
            report(shared, &begun, &said, false, |_| {}).await?;
            Err(error.into())
        }
    }
}

/// Removes what there may be of a snapshot that nobody wants any more, and says so.
pub async fn give_up(shared: &Shared, snapshot: &Snapshot, order: &Order) -> Result<(), Failure> {
    let snapshot = &shared.api.read_snapshot(snapshot).await?;
    if now(shared, snapshot) != Task::GiveUp(order.clone()) {
        return Ok(());
    }
    discard(shared, order).await?;
    report(shared, snapshot, &unfinished("GivenUp", "it was deleted before it was taken"), false, |_| {}).await?;
    Ok(())
}

/// What is to be done about it, as it is.
fn now(shared: &Shared, snapshot: &Snapshot) -> Task {
    task(snapshot, &shared.config.host, &shared.caches.images.all(), &shared.caches.pools.all())
}

fn unfinished(reason: &'static str, message: &str) -> Finding {
    Finding::new(TAKEN, Verdict::False, reason, message)
}

/// Writes what is found: gives the snapshot as it is then. `proof`: that it is written proves that the snapshot has not changed
/// since it was read.
async fn report(
    shared: &Shared,
    snapshot: &Snapshot,
    finding: &Finding,
    proof: bool,
    change: impl FnOnce(&mut SnapshotStatus),
) -> Result<Snapshot, ApiError> {
    let mut next = snapshot.status.clone().unwrap_or_default();
    condition::set(&mut next.conditions, finding, snapshot.metadata.generation, Timestamp::now());
    change(&mut next);
    Ok(shared.api.report_snapshot(snapshot, &next, proof).await?.unwrap_or_else(|| snapshot.clone()))
}

/// Whether the VM is bound to this host, and is not being restored.
fn check_source(shared: &Shared, snapshot: &Snapshot, order: &Order) -> Result<(), HostError> {
    let Some(name) = &snapshot.spec.vm else { return Ok(()) };
    let vm = shared.caches.vms.get(snapshot.metadata.namespace.as_deref(), name);
    let vm = vm.filter(|vm| vm.metadata.uid.as_ref() == Some(&order.source_uid));
    match vm.and_then(|vm| Desired::of(&vm, &shared.config.host).ok()) {
        None => Err(HostError::retryable("SourceElsewhere", "the VM is not on this host any more")),
        Some(vm) if vm.restore.is_some() => {
            let message = "the VM is being restored: it is taken when that is done";
            Err(HostError::retryable(reason::RESTORING, message))
        }
        Some(_) => Ok(()),
    }
}

/// Removes what an earlier attempt may have kept.
async fn discard(shared: &Shared, order: &Order) -> Result<(), HostError> {
    let limit = shared.config.timing.step;
    for disk in &order.disks {
        let SnapshotRequest { pool, image_uid, .. } = &disk.request;
        limited(limit, "remove an image", shared.machine.store.remove_image(pool, image_uid)).await?;
    }
    Ok(())
}

async fn all_at_once(shared: &Shared, order: &Order) -> Result<Taken, HostError> {
    let domains = limited(shared.config.timing.step, "list its domains", shared.machine.hypervisor.domains()).await?;
    let Method { domain, open, idle } = method(order, &domains);
    let mut images = Vec::new();
    let (mut at, mut consistency) = (Timestamp::now(), snapshot::Consistency::Filesystems);
    if let Some(vm) = domain {
        (at, consistency) = of_running(shared, vm, &open, &mut images).await?;
    }
    // Copying takes as long as it takes
    for request in idle {
        images.push((request.image_uid.clone(), shared.machine.store.snapshot(request).await?));
    }
    let made = |uid: &str| images.iter().find(|(made, _)| made == uid).cloned();
    let images = order.disks.iter().filter_map(|disk| made(&disk.request.image_uid)).collect();
    Ok(Taken { at, consistency, images })
}

/// Takes disks that a domain has open. What needs to be copied is copied while it goes on.
async fn of_running(
    shared: &Shared,
    vm: &str,
    open: &[(&str, &SnapshotRequest)],
    images: &mut Vec<(String, StoredImage)>,
) -> Result<(Timestamp, snapshot::Consistency), HostError> {
    let (limit, machine) = (shared.config.timing.step, &shared.machine);
    let (mut copies, mut instant) = (Vec::new(), Vec::new());
    for (name, request) in open {
        match limited(limit, "make a file to copy to", machine.store.copy_target(request)).await? {
            Some(target) => copies.push((*name, *request, target)),
            None => instant.push(*request),
        }
    }
    let moment = still(shared, vm, &copies, &instant, images).await;
    // Whatever has happened, the guest goes on; where this fails, it is tried again and again
    limited(limit, "let a VM go on", machine.hypervisor.resume(vm)).await?;
    let (at, consistency) = moment?;
    if !copies.is_empty() {
        let copied = copied(shared, vm).await;
        if copied.is_err() {
            limited(limit, "end a copy", machine.hypervisor.end_copy(vm)).await?;
        }
        copied?;
    }
    for (_, request, target) in copies {
        let kept = limited(limit, "keep a copy", machine.store.keep_copy(request, target)).await?;
        images.push((request.image_uid.clone(), kept));
    }
    Ok((at, consistency))
}

/// What is done while the guest stands still.
async fn still(
    shared: &Shared,
    vm: &str,
    copies: &[(&str, &SnapshotRequest, CopyTarget)],
    instant: &[&SnapshotRequest],
    images: &mut Vec<(String, StoredImage)>,
) -> Result<(Timestamp, snapshot::Consistency), HostError> {
    let (limit, machine) = (shared.config.timing.step, &shared.machine);
    let consistency = limited(limit, "make a VM stand still", machine.hypervisor.stand_still(vm)).await?;
    let at = Timestamp::now();
    if !copies.is_empty() {
        let copies: Vec<_> =
            copies.iter().map(|(name, _, to)| DiskCopy { disk: (*name).to_owned(), path: to.path.clone() }).collect();
        limited(limit, "begin to copy disks", machine.hypervisor.begin_copy(vm, &copies)).await?;
    }
    for request in instant {
        let kept = limited(limit, "take a snapshot", machine.store.snapshot(request)).await?;
        images.push((request.image_uid.clone(), kept));
    }
    // If it has stopped meanwhile, and was started again, this was not one moment
    let domain = limited(limit, "say whether the VM runs", machine.hypervisor.domain(vm)).await?;
    if !domain.is_some_and(|domain| domain.spec.standstill) {
        return Err(HostError::retryable("VMStopped", "the VM stopped while it was taken"));
    }
    let consistency = match consistency {
        Consistency::Crash => snapshot::Consistency::Crash,
        Consistency::Filesystems => snapshot::Consistency::Filesystems,
    };
    Ok((at, consistency))
}

/// Waits until all was copied.
async fn copied(shared: &Shared, vm: &str) -> Result<(), HostError> {
    let (limit, hypervisor) = (shared.config.timing.step, &shared.machine.hypervisor);
    let (mut last, mut idle) = (0, Duration::ZERO);
    loop {
        let failed = match limited(limit, "say how far a copy is", hypervisor.copying(vm)).await? {
            Copying::Done => return Ok(()),
            Copying::Running(percent) => {
                idle = if percent == last { idle + LOOK } else { Duration::ZERO };
                last = percent;
                (idle > STALL).then(|| "it got no further for five minutes".to_owned())
            }
            Copying::Failed(why) => Some(why),
            Copying::None => Some("nobody knows how it ended".to_owned()),
        };
        if let Some(why) = failed {
            return Err(HostError::retryable("CopyFailed", format!("the disks could not be copied: {why}")));
        }
        tokio::time::sleep(LOOK).await;
    }
}
