//! One reconcile: observe, plan, carry out, again and again; then report.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use kube::runtime::controller::Action;
use tokio::time::Instant;
use tracing::{debug, warn};
use ucloud_agent_core::{
    HostError,
    vm::{self, Desired, Facts, Observed, Plan, Provisioned, Step, next_status},
};
use ucloud_types::{VM, meta::AGENT_FINALIZER, vm::VMPhase};

use crate::{api::ApiError, clock::timer, shared::Shared, volumes};

use super::{addresses, backoff::Wish, memory::Remembered, observe::observe, restore, steps};

/// No VM needs more steps in a row. One that does is looked at again later.
const MOST_STEPS: u32 = 32;

/// Why a reconcile could not go on for now.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The host could not do what it was asked. That was reported.
    #[error("the host did not do its part")]
    Host(#[source] HostError),
    /// The API server could not be asked or told.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Something could not be observed, or the VM never comes to rest. That was reported.
    #[error("the VM is not as it should be yet")]
    Unsettled,
}

/// Brings the VM as far as it gets now, and tells when to look at it again.
pub async fn reconcile(shared: &Shared, vm: &VM) -> Action {
    let begun = Instant::now();
    let timing = &shared.config.timing;
    let uid = vm.metadata.uid.clone().unwrap_or_default();
    let result = bring(shared, vm).await;
    let (label, action) = match result {
        Ok(after) => {
            shared.memories.with(&uid, |remembered| remembered.failures = 0);
            ("ok", Action::requeue(after.unwrap_or_else(|| timing.resync(&uid))))
        }
        Err(Failure::Host(error)) if error.terminal => {
            shared.memories.with(&uid, |remembered| remembered.failures = 0);
            ("terminal", Action::requeue(timing.resync))
        }
        Err(failure) => {
            let (failures, held) = shared.memories.with(&uid, |remembered| {
                remembered.failures = remembered.failures.saturating_add(1);
                (remembered.failures, remembered.backoff.left(Instant::now()))
            });
            let name = vm.metadata.name.as_deref().unwrap_or_default();
            let namespace = vm.metadata.namespace.as_deref().unwrap_or_default();
            let error = &failure as &dyn std::error::Error;
            let label = if let Failure::Api(ApiError::Gone) = failure {
                // The cache will tell soon, unless it was an API server that has not heard of the binding yet
                debug!(vm = name, namespace, uid, failures, error, "the VM seems to have left");
                "ok"
            } else {
                warn!(vm = name, namespace, uid, failures, error, "cannot bring the VM further for now");
                "error"
            };
            (label, Action::requeue(held.unwrap_or_else(|| timing.retry(failures))))
        }
    };
    shared.metrics.reconciled(label, begun.elapsed());
    action
}

async fn bring(shared: &Shared, vm: &VM) -> Result<Option<Duration>, Failure> {
    let mut provisioned: Option<Provisioned> = None;
    let mut wish = None;
    for _ in 0..MOST_STEPS {
        // The cache is read anew each time: what is wanted may have changed while the last step took its time
        let cached =
            shared.caches.vms.get(vm.metadata.namespace.as_deref(), vm.metadata.name.as_deref().unwrap_or_default());
        let Some(vm) = cached.filter(|cached| cached.metadata.uid == vm.metadata.uid) else { return Ok(None) };
        let vm = shared.memories.newest(vm);
        let desired = match Desired::of(&vm, &shared.config.host) {
            Ok(desired) => desired,
            Err(not_ours) => {
                debug!("{not_ours}");
                return Ok(None);
            }
        };
        wish = Some(Wish::from(&desired));
        let now = Timestamp::now();
        let (mut observed, facts) = match observe(shared, &desired, now).await {
            Ok(observed) => observed,
            Err(error) => {
                let plan = vm::unobserved(&desired, &error);
                report(shared, &vm, &desired, None, &plan, &Facts::default(), now).await?;
                return Err(Failure::Host(error));
            }
        };
        observed.provisioned = provisioned.take();
        let plan = vm::plan(&desired, &observed, &shared.config.timing.pace, now);
        let round = Round { shared, vm: &vm, desired: &desired, observed: &observed, facts: &facts, now };
        match round.advance(&plan).await? {
            Advance::Again(made) => provisioned = made,
            Advance::Rest(after) => return Ok(after),
        }
    }
    if let (Some(wish), Some(uid)) = (wish, &vm.metadata.uid) {
        let pause = |times| shared.config.timing.retry_step(times, uid);
        shared.memories.with(uid, |remembered| remembered.backoff.failed(wish, pause, Instant::now()));
    }
    Err(Failure::Unsettled)
}

/// What comes after a plan was followed.
enum Advance {
    /// Observe and plan again, with what was provisioned, if that was the step.
    Again(Option<Provisioned>),
    /// Nothing more for now; look again after this time, or when something happens.
    Rest(Option<Duration>),
}

/// One round of a reconcile: what was known when the plan was made.
struct Round<'a> {
    shared: &'a Shared,
    vm: &'a VM,
    desired: &'a Desired,
    observed: &'a Observed,
    facts: &'a Facts,
    now: Timestamp,
}

impl Round<'_> {
    async fn advance(&self, plan: &Plan) -> Result<Advance, Failure> {
        let Self { shared, desired, now, .. } = *self;
        let Some(step) = &plan.step else { return self.rest(plan).await };
        let held = self.remember(|remembered| remembered.backoff.wait(&Wish::from(desired), Instant::now()));
        if let Some(wait) = held {
            // What was reported of the failure stands
            return Ok(Advance::Rest(Some(wait)));
        }
        debug!(vm = desired.name, namespace = desired.namespace, uid = desired.uid, ?step, "next");
        let mut made = None;
        let done = match step {
            Step::Confirm => return self.confirm(plan).await,
            Step::DropFinalizer => match steps::forget(shared, desired).await {
                Ok(()) => return self.drop_finalizer().await,
                Err(error) => Err(error),
            },
            Step::Provision => steps::provision(shared, desired).await.map(|provisioned| made = Some(provisioned)),
            Step::Start(spec) => steps::start(shared, self.vm, spec, plan.restart).await,
            Step::ProvisionInterface(name) => steps::provision_interface(shared, desired, name).await,
            Step::Plug(interface) => steps::plug(shared, self.vm, desired, interface).await,
            Step::Unplug(interface) => steps::unplug(shared, desired, interface, now).await,
            Step::PlugDisk(name) => steps::plug_disk(shared, self.vm, desired, name).await,
            Step::UnplugDisk(disk) => steps::unplug_disk(shared, desired, disk, now).await,
            Step::GrowDisk(disk, size) => steps::grow_disk(shared, self.vm, desired, disk, *size).await,
            Step::ReleaseVolume(held) => volumes::release(shared, desired, held).await,
            Step::RequestShutdown => {
                // That the VM stops must be known before the guest hears of it: see `should_stop` in the core
                if !self.report(plan).await? {
                    return Ok(Advance::Again(None));
                }
                steps::request_shutdown(shared, desired, now).await
            }
            Step::Destroy => steps::destroy(shared, desired).await,
            Step::Undefine => steps::undefine(shared, desired).await,
            Step::Restore(request) => restore::restore(shared, self.vm, desired, request).await,
            Step::RemoveDisks(disks) => steps::remove_disks(shared, desired, disks).await,
            Step::ReleaseNetworks(_) => shared.networks.release(shared).await,
        };
        match done {
            Ok(()) => Ok(Advance::Again(made)),
            Err(error) => Err(self.failed(plan, step, error).await),
        }
    }

    /// Reports, and asks for addresses that were not seen.
    async fn rest(&self, plan: &Plan) -> Result<Advance, Failure> {
        let Self { shared, vm, desired, observed, facts, now } = *self;
        if !self.report(plan).await? {
            return Ok(Advance::Again(None));
        }
        if plan.retry {
            return Err(Failure::Unsettled);
        }
        // While it waits for something else, the step that failed has not succeeded
        if plan.phase != Some(VMPhase::Provisioning) {
            self.remember(|remembered| remembered.backoff.succeeded());
        }
        let asked = addresses::ask(shared, vm, desired, observed.domain.as_ref(), facts, now).await;
        let planned = plan.requeue_after.map(|wait| timer(wait.max(SignedDuration::from_millis(50))));
        Ok(Advance::Rest(asked.into_iter().chain(planned).min()))
    }

    /// Reports, and tells whether the VM is still as it was when the plan was made.
    async fn report(&self, plan: &Plan) -> Result<bool, Failure> {
        report(self.shared, self.vm, self.desired, Some(self.observed), plan, self.facts, self.now).await
    }

    /// A write on top of what is known succeeds only if nothing newer is there; where there is nothing to write,
    /// it is read.
    async fn confirm(&self, plan: &Plan) -> Result<Advance, Failure> {
        let Self { shared, vm, desired, .. } = *self;
        let status = vm.status.clone().unwrap_or_default();
        let next = next_status(&status, desired, Some(self.observed), plan, self.facts, self.now);
        let newest = match shared.api.report_vm(vm, &next).await {
            Ok(Some(written)) => written,
            Ok(None) | Err(ApiError::Conflict) => match shared.api.read_vm(vm).await {
                Ok(read) => read,
                Err(ApiError::Gone) => return Ok(Advance::Rest(None)),
                Err(error) => return Err(error.into()),
            },
            Err(ApiError::Gone) => return Ok(Advance::Rest(None)),
            Err(error) => return Err(error.into()),
        };
        if newest.metadata.uid != vm.metadata.uid {
            return Ok(Advance::Rest(None));
        }
        let epoch = Desired::of(&newest, &shared.config.host).ok().map(|newest| newest.epoch);
        shared.memories.with(&desired.uid, |remembered| {
            remembered.confirmed = epoch.filter(|epoch| *epoch == desired.epoch);
            remembered.latest = Some(Arc::new(newest));
        });
        Ok(Advance::Again(None))
    }

    async fn drop_finalizer(&self) -> Result<Advance, Failure> {
        let Self { shared, vm, desired, .. } = *self;
        let others: Vec<_> =
            vm.metadata.finalizers.iter().flatten().filter(|f| *f != AGENT_FINALIZER).cloned().collect();
        // Afterwards there is no VM that an Event could be about
        let note = format!("nothing of the VM is left on host {}", shared.config.host);
        shared.events.last(vm, "Deleted", note).await;
        match shared.api.set_finalizers(vm, &others).await {
            Ok(()) | Err(ApiError::Gone) => Ok(Advance::Rest(None)),
            Err(ApiError::Conflict) => {
                refresh(shared, vm, desired).await?;
                Ok(Advance::Again(None))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reports that the step has failed.
    async fn failed(&self, plan: &Plan, step: &Step, error: HostError) -> Failure {
        let Self { shared, vm, desired, observed, .. } = *self;
        if matches!(step, Step::Provision | Step::Start(_)) {
            shared.events.warning(vm, "StartFailed", error.message.clone());
        }
        let timing = &shared.config.timing;
        let pause = |times| if error.terminal { timing.resync } else { timing.retry_step(times, &desired.uid) };
        self.remember(|remembered| remembered.backoff.failed(Wish::from(desired), pause, Instant::now()));
        let told = vm::failed(plan, desired, observed, &error);
        match self.report(&told).await {
            Ok(_) => Failure::Host(error),
            Err(failure) => {
                warn!(
                    vm = desired.name,
                    reason = error.reason,
                    error = &error as &dyn std::error::Error,
                    "a step failed"
                );
                failure
            }
        }
    }

    fn remember<T>(&self, change: impl FnOnce(&mut Remembered) -> T) -> T {
        self.shared.memories.with(&self.desired.uid, change)
    }
}

/// Writes what is new in the report of the plan. Tells whether the VM is still as it was when the plan was made:
/// if not, the plan is void, and the newest VM is remembered for the next one.
async fn report(
    shared: &Shared,
    vm: &VM,
    desired: &Desired,
    observed: Option<&Observed>,
    plan: &Plan,
    facts: &Facts,
    now: Timestamp,
) -> Result<bool, Failure> {
    let current = vm.status.clone().unwrap_or_default();
    let next = next_status(&current, desired, observed, plan, facts, now);
    match shared.api.report_vm(vm, &next).await {
        Ok(None) => Ok(true),
        Ok(Some(written)) => {
            tell(shared, vm, current.phase, next.phase);
            shared.memories.with(&desired.uid, |remembered| remembered.latest = Some(Arc::new(written)));
            Ok(true)
        }
        Err(ApiError::Conflict) => {
            refresh(shared, vm, desired).await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Remembers the VM as it is now.
async fn refresh(shared: &Shared, vm: &VM, desired: &Desired) -> Result<(), Failure> {
    let newest = shared.api.read_vm(vm).await?;
    if newest.metadata.uid == vm.metadata.uid {
        shared.memories.with(&desired.uid, |remembered| remembered.latest = Some(Arc::new(newest)));
        return Ok(());
    }
    // Another VM of the same name: the cache will tell
    Err(ApiError::Gone.into())
}

fn tell(shared: &Shared, vm: &VM, before: Option<VMPhase>, after: Option<VMPhase>) {
    let ran = matches!(before, Some(VMPhase::Running | VMPhase::Stopping));
    if ran && after == Some(VMPhase::Stopped) {
        shared.events.normal(vm, "Stopped", format!("the VM was stopped on host {}", shared.config.host));
    }
}
