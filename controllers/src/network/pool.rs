//! Network pools: what is used of them, and whether they can be used at all.

use std::sync::Arc;

use kube::{
    ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{
    Host, NetworkAllocation, NetworkPool, NetworkPoolStatus,
    condition::{Finding, READY, Verdict},
};

use super::{holdings::Holdings, router};
use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime,
    cache::object_ref,
    report::{Reports, Share, find, status_of},
};

const NAME: &str = "network-pool";

/// Keeps the status of all pools, for ever.
pub fn run(
    runtime: &Runtime,
    pools: &Cache<NetworkPool>,
    allocations: &Cache<NetworkAllocation>,
    hosts: &Cache<Host>,
) -> impl Future<Output = ()> + use<> {
    let (all, pools_too) = (pools.clone(), pools.clone());
    let controller = Controller::new(NAME, runtime, pools)
        // a pool overlaps with others: all have to look when one comes, changes or goes
        .watch(pools, move |change: &Change<NetworkPool>| {
            let moved = change.differs(|pool| pool.spec.clone());
            let others = if moved { all.all() } else { Vec::new() };
            others.into_iter().map(|pool| ObjectRef::from_obj(&*pool))
        })
        .watch(allocations, |change: &Change<NetworkAllocation>| {
            change.object().map(|allocation| object_ref(None, &allocation.spec.pool))
        })
        // a VNI for which a host has devices is not free, whatever the allocations say
        .watch(hosts, move |change: &Change<Host>| {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            let pools =
                if old.map(router::networks) == new.map(router::networks) { Vec::new() } else { pools_too.all() };
            pools.into_iter().map(|pool| ObjectRef::from_obj(&*pool))
        });
    let reconciler = Tally {
        pools: pools.clone(),
        allocations: allocations.clone(),
        hosts: hosts.clone(),
        reports: Reports::new(runtime, NAME, Share::Whole),
    };
    controller.run(reconciler, Limits { concurrency: 4, ..Limits::default() })
}

struct Tally {
    pools: Cache<NetworkPool>,
    allocations: Cache<NetworkAllocation>,
    hosts: Cache<Host>,
    reports: Reports,
}

impl Reconciler for Tally {
    type Object = NetworkPool;

    async fn reconcile(&self, pool: Arc<NetworkPool>) -> Result<Action, Failure> {
        let holdings = Holdings::of(&pool, &self.allocations.all(), &self.hosts.all());
        let status = plan(&pool, &self.pools.all(), &holdings);
        self.reports.write(&*pool, &status).await?;
        Ok(Action::await_change())
    }

    async fn report_failure(
        &self,
        pool: Arc<NetworkPool>,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        self.reports.write_failure(&*pool, READY, reason, message).await
    }
}

/// What is wrong with the pool itself, so that nothing new may be taken from it.
pub fn defect(pool: &NetworkPool, all: &[Arc<NetworkPool>]) -> Option<Finding> {
    let name = pool.name_any();
    let overlaps = |other: &&Arc<NetworkPool>| {
        other.name_any() != name
            && (other.spec.prefix.overlaps(pool.spec.prefix) || other.spec.vni_range.overlaps(pool.spec.vni_range))
    };
    let not_ready = |reason, message| Some(Finding::new(READY, Verdict::False, reason, message));
    if let Some(other) = all.iter().filter(overlaps).min_by_key(|other| other.name_any()) {
        let what = if other.spec.prefix.overlaps(pool.spec.prefix) { "prefix" } else { "VNI range" };
        return not_ready(
            "Overlap",
            format!("the {what} of pool {name} overlaps with that of pool {}: delete one of them", other.name_any()),
        );
    }
    if pool.spec.size() == 0 {
        return not_ready(
            "Empty",
            format!(
                "pool {name} holds no network: it needs a VNI range that is not empty, and a prefix of /64 or shorter"
            ),
        );
    }
    None
}

fn plan(pool: &NetworkPool, all: &[Arc<NetworkPool>], holdings: &Holdings) -> NetworkPoolStatus {
    let mut status = status_of(pool);
    status.allocated = holdings.allocated();
    status.free = holdings.left();
    let fine = || Finding::new(READY, Verdict::True, "Available", "networks can be taken from it");
    find(pool, &mut status, &defect(pool, all).or_else(|| holdings.exhausted()).unwrap_or_else(fine));
    status
}

#[cfg(test)]
mod tests {
    use ucloud_types::condition::{get, is_true};

    use super::*;
    use crate::network::testing::{allocation, pool};

    #[test]
    fn counts_what_is_used() {
        let pool = pool("default", "fd00::/48", 100, 199);
        let allocations: Vec<_> = (100..103).map(|vni| Arc::new(allocation("default", vni, "u"))).collect();
        let status = plan(&pool, &[Arc::new(pool.clone())], &Holdings::of(&pool, &allocations, &[]));
        assert_eq!((status.allocated, status.free), (3, 97));
        assert!(is_true(&status.conditions, READY));
    }

    #[test]
    fn pools_that_overlap_are_not_ready() {
        let one = pool("one", "fd00::/48", 100, 199);
        for (other, what) in [
            (pool("two", "fd00::/40", 500, 599), "the prefix of pool one overlaps with that of pool two"),
            (pool("two", "fd01::/48", 199, 200), "the VNI range of pool one overlaps with that of pool two"),
        ] {
            let status = plan(&one, &[Arc::new(one.clone()), Arc::new(other)], &Holdings::of(&one, &[], &[]));
            let ready = get(&status.conditions, READY).unwrap();
            assert_eq!(ready.reason, "Overlap");
            assert!(ready.message.starts_with(what), "{}", ready.message);
        }
        assert_eq!(defect(&one, &[Arc::new(pool("two", "fd01::/48", 200, 299))]), None);
    }

    #[test]
    fn a_pool_without_a_slot_says_so() {
        assert_eq!(defect(&pool("p", "fd00::/80", 1, 9), &[]).unwrap().reason, "Empty");
    }
}
