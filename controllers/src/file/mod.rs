//! The file controller: decides which host keeps a File's bytes.
//!
//! It never touches a byte: uploads go through the API server to the host's agent, which reports what it has. A File
//! has the agent's finalizer before it has a host, so there is no moment in which it could vanish and leave bytes
//! behind. Where there is no host, or none any more, nobody else can release it, and this controller does.

mod plan;

use std::sync::Arc;

use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{
    File, Host, StoragePool,
    condition::{SCHEDULED, TERMINATING},
    meta::AGENT_FINALIZER,
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime, is_deleting, objects,
    report::{Reports, Share},
};

const NAME: &str = "file";

/// The rest of a File's status is its host's.
const SHARE: Share = Share::Part { fields: &["host"], conditions: &[SCHEDULED, TERMINATING] };

/// What the controller reads.
#[derive(Clone)]
pub struct Caches {
    /// Files.
    pub files: Cache<File>,
    /// Where they are kept.
    pub pools: Cache<StoragePool>,
    /// Who keeps them.
    pub hosts: Cache<Host>,
}

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let references = |files: Vec<Arc<File>>| files.into_iter().map(|file| ObjectRef::from_obj(&*file));
    let (by_pool, by_host) = (caches.files.clone(), caches.files.clone());
    let controller = Controller::new(NAME, runtime, &caches.files)
        .watch(&caches.pools, move |change: &Change<StoragePool>| {
            let pool = change.object().map(|pool| pool.name_any());
            let came_or_went = change.old.is_none() || change.new.is_none();
            let mut files = if came_or_went { by_pool.all() } else { Vec::new() };
            files.retain(|file| plan::host_of(file).is_none() && Some(file.spec.effective_pool()) == pool.as_deref());
            references(files)
        })
        .watch(&caches.hosts, move |change: &Change<Host>| {
            let host = change.object().map(|host| host.name_any());
            let mut files = if change.differs(plan::aspect) { by_host.all() } else { Vec::new() };
            files.retain(|file| plan::host_of(file).is_none_or(|own| Some(own) == host.as_deref()));
            references(files)
        });
    let reconciler =
        Files { client: runtime.client.clone(), caches: caches.clone(), reports: Reports::new(runtime, NAME, SHARE) };
    // one after the other, so that two seldom count on the same room; a pool that gets full all the same interrupts an
    // upload and loses nothing
    controller.run(reconciler, Limits { concurrency: 1, ..Limits::default() })
}

struct Files {
    client: Client,
    caches: Caches,
    reports: Reports,
}

impl Files {
    async fn serve(&self, file: &File) -> Result<(), Failure> {
        let file = objects::ensure_finalizer(&self.client, file, AGENT_FINALIZER).await?;
        let pool = self.caches.pools.get(None, file.spec.effective_pool());
        let status = plan::plan(&file, pool.as_deref(), &self.caches.hosts.all(), &self.caches.files.all());
        self.reports.write(&file, &status).await.map(|_| ())
    }

    async fn release(&self, file: &File) -> Result<(), Failure> {
        if !file.finalizers().iter().any(|finalizer| finalizer == AGENT_FINALIZER) {
            return Ok(());
        }
        let Some(host) = plan::host_of(file) else {
            return objects::drop_finalizer(&self.client, file, AGENT_FINALIZER).await;
        };
        let known = self.caches.hosts.get(None, host);
        // before the bytes are given up for lost, the server has to say so too
        if known.is_none() && objects::get::<Host>(&self.client, None, host).await?.is_none() {
            return objects::drop_finalizer(&self.client, file, AGENT_FINALIZER).await;
        }
        if known.is_some_and(|host| !plan::is_ready(&host)) {
            return self.reports.write(file, &plan::stuck(file, host)).await.map(|_| ());
        }
        Ok(())
    }
}

impl Reconciler for Files {
    type Object = File;

    async fn reconcile(&self, file: Arc<File>) -> Result<Action, Failure> {
        if is_deleting(&*file) {
            self.release(&file).await?;
        } else {
            self.serve(&file).await?;
        }
        Ok(Action::await_change())
    }

    async fn report_failure(&self, file: Arc<File>, reason: &'static str, message: String) -> Result<(), Failure> {
        self.reports.write_failure(&*file, SCHEDULED, reason, message).await
    }
}
