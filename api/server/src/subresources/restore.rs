//! `POST vms/NAME/restore`: the disks of a VM that is halted become again what they were when a snapshot was taken.
//!
//! The request is recorded in `status.restoreRequest` under the next id, with the Images that it needs, and the agent says in
//! `status.observedRestore` which one it has carried out. Only a VM that is halted, and of which the agent has said that it
//! has seen that, is restored: whatever makes it run again is a change that the agent learns of together with the request.

use async_trait::async_trait;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use ucloud_machinery::{
    status::{ApiError, FieldError, FieldPath},
    strategy::{Lister, Method, SubresourceHandler, SubresourceRequest, SubresourceResponse},
};
use ucloud_types::{
    GROUP, Image, Snapshot, VM, Volume,
    snapshot::{SnapshotDisk, SnapshotPhase},
    vm::{DiskSpec, RestoreRequest, RestoredDisk, RunStrategy, VMPhase},
};

use super::{conflict, edit, refuse_terminating};

/// The kind of the request's body.
const KIND: &str = "VMRestore";

/// The request's body: which snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VMRestore {
    api_version: String,
    kind: String,
    /// The name of a Snapshot of this VM, in its namespace.
    snapshot: String,
}

/// Serves the subresource.
pub struct RestoreHandler;

#[async_trait]
impl SubresourceHandler for RestoreHandler {
    fn methods(&self) -> &'static [Method] {
        &[Method::Create]
    }

    fn kind(&self) -> &'static str {
        "VM"
    }

    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError> {
        let (context, known) = (request.context, Known::new(&request));
        let body = request.body.ok_or_else(|| ApiError::bad_request(format!("the body must be a {KIND}")))?;
        let wanted: VMRestore = serde_json::from_value(body)
            .map_err(|error| ApiError::bad_request(format!("the body is no {KIND}: {error}")))?;
        let Some(snapshot) = known.get::<Snapshot>("snapshots", &wanted.snapshot) else {
            let error = FieldError::not_found(FieldPath::new("snapshot"), wanted.snapshot.as_str());
            return Err(ApiError::invalid(GROUP, KIND, context.name, &[error]));
        };
        let vm = request.target.update(&mut |vm| edit(vm, |vm| restore(vm, &snapshot, &known))).await?;
        Ok(SubresourceResponse::ok(vm))
    }
}

/// What there is in the VM's namespace.
struct Known<'a> {
    lister: &'a dyn Lister,
    namespace: Option<&'a str>,
}

impl<'a> Known<'a> {
    fn new(request: &SubresourceRequest<'a>) -> Self {
        Self { lister: request.context.lister, namespace: request.context.namespace }
    }

    fn get<K: DeserializeOwned>(&self, plural: &str, name: &str) -> Option<K> {
        serde_json::from_value(self.lister.get(GROUP, plural, self.namespace, name)?).ok()
    }
}

fn restore(vm: &mut VM, snapshot: &Snapshot, known: &Known<'_>) -> Result<(), ApiError> {
    refuse_terminating(vm)?;
    check_halted(vm)?;
    let name = snapshot.metadata.name.clone().unwrap_or_default();
    check_snapshot(vm, snapshot, &name)?;
    let taken = snapshot.status.iter().flat_map(|status| &status.disks);
    let disks = taken.filter_map(|disk| restored(vm, disk, known)).collect::<Result<Vec<_>, _>>();
    let disks = disks.map_err(|why| conflict(vm, &format!("snapshot {name:?} cannot be restored: {why}")))?;
    if disks.is_empty() {
        return Err(conflict(vm, &format!("the VM has none of the disks of snapshot {name:?} any more")));
    }
    let status = vm.status.get_or_insert_default();
    let last = status.restore_request.as_ref().map_or(0, |request| request.id);
    status.restore_request = Some(RestoreRequest { id: last + 1, snapshot: name, disks });
    Ok(())
}

/// It does not run, and nothing that is under way makes it run.
fn check_halted(vm: &VM) -> Result<(), ApiError> {
    if vm.spec.effective_run_strategy() != RunStrategy::Halted {
        let why = "the VM may run, and is restored only while spec.runStrategy is Halted: \
                   `ucloudctl stop` says that of one that runs always";
        return Err(conflict(vm, why));
    }
    let settled = vm.status.as_ref().is_some_and(|status| {
        status.phase == Some(VMPhase::Stopped) && status.observed_generation == vm.metadata.generation
    });
    if settled { Ok(()) } else { Err(conflict(vm, "the VM has not stopped yet: wait until its phase is Stopped")) }
}

fn check_snapshot(vm: &VM, snapshot: &Snapshot, name: &str) -> Result<(), ApiError> {
    let status = snapshot.status.clone().unwrap_or_default();
    let is_of_it = snapshot.spec.vm == vm.metadata.name && status.source_uid == vm.metadata.uid;
    let why = if !is_of_it {
        "is not of this VM: make another VM of it"
    } else if snapshot.metadata.deletion_timestamp.is_some() {
        "is being deleted"
    } else if status.phase != Some(SnapshotPhase::Ready) {
        "is not Ready"
    } else {
        return Ok(());
    };
    Err(conflict(vm, &format!("snapshot {name:?} {why}")))
}

/// What is to become of the disk of the snapshot: nothing, where the VM does not have it any more.
fn restored(vm: &VM, disk: &SnapshotDisk, known: &Known<'_>) -> Option<Result<RestoredDisk, String>> {
    let wanted = vm.spec.disks.iter().find(|wanted| wanted.name == disk.name)?;
    match (&wanted.volume, &disk.volume_uid) {
        (None, None) => {}
        (Some(name), Some(uid)) => {
            known.get::<Volume>("volumes", name).filter(|volume| volume.metadata.uid.as_ref() == Some(uid))?;
        }
        _ => return None,
    }
    Some(image_of(wanted, disk, known))
}

fn image_of(wanted: &DiskSpec, disk: &SnapshotDisk, known: &Known<'_>) -> Result<RestoredDisk, String> {
    let SnapshotDisk { name, image, volume_uid, pool, .. } = disk;
    if let Some(is) = wanted.effective_pool().filter(|is| is != pool) {
        return Err(format!("disk {name} is in pool {is}, and in pool {pool} there"));
    }
    let image_uid = known.get::<Image>("images", image).and_then(|image| image.metadata.uid);
    let image_uid = image_uid.ok_or_else(|| format!("its image {image} is gone"))?;
    Ok(RestoredDisk { name: name.clone(), volume_uid: volume_uid.clone(), image_uid })
}
