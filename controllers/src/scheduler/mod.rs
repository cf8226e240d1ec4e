//! The scheduler: gives each VM that is to run, and has no host, one.
//!
//! It decides on a [`snapshot`] in memory and binds by the VM's subresource `binding`, which is a compare-and-swap on the
//! server: the VM must be unbound, in the version on which the decision was made, and the epoch the next one. So two
//! schedulers, or one that was stopped and resumed, cannot give a VM two hosts. Many VMs are bound at once.
//!
//! Rules:
//! - A VM whose run strategy is Halted gets no host. Every other one does, Manual included: somebody may start it.
//! - A VM that has a host keeps it, and its room there, running or not, until it is deleted.
//! - A VM that shares a MAC address with another one of the same network gets no host.
//! - A VM that has a Volume goes where that is, if the Volume's pool is not shared, and nowhere while there is no such Volume.
//! - A VM that fits nowhere says why in its condition Scheduled, and is looked at again when a host, a VM or one of
//!   its Volumes changes.

mod bind;
mod claim;
mod fit;
mod snapshot;
mod state;
mod volumes;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use tokio::sync::Notify;
use ucloud_types::{
    Host, Image, StoragePool, VM, Volume,
    condition::{Finding, SCHEDULED, TERMINATING, Verdict},
    vm::RunStrategy,
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime,
    events::EventType,
    is_deleting,
    queue::Requests,
    report::{Reports, Share, find, status_of},
    uid_of,
};
use bind::{Outcome, Unbound, bind};
use claim::Offer;
use state::{Decision, State, Wake};

const NAME: &str = "scheduler";
/// Of a VM it says whether there is a host for it, and what a VM waits for that is deleted before it has one.
const SHARE: Share = Share::Part { fields: &[], conditions: &[SCHEDULED, TERMINATING] };

/// How many VMs are bound at once.
const CONCURRENCY: u16 = 32;

/// VMs that wait and found no room in what changed look at their reasons again this much later, all together: with
/// thousands that wait while hosts come up one by one, a new message for each after each would be a storm of writes.
const REFRESH: Duration = Duration::from_secs(2);
/// So many of them may look again per second, in the long run.
const REFRESHED_PER_SECOND: u32 = 100;

/// What the scheduler reads.
#[derive(Clone)]
pub struct Caches {
    /// VMs.
    pub vms: Cache<VM>,
    /// Hosts.
    pub hosts: Cache<Host>,
    /// What VMs have as disks.
    pub volumes: Cache<Volume>,
    /// What their disks are made of.
    pub images: Cache<Image>,
    /// Where volumes and images are kept.
    pub pools: Cache<StoragePool>,
}

/// Runs the scheduler for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let state = Arc::new(Mutex::new(State::default()));
    let refresh = Arc::new(Notify::new());
    let (vm_state, vm_refresh) = (Arc::clone(&state), Arc::clone(&refresh));
    let (host_state, host_refresh) = (Arc::clone(&state), Arc::clone(&refresh));
    let (volume_state, image_state, pool_state) = (Arc::clone(&state), Arc::clone(&state), Arc::clone(&state));
    let controller = Controller::new(NAME, runtime, &caches.vms)
        .watch(&caches.volumes, move |change: &Change<Volume>| lock(&volume_state).volume_changed(change))
        .watch(&caches.images, move |change: &Change<Image>| lock(&image_state).image_changed(change))
        .watch(&caches.pools, move |change: &Change<StoragePool>| lock(&pool_state).pool_changed(change))
        .watch(&caches.vms, move |change: &Change<VM>| wake(&vm_refresh, lock(&vm_state).vm_changed(change)))
        .watch(&caches.hosts, move |change: &Change<Host>| {
            let name = change.object().map(|host| host.name_any()).unwrap_or_default();
            let offer = change.new.as_deref().map(Offer::of);
            wake(&host_refresh, lock(&host_state).host_changed(&name, offer))
        });
    let refreshing = refresh_for_ever(Arc::clone(&refresh), Arc::clone(&state), controller.requests());
    let scheduler = Scheduler {
        client: runtime.client.clone(),
        requests: controller.requests(),
        reports: Reports::new(runtime, NAME, SHARE),
        state,
        refresh,
    };
    let limits = Limits { concurrency: CONCURRENCY, ..Limits::default() };
    async move {
        tokio::join!(controller.run(scheduler, limits), refreshing);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wake(refresh: &Notify, wake: Wake) -> Vec<ObjectRef<VM>> {
    if wake.others_later {
        refresh.notify_one();
    }
    wake.now
}

async fn refresh_for_ever(refresh: Arc<Notify>, state: Arc<Mutex<State>>, requests: Requests<VM>) {
    loop {
        refresh.notified().await;
        let pause = refresh_pause(lock(&state).waiting().len());
        tokio::time::sleep(pause).await;
        let waiting = lock(&state).waiting();
        for vm in waiting {
            requests.request(vm);
        }
    }
}

/// How long after a change this many waiting VMs look at their reasons again.
fn refresh_pause(waiting: usize) -> Duration {
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    REFRESH.max(Duration::from_secs(1) * waiting / REFRESHED_PER_SECOND)
}

/// What is to be said, or done, about a VM before any host is looked at.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// It is to have a host.
    Host,
    /// It is to have none, and says so.
    Halted,
    /// It has none, and is on its way out.
    Gone,
    /// It has one.
    Settled,
}

fn wanted(vm: &VM) -> Wanted {
    let bound = vm.status.as_ref().is_some_and(|status| status.binding.is_some());
    match vm.spec.effective_run_strategy() {
        _ if bound => Wanted::Settled,
        _ if is_deleting(vm) => Wanted::Gone,
        RunStrategy::Halted => Wanted::Halted,
        RunStrategy::Always | RunStrategy::RerunOnFailure | RunStrategy::Manual => Wanted::Host,
    }
}

struct Scheduler {
    client: Client,
    state: Arc<Mutex<State>>,
    refresh: Arc<Notify>,
    requests: Requests<VM>,
    reports: Reports,
}

impl Scheduler {
    fn wake(&self, change: Wake) {
        for vm in wake(&self.refresh, change) {
            self.requests.request(vm);
        }
    }

    /// The VM is to have no host any more.
    fn abandon(&self, vm: &VM) {
        let change = lock(&self.state).abandoned(uid_of(vm));
        self.wake(change);
    }

    async fn bind(&self, vm: &VM, host: &str) -> Result<(), Failure> {
        match bind(&self.client, vm, host).await {
            Ok(Outcome::Bound(host)) => {
                let note = format!("bound to host {host}");
                self.reports.event(vm, EventType::Normal, "Binding", "Scheduled", &note);
                let change = lock(&self.state).bound(vm, &host);
                self.wake(change);
                Ok(())
            }
            Ok(Outcome::Gone) => {
                let change = lock(&self.state).refused(uid_of(vm));
                self.wake(change);
                Ok(())
            }
            Err(Unbound::Refused(failure)) => {
                let change = lock(&self.state).refused(uid_of(vm));
                self.wake(change);
                Err(failure)
            }
            // it may be bound: the room stays reserved, and the same host is tried again
            Err(Unbound::InDoubt(failure)) => Err(failure),
        }
    }

    async fn report(&self, vm: &VM, reason: &'static str, message: String) -> Result<(), Failure> {
        let mut status = status_of(vm);
        find(vm, &mut status, &Finding::new(SCHEDULED, Verdict::False, reason, message));
        self.reports.write(vm, &status).await.map(|_| ())
    }
}

impl Reconciler for Scheduler {
    type Object = VM;

    async fn reconcile(&self, vm: Arc<VM>) -> Result<Action, Failure> {
        match wanted(&vm) {
            Wanted::Settled => {}
            Wanted::Gone => self.abandon(&vm),
            Wanted::Halted => {
                self.abandon(&vm);
                let message = "runStrategy is Halted: the VM is given a host when it is to run";
                self.report(&vm, "Halted", message.to_owned()).await?;
            }
            Wanted::Host => {
                let decision = lock(&self.state).decide(&vm);
                match decision {
                    Decision::Bind(host) => self.bind(&vm, &host).await?,
                    Decision::Wait(no_fit) => self.report(&vm, no_fit.reason(), no_fit.message()).await?,
                    Decision::Settled => {}
                }
            }
        }
        Ok(Action::await_change())
    }

    async fn report_failure(&self, vm: Arc<VM>, reason: &'static str, message: String) -> Result<(), Failure> {
        self.reports.write_failure(&*vm, SCHEDULED, reason, message).await
    }
}

#[cfg(test)]
mod testing {
    //! Hosts and VMs for the tests of this folder.
    use serde_json::json;
    use ucloud_types::{Host, VM, Volume};

    /// A Ready compute host with this many CPUs and GiB of memory, and the pool default.
    pub fn host(name: &str, cpus: u32, gib: u32) -> Host {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"},
            "spec": {"roles": ["compute"]},
            "status": {
                "allocatable": {"cpus": cpus, "memory": format!("{gib}Gi")},
                "pools": [{"name": "default", "capacity": "1Ti", "available": "1Ti"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady", "message": "",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap()
    }

    /// The same on no host, which has a Volume of its namespace as another disk.
    pub fn vm_with_volume(name: &str, volume: &str) -> VM {
        let mut vm = vm(name, 1, 1, None);
        let disk = json!({"name": format!("disk-{volume}"), "volume": volume});
        vm.spec.disks.push(serde_json::from_value(disk).unwrap());
        vm
    }

    /// A Volume in namespace `default`, whose bytes are on `host`, if they are anywhere.
    pub fn volume(name: &str, pool: &str, host: Option<&str>) -> Volume {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
            "metadata": {"name": name, "namespace": "default"}, "spec": {"size": "1Gi", "pool": pool},
            "status": {"host": host},
        }))
        .unwrap()
    }

    /// A VM in namespace `default` with one disk and one interface, on `host` if there is one.
    pub fn vm(name: &str, cpus: u32, gib: u32, host: Option<&str>) -> VM {
        let mut vm: VM = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1"},
            "spec": {
                "cpus": cpus, "memory": format!("{gib}Gi"),
                "disks": [{"name": "root", "image": "debian"}],
                "networks": [{"name": "eth0", "network": "net"}],
            },
        }))
        .unwrap();
        vm.status = host.map(|host| ucloud_types::VMStatus {
            binding: Some(ucloud_types::vm::Binding { host: host.to_owned(), epoch: 1 }),
            ..Default::default()
        });
        vm
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::vm, *};

    #[test]
    fn thousands_that_wait_are_no_storm() {
        assert_eq!(refresh_pause(0), REFRESH);
        assert_eq!(refresh_pause(200), REFRESH);
        assert_eq!(refresh_pause(5000), Duration::from_secs(50));
    }

    #[test]
    fn only_vms_that_want_to_run_get_a_host() {
        let with = |strategy: Option<RunStrategy>, host: Option<&str>, deleting: bool| {
            let mut vm = vm("a", 1, 1, host);
            vm.spec.run_strategy = strategy;
            if deleting {
                vm.metadata.deletion_timestamp =
                    Some(ucloud_types::condition::Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH));
            }
            wanted(&vm)
        };
        assert_eq!(with(None, None, false), Wanted::Host);
        assert_eq!(with(Some(RunStrategy::Manual), None, false), Wanted::Host);
        assert_eq!(with(Some(RunStrategy::RerunOnFailure), None, false), Wanted::Host);
        assert_eq!(with(Some(RunStrategy::Halted), None, false), Wanted::Halted);
        assert_eq!(with(Some(RunStrategy::Halted), Some("h1"), false), Wanted::Settled);
        assert_eq!(with(None, Some("h1"), false), Wanted::Settled);
        assert_eq!(with(None, Some("h1"), true), Wanted::Settled);
        assert_eq!(with(None, None, true), Wanted::Gone);
    }
}
