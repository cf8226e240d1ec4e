//! The snapshot controller: decides what a snapshot is made of and which host takes it, and makes the images of its disks.
//!
//! It never touches a byte: the host that has the disks takes them, all at one moment (see the agent). A snapshot is its
//! images' owner, so that they go with it; it stays until no host can be at work on it any more, since what a host takes
//! for an image that nobody knows would be left behind.

mod plan;

use std::sync::Arc;

use kube::{
    Client, ResourceExt,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{
    Host, Image, Snapshot, VM, Volume,
    condition::{READY, TERMINATING},
    meta::SNAPSHOT_FINALIZER,
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Kind, Limits, Reconciler, Runtime, is_deleting, objects,
    report::{Reports, Share},
};
use plan::Source;

const NAME: &str = "snapshot";

/// The rest of a Snapshot's status is its host's.
const SHARE: Share =
    Share::Part { fields: &["phase", "sourceUid", "host", "disks"], conditions: &[READY, TERMINATING] };

/// What the controller reads.
#[derive(Clone)]
pub struct Caches {
    /// Snapshots.
    pub snapshots: Cache<Snapshot>,
    /// What they are of.
    pub vms: Cache<VM>,
    /// What others are of, and disks of VMs are.
    pub volumes: Cache<Volume>,
    /// What is made of them.
    pub images: Cache<Image>,
    /// Who takes them.
    pub hosts: Cache<Host>,
}

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let (by_vm, by_volume) = (caches.snapshots.clone(), caches.snapshots.clone());
    let (by_image, by_host) = (caches.snapshots.clone(), caches.snapshots.clone());
    let controller = Controller::new(NAME, runtime, &caches.snapshots)
        .watch(&caches.vms, move |change: &Change<VM>| {
            let Some(vm) = change.object() else { return Vec::new() };
            those(&by_vm, &**vm, |snapshot| !plan::is_taken(snapshot) && snapshot.spec.vm == vm.metadata.name)
        })
        .watch(&caches.volumes, move |change: &Change<Volume>| {
            let Some(volume) = change.object() else { return Vec::new() };
            those(&by_volume, &**volume, |snapshot| {
                !plan::is_taken(snapshot) && snapshot.spec.volume == volume.metadata.name
            })
        })
        .watch(&caches.images, move |change: &Change<Image>| {
            let Some(image) = change.object() else { return Vec::new() };
            those(&by_image, &**image, |snapshot| plan::owns(snapshot, image))
        })
        .watch(&caches.hosts, move |change: &Change<Host>| {
            let left = change.old.as_deref().filter(|_| change.new.is_none());
            let Some(name) = left.map(ResourceExt::name_any) else { return Vec::new() };
            let mut all = by_host.all();
            let is_its = |snapshot: &Snapshot| host_of(snapshot) == Some(name.as_str());
            all.retain(|snapshot| is_deleting(&**snapshot) && is_its(snapshot));
            all.into_iter().map(|snapshot| ObjectRef::from_obj(&*snapshot)).collect()
        });
    let reconciler = Snapshots {
        client: runtime.client.clone(),
        caches: caches.clone(),
        reports: Reports::new(runtime, NAME, SHARE),
    };
    controller.run(reconciler, Limits::default())
}

/// The snapshots in the namespace of this object which it affects.
fn those<K: Kind>(
    snapshots: &Cache<Snapshot>,
    object: &K,
    affected: impl Fn(&Snapshot) -> bool,
) -> Vec<ObjectRef<Snapshot>> {
    let mut all = snapshots.all();
    all.retain(|snapshot| snapshot.metadata.namespace == object.meta().namespace && affected(snapshot));
    all.into_iter().map(|snapshot| ObjectRef::from_obj(&*snapshot)).collect()
}

fn host_of(snapshot: &Snapshot) -> Option<&str> {
    snapshot.status.as_ref().and_then(|status| status.host.as_deref())
}

struct Snapshots {
    client: Client,
    caches: Caches,
    reports: Reports,
}

impl Snapshots {
    async fn serve(&self, snapshot: &Snapshot) -> Result<(), Failure> {
        let snapshot = objects::ensure_finalizer(&self.client, snapshot, SNAPSHOT_FINALIZER).await?;
        let mut images = self.caches.images.all();
        images.retain(|image| image.metadata.namespace == snapshot.metadata.namespace);
        let status = plan::plan(&snapshot, &self.source(&snapshot).await?, &images);
        // what it is made of is written down before anything is made
        if self.reports.write(&snapshot, &status).await? || plan::is_taken(&snapshot) {
            return Ok(());
        }
        for disk in &status.disks {
            if !images.iter().any(|image| image.metadata.name.as_ref() == Some(&disk.image)) {
                objects::create(&self.client, &plan::image_of(&snapshot, disk)).await?;
            }
        }
        Ok(())
    }

    async fn source(&self, snapshot: &Snapshot) -> Result<Source, Failure> {
        let namespace = snapshot.metadata.namespace.as_deref();
        let known = snapshot.status.as_ref().is_some_and(|status| status.source_uid.is_some());
        if let Some(name) = &snapshot.spec.vm {
            let mut vm = self.caches.vms.get(namespace, name);
            if vm.is_none() && known {
                // a cache is no proof of absence
                vm = objects::get(&self.client, namespace, name).await?.map(Arc::new);
            }
            let mut volumes = self.caches.volumes.all();
            volumes.retain(|volume| volume.metadata.namespace == snapshot.metadata.namespace);
            return Ok(vm.map_or(Source::Missing, |vm| Source::Vm(vm, volumes)));
        }
        let Some(name) = &snapshot.spec.volume else { return Ok(Source::Missing) };
        let mut volume = self.caches.volumes.get(namespace, name);
        if volume.is_none() && known {
            volume = objects::get(&self.client, namespace, name).await?.map(Arc::new);
        }
        Ok(volume.map_or(Source::Missing, Source::Volume))
    }

    async fn release(&self, snapshot: &Snapshot) -> Result<(), Failure> {
        if !snapshot.finalizers().iter().any(|finalizer| finalizer == SNAPSHOT_FINALIZER) {
            return Ok(());
        }
        if let Some(host) = host_of(snapshot).filter(|_| plan::is_being_taken(snapshot)) {
            let known = self.caches.hosts.get(None, host).is_some();
            // before what a host may have left is given up, the server has to say that it is gone
            if known || objects::get::<Host>(&self.client, None, host).await?.is_some() {
                return self.reports.write(snapshot, &plan::terminating(snapshot, host)).await.map(|_| ());
            }
        }
        objects::drop_finalizer(&self.client, snapshot, SNAPSHOT_FINALIZER).await
    }
}

impl Reconciler for Snapshots {
    type Object = Snapshot;

    async fn reconcile(&self, snapshot: Arc<Snapshot>) -> Result<Action, Failure> {
        if is_deleting(&*snapshot) {
            self.release(&snapshot).await?;
        } else {
            self.serve(&snapshot).await?;
        }
        Ok(Action::await_change())
    }

    async fn report_failure(
        &self,
        snapshot: Arc<Snapshot>,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        self.reports.write_failure(&*snapshot, READY, reason, message).await
    }
}
