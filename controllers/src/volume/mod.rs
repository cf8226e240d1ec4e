//! The volume controller: says how volumes are, and sees to those whose VM, or whose host, is gone.
//!
//! Volumes are made, grown, given from VM to VM and removed by the agents of hosts. What no agent can do is done here: a VM
//! that is gone gives nothing back, and a host that is gone removes nothing. A volume has the agents' finalizer before
//! any agent may make it, so there is no moment in which it could vanish and leave bytes behind.

mod plan;

use std::sync::Arc;

use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use serde_json::json;
use ucloud_types::{
    Host, Image, Snapshot, StoragePool, VM, Volume,
    condition::{READY, TERMINATING},
    meta::AGENT_FINALIZER,
    vm::ImageRef,
    volume::ReclaimPolicy,
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Kind, Limits, Reconciler, Runtime,
    events::EventType,
    is_deleting, objects,
    report::{Reports, Share},
    uid_of,
};
use plan::{Around, Deletion, attachment_of, host_of, is_made};

const NAME: &str = "volume";

/// The rest of a Volume's status is the agents'.
const SHARE: Share = Share::Part { fields: &["phase"], conditions: &[READY, TERMINATING] };

/// What the controller reads.
#[derive(Clone)]
pub struct Caches {
    /// Volumes.
    pub volumes: Cache<Volume>,
    /// Who has them.
    pub vms: Cache<VM>,
    /// Who has their bytes.
    pub hosts: Cache<Host>,
    /// Where they are kept.
    pub pools: Cache<StoragePool>,
    /// What some of them are made of.
    pub images: Cache<Image>,
    /// What those are made of that are copies of others.
    pub snapshots: Cache<Snapshot>,
}

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let (by_vm, by_host) = (caches.volumes.clone(), caches.volumes.clone());
    let (by_pool, by_image, by_snapshot) = (caches.volumes.clone(), caches.volumes.clone(), caches.volumes.clone());
    let controller = Controller::new(NAME, runtime, &caches.volumes)
        .watch(&caches.vms, move |change: &Change<VM>| {
            let Some(vm) = change.object() else { return Vec::new() };
            those(&by_vm, came_or_went(change), |volume| {
                let has = attachment_of(volume).is_some_and(|attachment| attachment.vm == vm.name_any());
                has && volume.metadata.namespace == vm.metadata.namespace
            })
        })
        .watch(&caches.hosts, move |change: &Change<Host>| {
            let Some(host) = change.object() else { return Vec::new() };
            those(&by_host, change.differs(plan::aspect), |volume| {
                is_deleting(volume) || came_or_went(change) && host_of(volume) == Some(&host.name_any())
            })
        })
        .watch(&caches.pools, move |change: &Change<StoragePool>| {
            let Some(pool) = change.object() else { return Vec::new() };
            those(&by_pool, came_or_went(change), |volume| volume.spec.effective_pool() == pool.name_any())
        })
        .watch(&caches.images, move |change: &Change<Image>| {
            let Some(image) = change.object() else { return Vec::new() };
            let (namespace, name) = (image.namespace().unwrap_or_default(), image.name_any());
            those(&by_image, came_or_went(change), |volume| {
                let own = volume.namespace().unwrap_or_default();
                let is_it = |source: ImageRef| source.resolve(&own) == (namespace.as_str(), name.as_str());
                !is_made(volume) && volume.image().is_some_and(is_it)
            })
        })
        .watch(&caches.snapshots, move |change: &Change<Snapshot>| {
            let Some(snapshot) = change.object() else { return Vec::new() };
            those(&by_snapshot, change.differs(plan::snapshot_aspect), |volume| {
                volume.metadata.namespace == snapshot.metadata.namespace
                    && volume.source_snapshot() == snapshot.metadata.name
            })
        });
    let reconciler =
        Volumes { client: runtime.client.clone(), caches: caches.clone(), reports: Reports::new(runtime, NAME, SHARE) };
    controller.run(reconciler, Limits::default())
}

/// The volumes that a change affects, if it matters at all.
fn those(volumes: &Cache<Volume>, matters: bool, affected: impl Fn(&Volume) -> bool) -> Vec<ObjectRef<Volume>> {
    let mut all = if matters { volumes.all() } else { Vec::new() };
    all.retain(|volume| affected(volume));
    all.into_iter().map(|volume| ObjectRef::from_obj(&*volume)).collect()
}

fn came_or_went<K: Kind>(change: &Change<K>) -> bool {
    change.old.is_none() || change.new.is_none()
}

struct Volumes {
    client: Client,
    caches: Caches,
    reports: Reports,
}

/// What there is of what a volume names.
struct Found {
    pool: Option<Arc<StoragePool>>,
    image: Option<Arc<Image>>,
    snapshot: Option<Arc<Snapshot>>,
    host: Option<Arc<Host>>,
}

impl Found {
    fn around(&self) -> Around<'_> {
        Around {
            pool: self.pool.as_deref(),
            image: self.image.as_deref(),
            snapshot: self.snapshot.as_deref(),
            host: self.host.as_deref(),
        }
    }
}

/// Who has a volume.
enum Holder {
    Nobody,
    /// The VM of this name.
    Vm(String),
    /// A VM of this name, which is gone.
    Gone(String),
}

impl Volumes {
    async fn holder(&self, volume: &Volume) -> Result<Holder, Failure> {
        let Some(attachment) = attachment_of(volume) else { return Ok(Holder::Nobody) };
        let (namespace, name) = (volume.metadata.namespace.as_deref(), attachment.vm.clone());
        let is_it = |vm: &VM| uid_of(vm) == attachment.vm_uid;
        if self.caches.vms.get(namespace, &name).is_some_and(|vm| is_it(&vm)) {
            return Ok(Holder::Vm(name));
        }
        // a cache is no proof of absence
        let live: Option<VM> = objects::get(&self.client, namespace, &name).await?;
        Ok(if live.is_some_and(|vm| is_it(&vm)) { Holder::Vm(name) } else { Holder::Gone(name) })
    }

    async fn serve(&self, volume: &Volume) -> Result<(), Failure> {
        let volume = objects::ensure_finalizer(&self.client, volume, AGENT_FINALIZER).await?;
        if let Holder::Gone(vm) = self.holder(&volume).await? {
            return match volume.spec.effective_reclaim_policy() {
                ReclaimPolicy::Retain => self.detach(&volume, &vm).await,
                ReclaimPolicy::Delete => {
                    objects::delete(&self.client, &volume).await?;
                    let note = format!("{}; the reclaim policy is Delete", plan::abandoned(&volume, &vm));
                    self.reports.event(&volume, EventType::Normal, "Deleting", "Reclaimed", &note);
                    Ok(())
                }
            };
        }
        self.keep_source(&volume).await?;
        let found = self.find(&volume);
        self.reports.write(&volume, &plan::plan(&volume, &found.around())).await.map(|_| ())
    }

    async fn release(&self, volume: &Volume) -> Result<(), Failure> {
        if !volume.finalizers().iter().any(|finalizer| finalizer == AGENT_FINALIZER) {
            return Ok(());
        }
        match self.holder(volume).await? {
            Holder::Nobody => {}
            Holder::Gone(vm) => return self.detach(volume, &vm).await,
            Holder::Vm(vm) => return self.reports.write(volume, &plan::attached(volume, &vm)).await.map(|_| ()),
        }
        let mut found = self.find(volume);
        if found.pool.is_none() {
            // whether other hosts see the bytes is not guessed
            found.pool = objects::get(&self.client, None, volume.spec.effective_pool()).await?.map(Arc::new);
        }
        if let Some(name) = host_of(volume)
            && found.host.is_none()
            // before bytes are given up for lost, the server has to say so too; if it does not, the watch will
            && objects::get::<Host>(&self.client, None, name).await?.is_some()
        {
            return Ok(());
        }
        match plan::deletion(volume, &found.around(), &self.caches.hosts.all()) {
            Deletion::Release => objects::drop_finalizer(&self.client, volume, AGENT_FINALIZER).await,
            Deletion::Move(host) => objects::merge_status(&self.client, volume, json!({ "host": host })).await,
            Deletion::Wait(status) => self.reports.write(volume, &status).await.map(|_| ()),
        }
    }

    /// Takes the volume from a VM that is gone. The agent of that VM has let it go before: the VM had its finalizer until
    /// then.
    async fn detach(&self, volume: &Volume, vm: &str) -> Result<(), Failure> {
        objects::merge_status(&self.client, volume, json!({ "attachment": null })).await?;
        let note = plan::abandoned(volume, vm);
        self.reports.event(volume, EventType::Normal, "Detaching", "Detached", &note);
        Ok(())
    }

    /// The Snapshot that is taken of the Volume of which this one is to be a copy.
    fn snapshot(&self, volume: &Volume) -> Option<Arc<Snapshot>> {
        self.caches.snapshots.get(volume.metadata.namespace.as_deref(), &volume.source_snapshot()?)
    }

    /// Sees to it that there is that Snapshot until the copy is made, and not any longer.
    async fn keep_source(&self, volume: &Volume) -> Result<(), Failure> {
        let Some(wanted) = plan::snapshot_of(volume) else { return Ok(()) };
        match self.snapshot(volume) {
            None if !is_made(volume) => match objects::create(&self.client, &wanted).await {
                // the cache will tell whose it is
                Err(Failure::Conflict { .. }) => Ok(()),
                created => created.map(drop),
            },
            Some(snapshot) if is_made(volume) && plan::owns(volume, &snapshot) && !is_deleting(&*snapshot) => {
                objects::delete(&self.client, &*snapshot).await
            }
            _ => Ok(()),
        }
    }

    fn find(&self, volume: &Volume) -> Found {
        let own = volume.namespace().unwrap_or_default();
        let source = volume.image();
        Found {
            pool: self.caches.pools.get(None, volume.spec.effective_pool()),
            image: source.and_then(|source| {
                let (namespace, name) = source.resolve(&own);
                self.caches.images.get(Some(namespace), name)
            }),
            snapshot: self.snapshot(volume),
            host: host_of(volume).and_then(|host| self.caches.hosts.get(None, host)),
        }
    }
}

impl Reconciler for Volumes {
    type Object = Volume;

    async fn reconcile(&self, volume: Arc<Volume>) -> Result<Action, Failure> {
        if is_deleting(&*volume) {
            self.release(&volume).await?;
        } else {
            self.serve(&volume).await?;
        }
        Ok(Action::await_change())
    }

    async fn report_failure(&self, volume: Arc<Volume>, reason: &'static str, message: String) -> Result<(), Failure> {
        self.reports.write_failure(&*volume, READY, reason, message).await
    }
}
