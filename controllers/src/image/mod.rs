//! The image controller: decides which host imports an image first, and reports what hosts make of it.
//!
//! It never touches a byte of an image: hosts fetch, check and convert (see the agent). An image that is being deleted stays
//! until no VM's disk is a clone of it, no Volume is yet to be made of it, and no host has a copy.

mod plan;
mod usage;

use std::sync::Arc;

use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{
    File, Host, Image, Snapshot, StoragePool, VM, Volume,
    condition::READY,
    meta::{IMAGE_FINALIZER, IMAGES_NAMESPACE},
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Lists, Reconciler, Runtime, is_deleting, objects,
    report::{Reports, Share},
};
use usage::holder;

const NAME: &str = "image";

/// What the controller reads.
#[derive(Clone)]
pub struct Caches {
    /// Images.
    pub images: Cache<Image>,
    /// What some of them are made of.
    pub files: Cache<File>,
    /// What others are made of.
    pub snapshots: Cache<Snapshot>,
    /// Where they are kept.
    pub pools: Cache<StoragePool>,
    /// Who imports them and has copies.
    pub hosts: Cache<Host>,
    /// Who uses them.
    pub vms: Cache<VM>,
    /// What is to be made of them.
    pub volumes: Cache<Volume>,
}

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let references = |images: Vec<Arc<Image>>| images.into_iter().map(|image| ObjectRef::from_obj(&*image));
    let (by_pool, by_host, by_vm) = (caches.images.clone(), caches.images.clone(), caches.images.clone());
    let (by_file, by_volume, by_snapshot) = (caches.images.clone(), caches.images.clone(), caches.images.clone());
    let controller = Controller::new(NAME, runtime, &caches.images)
        .watch(&caches.pools, move |change: &Change<StoragePool>| {
            let pool = change.object().map(|pool| pool.name_any());
            let came_or_went = change.old.is_none() || change.new.is_none();
            let mut images = if came_or_went { by_pool.all() } else { Vec::new() };
            images.retain(|image| Some(image.spec.effective_pool()) == pool.as_deref());
            references(images)
        })
        .watch(&caches.hosts, move |change: &Change<Host>| {
            let matters = change.differs(plan::aspect);
            let mut images = if matters { by_host.all() } else { Vec::new() };
            // what is imported and stays depends on no host
            images.retain(|image| {
                is_deleting(&**image) || image.status.as_ref().is_none_or(|status| status.sha256.is_none())
            });
            references(images)
        })
        .watch(&caches.files, move |change: &Change<File>| {
            let file = change.object().map(|file| (file.namespace(), file.name_any()));
            let mut images = if change.differs(plan::file_aspect) { by_file.all() } else { Vec::new() };
            images.retain(|image| {
                let source = image.spec.source.upload.as_ref();
                source.map(|source| (image.namespace(), source.file.clone())) == file
            });
            references(images)
        })
        .watch(&caches.snapshots, move |change: &Change<Snapshot>| {
            let snapshot = change.object().map(|snapshot| (snapshot.namespace(), snapshot.name_any()));
            let mut images = if change.differs(plan::snapshot_aspect) { by_snapshot.all() } else { Vec::new() };
            images.retain(|image| {
                let source = image.spec.source.snapshot.as_ref();
                source.map(|source| (image.namespace(), source.name.clone())) == snapshot
            });
            references(images)
        })
        .watch(&caches.vms, move |change: &Change<VM>| {
            let mut images = if change.differs(|vm| (vm.spec.disks.clone(), vm.pending_restore().cloned())) {
                by_vm.all()
            } else {
                Vec::new()
            };
            images.retain(|image| is_deleting(&**image));
            references(images)
        })
        .watch(&caches.volumes, move |change: &Change<Volume>| {
            let mut images = if change.differs(usage::is_to_be_made) { by_volume.all() } else { Vec::new() };
            images.retain(|image| is_deleting(&**image));
            references(images)
        });
    let reconciler = Images {
        client: runtime.client.clone(),
        caches: caches.clone(),
        live_vms: Lists::new(&runtime.client),
        live_volumes: Lists::new(&runtime.client),
        live_hosts: Lists::new(&runtime.client),
        reports: Reports::new(runtime, NAME, Share::Whole),
    };
    controller.run(reconciler, Limits::default())
}

struct Images {
    client: Client,
    caches: Caches,
    live_vms: Lists<VM>,
    live_volumes: Lists<Volume>,
    live_hosts: Lists<Host>,
    reports: Reports,
}

impl Images {
    async fn serve(&self, image: &Image) -> Result<(), Failure> {
        let image = objects::ensure_finalizer(&self.client, image, IMAGE_FINALIZER).await?;
        let pool_exists = self.caches.pools.get(None, image.spec.effective_pool()).is_some();
        let upload = image.spec.source.upload.as_ref();
        let file = upload.and_then(|upload| self.caches.files.get(image.namespace().as_deref(), &upload.file));
        let hosts = self.caches.hosts.all();
        let status = match &image.spec.source.snapshot {
            Some(source) => {
                let snapshot = self.caches.snapshots.get(image.namespace().as_deref(), &source.name);
                plan::of_snapshot(&image, snapshot.as_deref(), &hosts)
            }
            None => plan::plan(&image, pool_exists, &hosts, file.as_deref()),
        };
        self.reports.write(&image, &status).await.map(|_| ())
    }

    async fn release(&self, image: &Image) -> Result<(), Failure> {
        if !image.finalizers().iter().any(|finalizer| finalizer == IMAGE_FINALIZER) {
            return Ok(());
        }
        let mut held = holder(image, &self.caches.vms.all(), &self.caches.volumes.all(), &self.caches.hosts.all());
        if held.is_none() {
            // before the image goes for good, the server has to say so too
            let own = image.namespace().filter(|namespace| namespace != IMAGES_NAMESPACE);
            let (vms, volumes, hosts) = tokio::try_join!(
                self.live_vms.fresh(own.as_deref()),
                self.live_volumes.fresh(own.as_deref()),
                self.live_hosts.fresh(None)
            )?;
            held = holder(image, &vms, &volumes, &hosts);
        }
        match held {
            Some(holder) => self.reports.write(image, &plan::terminating(image, &holder)).await.map(|_| ()),
            None => objects::drop_finalizer(&self.client, image, IMAGE_FINALIZER).await,
        }
    }
}

impl Reconciler for Images {
    type Object = Image;

    async fn reconcile(&self, image: Arc<Image>) -> Result<Action, Failure> {
        if is_deleting(&*image) {
            self.release(&image).await?;
        } else {
            self.serve(&image).await?;
        }
        Ok(Action::await_change())
    }

    async fn report_failure(&self, image: Arc<Image>, reason: &'static str, message: String) -> Result<(), Failure> {
        self.reports.write_failure(&*image, READY, reason, message).await
    }
}

#[cfg(test)]
mod testing {
    //! Images and who has them, for the tests of this folder.
    use serde_json::{Value, json};
    use ucloud_types::{Host, Image, VM, Volume, image::Sha256};

    pub fn sum(digit: char) -> Sha256 {
        format!("sha256:{}", digit.to_string().repeat(64)).try_into().unwrap()
    }

    pub fn image(name: &str, namespace: &str) -> Image {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}")},
            "spec": {"source": {"file": {"name": "debian.qcow2"}}, "format": "qcow2"},
        }))
        .unwrap()
    }

    /// A Ready host with the pool default and these images.
    pub fn host(name: &str, images: Value) -> Host {
        let mut host: Host = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {},
            "status": {
                "pools": [{"name": "default", "capacity": "1Ti", "available": "1Ti"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady", "message": "",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap();
        host.status.as_mut().unwrap().images = serde_json::from_value(images).unwrap();
        host
    }

    /// A Volume that is to be made of the image; it was made, if it has a size.
    pub fn volume(namespace: &str, image: &str, size: Option<&str>) -> Volume {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
            "metadata": {"name": "data", "namespace": namespace},
            "spec": {"size": "1Gi", "source": {"image": image}}, "status": {"size": size},
        }))
        .unwrap()
    }

    pub fn vm(namespace: &str, image: &str) -> VM {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
            "metadata": {"name": "vm", "namespace": namespace},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": image}]},
        }))
        .unwrap()
    }
}
