//! Makes Orphans of what hosts report.

use std::sync::Arc;

use futures::FutureExt as _;
use kube::{
    Client,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{Host, Orphan, StoragePool};

use super::{Caches, EventType, plan};
use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime, objects,
    report::{Reports, Share},
};

const NAME: &str = "orphan-finder";

/// Runs it for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let (by_orphan, by_pool) = (caches.hosts.clone(), caches.hosts.clone());
    let controller = Controller::new(NAME, runtime, &caches.hosts)
        // one that went though it is there still
        .watch(&caches.orphans, move |change: &Change<Orphan>| {
            let gone = change.old.as_deref().filter(|_| change.new.is_none());
            let reports = |host: &Host| gone.is_some_and(|orphan| plan::reported(host, &orphan.spec).is_some());
            those(&by_orphan, gone.is_some(), reports)
        })
        .watch(&caches.pools, move |change: &Change<StoragePool>| {
            let came = change.old.is_none();
            those(&by_pool, came, |host| host.status.as_ref().is_some_and(|status| !status.orphans.is_empty()))
        });
    let finder = Finder {
        client: runtime.client.clone(),
        caches: caches.clone(),
        reports: Reports::new(runtime, NAME, Share::Whole),
    };
    let owners = [caches.vms.ready().boxed(), caches.volumes.ready().boxed()];
    let others = [caches.images.ready().boxed(), caches.files.ready().boxed()];
    async move {
        // what is not known yet owns things, too
        futures::future::join_all(owners.into_iter().chain(others)).await;
        controller.run(finder, Limits { concurrency: 4, ..Limits::default() }).await;
    }
}

fn those(hosts: &Cache<Host>, matters: bool, affected: impl Fn(&Host) -> bool) -> Vec<ObjectRef<Host>> {
    let mut all = if matters { hosts.all() } else { Vec::new() };
    all.retain(|host| affected(host));
    all.into_iter().map(|host| ObjectRef::from_obj(&*host)).collect()
}

struct Finder {
    client: Client,
    caches: Caches,
    reports: Reports,
}

impl Reconciler for Finder {
    type Object = Host;

    async fn reconcile(&self, host: Arc<Host>) -> Result<Action, Failure> {
        let mut first = Ok(());
        for found in host.status.iter().flat_map(|status| &status.orphans) {
            let pool = found.pool.as_deref().map(|pool| self.caches.pools.get(None, pool));
            let shared = match pool {
                None => false,
                Some(Some(pool)) => pool.spec.is_shared(),
                // it is to come yet, or has gone and nobody can do anything
                Some(None) => continue,
            };
            let orphan = plan::orphan_of(&host, found, shared);
            let name = orphan.metadata.name.as_deref().unwrap_or_default();
            if self.caches.orphans.get(None, name).is_some() || self.caches.is_owned(&found.uid) {
                continue;
            }
            match objects::create(&self.client, &orphan).await {
                // another host has found it, or the answer to an earlier attempt was lost
                Ok(_) | Err(Failure::Conflict { .. }) => {}
                // one that is refused keeps no other from being listed
                Err(failure) => first = first.and(Err(failure)),
            }
        }
        first.map(|()| Action::await_change())
    }

    async fn report_failure(&self, host: Arc<Host>, reason: &'static str, message: String) -> Result<(), Failure> {
        self.reports.event(&*host, EventType::Warning, "Finding", reason, &message);
        Ok(())
    }
}
