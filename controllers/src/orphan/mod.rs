//! The orphan controller: makes an Orphan of what hosts have found and no object explains, and says what becomes of it.
//!
//! Hosts report, people say what is to be done, hosts do it, and nobody else. What is here keeps the two apart: an order reaches a
//! host only after a look at every object there is on the server, and an Orphan goes once nobody finds it any more, or something
//! lives that it belongs to. Nothing is destroyed by itself unless an operator has said after how long.

mod find;
mod plan;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::join};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Client,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{File, Host, Image, Orphan, StoragePool, VM, Volume, condition::READY, orphan::OrphanPhase};

use crate::runtime::{
    Cache, Change, Clock, Controller, Failure, Kind, Limits, Lists, Reconciler, Runtime,
    events::EventType,
    objects,
    report::{Reports, Share},
    uid_of,
};
use plan::Around;

const NAME: &str = "orphan";

/// What the controller reads.
#[derive(Clone)]
pub struct Caches {
    /// Orphans.
    pub orphans: Cache<Orphan>,
    /// Who finds them, and sees to them.
    pub hosts: Cache<Host>,
    /// Where they are.
    pub pools: Cache<StoragePool>,
    /// What owns things on hosts.
    pub vms: Cache<VM>,
    /// What owns disks, and adopts some.
    pub volumes: Cache<Volume>,
    /// What owns copies of images.
    pub images: Cache<Image>,
    /// What owns bytes.
    pub files: Cache<File>,
}

impl Caches {
    /// Whether an object with this UID is known.
    fn is_owned(&self, uid: &str) -> bool {
        self.vms.all().iter().any(|vm| uid_of(&**vm) == uid)
            || self.volumes.all().iter().any(|volume| uid_of(&**volume) == uid)
            || self.images.all().iter().any(|image| uid_of(&**image) == uid)
            || self.files.all().iter().any(|file| uid_of(&**file) == uid)
    }
}

/// Runs the controller for ever. What is an orphan for as long as `destroy_after` is destroyed; with none, only what somebody says.
pub fn run(runtime: &Runtime, caches: &Caches, destroy_after: Option<Duration>) -> impl Future<Output = ()> + use<> {
    let (by_host, by_pool, by_volume) = (caches.orphans.clone(), caches.orphans.clone(), caches.orphans.clone());
    let controller = Controller::new(NAME, runtime, &caches.orphans)
        .watch(&caches.hosts, move |change: &Change<Host>| {
            let matters = change.differs(plan::aspect);
            let name = change.object().and_then(|host| host.metadata.name.clone());
            those(&by_host, matters, |orphan| orphan.spec.host.is_none() || orphan.spec.host == name)
        })
        .watch(&caches.pools, move |change: &Change<StoragePool>| {
            let matters = change.differs(|pool| pool.status.as_ref().and_then(|status| status.surveyor.clone()));
            let name = change.object().and_then(|pool| pool.metadata.name.clone());
            those(&by_pool, matters, |orphan| orphan.spec.pool == name)
        })
        .watch(&caches.volumes, move |change: &Change<Volume>| {
            let Some(volume) = change.object() else { return Vec::new() };
            those(&by_volume, true, |orphan| plan::is_named(orphan, volume) || orphan.spec.uid == uid_of(&**volume))
        })
        .watch(&caches.vms, owner_of(&caches.orphans))
        .watch(&caches.images, owner_of(&caches.orphans))
        .watch(&caches.files, owner_of(&caches.orphans));
    let reconciler = Orphans {
        caches: caches.clone(),
        reports: Reports::new(runtime, NAME, Share::Whole),
        live: Live::new(&runtime.client),
        client: runtime.client.clone(),
        clock: Arc::clone(&runtime.clock),
        destroy_after,
    };
    let finder = find::run(runtime, caches);
    let keeper = controller.run(reconciler, Limits { concurrency: 4, ..Limits::default() });
    join(finder, keeper).map(|_| ())
}

/// The orphans that a change affects, if it matters at all.
fn those(orphans: &Cache<Orphan>, matters: bool, affected: impl Fn(&Orphan) -> bool) -> Vec<ObjectRef<Orphan>> {
    let mut all = if matters { orphans.all() } else { Vec::new() };
    all.retain(|orphan| affected(orphan));
    all.into_iter().map(|orphan| ObjectRef::from_obj(&*orphan)).collect()
}

/// The orphans whose owner has come.
fn owner_of<K: Kind>(orphans: &Cache<Orphan>) -> impl Fn(&Change<K>) -> Vec<ObjectRef<Orphan>> + use<K> {
    let orphans = orphans.clone();
    move |change| {
        let came = change.new.as_deref().filter(|_| change.old.is_none());
        those(&orphans, came.is_some(), |orphan| came.is_some_and(|owner| uid_of(owner) == orphan.spec.uid))
    }
}

/// Every object that may own something, as the server has it.
struct Live {
    vms: Lists<VM>,
    volumes: Lists<Volume>,
    images: Lists<Image>,
    files: Lists<File>,
}

impl Live {
    fn new(client: &Client) -> Self {
        let (vms, volumes) = (Lists::new(client), Lists::new(client));
        Self { vms, volumes, images: Lists::new(client), files: Lists::new(client) }
    }

    /// Whether an object with this UID is on the server now. An object that cannot be read fails the question.
    async fn has(&self, uid: &str) -> Result<bool, Failure> {
        Ok(self.vms.fresh(None).await?.iter().any(|vm| uid_of(&**vm) == uid)
            || self.volumes.fresh(None).await?.iter().any(|volume| uid_of(&**volume) == uid)
            || self.images.fresh(None).await?.iter().any(|image| uid_of(&**image) == uid)
            || self.files.fresh(None).await?.iter().any(|file| uid_of(&**file) == uid))
    }
}

struct Orphans {
    caches: Caches,
    reports: Reports,
    live: Live,
    client: Client,
    clock: Clock,
    destroy_after: Option<Duration>,
}

impl Orphans {
    fn destroy_at(&self, orphan: &Orphan) -> Option<Timestamp> {
        let found = orphan.metadata.creation_timestamp.as_ref()?.0;
        found.checked_add(SignedDuration::try_from(self.destroy_after?).ok()?).ok()
    }
}

impl Reconciler for Orphans {
    type Object = Orphan;

    async fn reconcile(&self, orphan: Arc<Orphan>) -> Result<Action, Failure> {
        let (hosts, now, destroy_at) = (self.caches.hosts.all(), (self.clock)(), self.destroy_at(&orphan));
        let pool = orphan.spec.pool.as_deref().and_then(|pool| self.caches.pools.get(None, pool));
        let adoption = orphan.spec.adopt.as_ref();
        let volume = adoption.and_then(|to| self.caches.volumes.get(Some(&to.namespace), &to.volume));
        let owned = self.caches.is_owned(&orphan.spec.uid);
        let around = Around { hosts: &hosts, pool: pool.as_deref(), volume: volume.as_deref(), owned, destroy_at, now };
        let Some(status) = plan::plan(&orphan, &around) else {
            objects::delete(&self.client, &*orphan).await?;
            return Ok(Action::await_change());
        };
        let before = orphan.status.as_ref().and_then(|status| status.phase);
        // a cache is no proof of absence
        if status.phase != before && status.phase != Some(OrphanPhase::Found) && self.live.has(&orphan.spec.uid).await?
        {
            objects::delete(&self.client, &*orphan).await?;
            return Ok(Action::await_change());
        }
        self.reports.write(&*orphan, &status).await?;
        let left = destroy_at.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        Ok(match left.filter(|left| !left.is_zero() && status.phase == Some(OrphanPhase::Found)) {
            Some(left) => Action::requeue(left),
            None => Action::await_change(),
        })
    }

    async fn report_failure(&self, orphan: Arc<Orphan>, reason: &'static str, message: String) -> Result<(), Failure> {
        self.reports.write_failure(&*orphan, READY, reason, message).await
    }
}
