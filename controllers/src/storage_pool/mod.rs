//! The storage pool controller: sums what hosts report of each pool, and says who looks for orphans in those that all share.

mod plan;

use std::sync::Arc;

use kube::{
    ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{Host, StoragePool, condition::READY};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime,
    report::{Reports, Share},
};

const NAME: &str = "storage-pool";

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, pools: &Cache<StoragePool>, hosts: &Cache<Host>) -> impl Future<Output = ()> + use<> {
    let all = pools.clone();
    let controller = Controller::new(NAME, runtime, pools).watch(hosts, move |change: &Change<Host>| {
        let parts = |host: &Host| host.status.as_ref().map(|status| status.pools.clone()).unwrap_or_default();
        let matters = change.differs(|host| (host.name_any(), parts(host), plan::is_ready(host)));
        let pools = if matters { all.all() } else { Vec::new() };
        pools.into_iter().map(|pool| ObjectRef::from_obj(&*pool))
    });
    let reconciler = Pools { hosts: hosts.clone(), reports: Reports::new(runtime, NAME, Share::Whole) };
    controller.run(reconciler, Limits { concurrency: 4, ..Limits::default() })
}

struct Pools {
    hosts: Cache<Host>,
    reports: Reports,
}

impl Reconciler for Pools {
    type Object = StoragePool;

    async fn reconcile(&self, pool: Arc<StoragePool>) -> Result<Action, Failure> {
        self.reports.write(&*pool, &plan::plan(&pool, &self.hosts.all())).await?;
        Ok(Action::await_change())
    }

    async fn report_failure(
        &self,
        pool: Arc<StoragePool>,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        self.reports.write_failure(&*pool, READY, reason, message).await
    }
}
