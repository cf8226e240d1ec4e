//! The controller of quotas: calculates what is used when a quota is new, or limits something new.
//!
//! From then on the API server keeps `status.used` itself, in the same transaction as each object that takes or gives back
//! something. A write here is of the version that was read before the objects were counted: whatever came or went in
//! between has written the quota too, and it is counted anew. Now and then it is counted all the same, in case that something
//! was taken out behind the server's back.

mod usage;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{ResourceQuota, ResourceQuotaStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, events::EventType, reflector::ObjectRef},
};
use tokio::time::Instant;

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime, is_deleting, objects,
    report::{Reports, Share},
    uid_of,
};

const NAME: &str = "resource-quota";
/// How long a count is good.
const RECOUNT: Duration = Duration::from_mins(5);
/// A first count is checked once more after so long: a deletion that did not know of the quota yet may have crossed it.
const CHECK: Duration = Duration::from_secs(10);

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, quotas: &Cache<ResourceQuota>) -> impl Future<Output = ()> + use<> {
    let (all, counted) = (quotas.clone(), Counted::default());
    let known = counted.clone();
    let controller = Controller::new(NAME, runtime, quotas).watch(quotas, move |change| {
        let neighbours = neighbours(&all, change);
        for quota in &neighbours {
            known.forget(uid_of(&**quota));
        }
        neighbours.iter().map(|quota| ObjectRef::from_obj(&**quota)).collect::<Vec<_>>()
    });
    let reconciler =
        Quotas { client: runtime.client.clone(), reports: Reports::new(runtime, NAME, Share::Whole), counted };
    controller.run(reconciler, Limits::default())
}

/// Quotas may limit how many quotas there are: when one comes or goes, the others of its namespace are counted.
fn neighbours(all: &Cache<ResourceQuota>, change: &Change<ResourceQuota>) -> Vec<Arc<ResourceQuota>> {
    if change.old.is_some() == change.new.is_some() {
        return Vec::new();
    }
    let namespace = change.object().and_then(|quota| quota.namespace());
    let others = all.all().into_iter();
    others.filter(|quota| quota.namespace() == namespace && usage::counts_quotas(quota)).collect()
}

/// Until when the count of each quota is good, by UID.
#[derive(Clone, Default)]
struct Counted(Arc<Mutex<HashMap<String, Instant>>>);

impl Counted {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Instant>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn forget(&self, uid: &str) {
        self.with(|counted| counted.remove(uid));
    }
}

struct Quotas {
    client: Client,
    reports: Reports,
    counted: Counted,
}

/// Whether the status tells everything that the spec limits.
fn is_complete(quota: &ResourceQuota) -> bool {
    let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let Some(status) = &quota.status else { return false };
    let names =
        |map: &Option<BTreeMap<String, Quantity>>| map.iter().flat_map(BTreeMap::keys).cloned().collect::<Vec<_>>();
    status.hard.clone().unwrap_or_default() == hard(quota)
        && names(&status.used) == hard(quota).into_keys().collect::<Vec<_>>()
}

impl Reconciler for Quotas {
    type Object = ResourceQuota;

    async fn reconcile(&self, quota: Arc<ResourceQuota>) -> Result<Action, Failure> {
        let uid = uid_of(&*quota).to_owned();
        if is_deleting(&*quota) {
            self.counted.forget(&uid);
            return Ok(Action::await_change());
        }
        let complete = is_complete(&quota);
        let good_until = self.counted.with(|counted| counted.get(&uid).copied());
        let rest = good_until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default();
        if complete && !rest.is_zero() {
            return Ok(Action::requeue(rest));
        }
        let namespace = quota.namespace().unwrap_or_default();
        // the version that is written must be older than the count
        let Some(live) = objects::get::<ResourceQuota>(&self.client, Some(&namespace), &quota.name_any()).await? else {
            return Ok(Action::await_change());
        };
        if uid_of(&live) != uid {
            return Ok(Action::await_change());
        }
        let hard = live.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let used = usage::count(&self.client, &namespace, hard.keys()).await?;
        let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
        self.reports.write_resource_quota(&live, &status).await?;
        let good = if complete { RECOUNT } else { CHECK };
        self.counted.with(|counted| counted.insert(uid, Instant::now() + good));
        Ok(Action::requeue(good))
    }

    async fn report_failure(
        &self,
        quota: Arc<ResourceQuota>,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        // a quota has no conditions
        self.reports.event(&*quota, EventType::Warning, "Count", reason, &message);
        Ok(())
    }
}
