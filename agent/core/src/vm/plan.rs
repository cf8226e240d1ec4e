//! The next step.

use jiff::{SignedDuration, Timestamp};
use ucloud_types::{
    Quantity,
    condition::{self, Finding, Verdict},
    vm::{RestoreRequest, VMPhase},
};

use crate::{
    HostError,
    hypervisor::{Domain, DomainDisk, DomainInterface, DomainSpec, DomainState, StopReason},
    reason,
};

use super::{
    Blocker, Desired, EndedRestore, FoundDisk, HeldVolume, Observed, Pace, delete, disks, drift, interfaces,
    power::{self, Off},
    restore,
    stop::{self, Stop},
};

/// What to do next for a VM, and what to report of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The next step; None where there is nothing to do for now.
    pub step: Option<Step>,
    /// The phase to report; None to leave what was reported last.
    pub phase: Option<VMPhase>,
    /// The conditions to report.
    pub findings: Vec<Finding>,
    /// The types of conditions that no longer apply.
    pub cleared: Vec<&'static str>,
    /// When to look again, if nothing happens before.
    pub requeue_after: Option<SignedDuration>,
    /// Whether something that the next step needs could not be observed: to be tried again with growing pauses.
    pub retry: bool,
    /// The id of the power request that has been carried out, if one was just now.
    pub observed_power_request: Option<u64>,
    /// The restore that has come to its end, if one has just now.
    pub ended_restore: Option<EndedRestore>,
    /// Whether [`Step::Start`] starts a VM again that stopped without being told to.
    pub restart: bool,
}

/// A step: one call to the host or to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make sure, by the API server, that what is known of the VM is the newest, before anything is made for it.
    Confirm,
    /// Make the networks' devices and the disks.
    Provision,
    /// Define and start the domain.
    Start(Box<DomainSpec>),
    /// Make the devices of the network of the interface with this name.
    ProvisionInterface(String),
    /// Plug this interface into the domain.
    Plug(Box<DomainInterface>),
    /// Ask the guest to let go of this interface.
    Unplug(Box<DomainInterface>),
    /// Claim the Volume of the disk with this name, make it if it is not there, and plug it into the domain.
    PlugDisk(String),
    /// Ask the guest to let go of this disk.
    UnplugDisk(Box<DomainDisk>),
    /// Grow this disk of the domain.
    GrowDisk(Box<DomainDisk>, Quantity),
    /// Give back this Volume, which the domain does not have.
    ReleaseVolume(HeldVolume),
    /// Ask the guest to shut down, after having reported that it stops.
    RequestShutdown,
    /// Switch the domain off.
    Destroy,
    /// Remove the definition of the domain.
    Undefine,
    /// Make disks anew of what a snapshot has of them.
    Restore(RestoreRequest),
    /// Remove these disks.
    RemoveDisks(Vec<FoundDisk>),
    /// Remove the devices of these networks.
    ReleaseNetworks(Vec<String>),
    /// Let the VM go.
    DropFinalizer,
}

impl Plan {
    pub(super) fn new(phase: VMPhase, findings: Vec<Finding>) -> Self {
        Self {
            step: None,
            phase: Some(phase),
            findings,
            cleared: vec![condition::TERMINATING],
            requeue_after: None,
            retry: false,
            observed_power_request: None,
            ended_restore: None,
            restart: false,
        }
    }

    pub(super) fn step(mut self, step: Step) -> Self {
        self.step = Some(step);
        self
    }

    pub(super) fn after(mut self, wait: SignedDuration) -> Self {
        self.requeue_after = Some(wait);
        self
    }

    /// A VM that does not run has no difference to its spec.
    pub(super) fn not_running(mut self) -> Self {
        self.cleared.extend([condition::RESTART_REQUIRED, condition::INTERFACES_READY, condition::DISKS_READY]);
        self
    }
}

pub(super) fn not_ready(reason: &'static str, message: impl Into<String>) -> Vec<Finding> {
    vec![Finding::new(condition::READY, Verdict::False, reason, message)]
}

/// What to report after `step` of this plan has failed. It is tried again with growing pauses, or, if the error is
/// terminal, once something has changed.
pub fn failed(plan: &Plan, desired: &Desired, observed: &Observed, error: &HostError) -> Plan {
    if desired.deleting {
        return Plan { retry: true, ..delete::held_up(error, &delete::left(observed)) };
    }
    let part = match plan.step {
        Some(Step::ProvisionInterface(_) | Step::Plug(_) | Step::Unplug(_)) => Some(condition::INTERFACES_READY),
        Some(Step::PlugDisk(_) | Step::UnplugDisk(_) | Step::GrowDisk(..) | Step::ReleaseVolume(_)) => {
            observed.domain.is_some().then_some(condition::DISKS_READY)
        }
        _ => None,
    };
    if let Some(part) = part {
        // The VM runs as before
        let mut told = Plan { step: None, retry: !error.terminal, ..plan.clone() };
        let failure = Finding::new(part, Verdict::False, error.reason, error.message.clone());
        told.findings.retain(|finding| finding.type_ != part);
        told.findings.push(failure);
        told.cleared.retain(|type_| *type_ != part);
        return told;
    }
    let phase = if error.terminal { VMPhase::Failed } else { plan.phase.unwrap_or(VMPhase::Unknown) };
    Plan {
        cleared: plan.cleared.clone(),
        retry: !error.terminal,
        ..Plan::new(phase, not_ready(error.reason, error.message.clone()))
    }
}

/// What to report where the hypervisor did not tell whether the VM runs. Nothing is known then, so nothing is done,
/// and all that was reported before stays but for the conditions.
pub fn unobserved(desired: &Desired, error: &HostError) -> Plan {
    let plan = if desired.deleting {
        delete::held_up(error, "what is left on the host is not known")
    } else {
        let ready = Finding::new(condition::READY, Verdict::Unknown, error.reason, error.message.clone());
        Plan::new(VMPhase::Unknown, vec![ready])
    };
    Plan { phase: None, cleared: Vec::new(), retry: true, ..plan }
}

/// Decides what to do next for a VM, and what to report of it.
pub fn plan(desired: &Desired, observed: &Observed, pace: &Pace, now: Timestamp) -> Plan {
    if desired.deleting {
        return delete::plan(desired, observed, pace, now);
    }
    let mut plan = match &observed.domain {
        Some(domain) if domain.spec.epoch > desired.epoch => return outdated(domain, desired),
        Some(domain) if domain.spec.epoch < desired.epoch => return supersede(domain, desired),
        Some(domain) if !matches!(domain.state, DomainState::Off(_)) => up(desired, observed, domain, pace, now),
        domain => give_back(desired, observed, off(desired, observed, domain.as_ref(), pace, now)),
    };
    plan.observed_power_request = power::carried_out(desired, observed);
    plan
}

/// The domain is newer than what the agent has heard from the API server, which will tell in time.
fn outdated(domain: &Domain, desired: &Desired) -> Plan {
    let Domain { spec, .. } = domain;
    let message = format!("the domain is of epoch {}, newer than {} of the binding", spec.epoch, desired.epoch);
    Plan {
        phase: None,
        findings: vec![Finding::new(condition::READY, Verdict::Unknown, reason::STARTING, message)],
        retry: true,
        ..Plan::new(VMPhase::Unknown, Vec::new())
    }
}

/// The domain belongs to a binding that is over: it must not run any longer, not even to shut down.
fn supersede(domain: &Domain, desired: &Desired) -> Plan {
    let Domain { spec, state } = domain;
    let message = format!("what ran under epoch {} of the binding gives way to epoch {}", spec.epoch, desired.epoch);
    let step = if matches!(state, DomainState::Off(_)) { Step::Undefine } else { Step::Destroy };
    Plan::new(VMPhase::Provisioning, not_ready(reason::PROVISIONING, message)).step(step).not_running()
}

/// The domain runs, or is paused.
fn up(desired: &Desired, observed: &Observed, domain: &Domain, pace: &Pace, now: Timestamp) -> Plan {
    if power::should_stop(desired, observed) {
        let deadline = stop::deadline(desired, &observed.memory, now);
        let message = format!("the guest was asked to shut down; it is switched off at {deadline}");
        let plan = Plan::new(VMPhase::Stopping, not_ready(reason::STOPPING, message)).not_running();
        return match stop::stop(desired, domain.state, &observed.memory, pace, now) {
            Stop::Step(step) => plan.step(step),
            Stop::Wait(wait) => plan.after(wait),
        };
    }
    if domain.state == DomainState::Paused {
        let message = "the hypervisor paused the VM, as it does after an I/O error: \
                       see to the host's storage, then restart the VM with `ucloudctl restart`";
        let mut plan = Plan::new(VMPhase::Failed, not_ready(reason::PAUSED, message));
        plan.cleared.extend([condition::INTERFACES_READY, condition::DISKS_READY]);
        return plan;
    }
    let ready = Finding::new(condition::READY, Verdict::True, reason::RUNNING, "the VM runs");
    let mut plan = Plan::new(VMPhase::Running, vec![ready]);
    let differences = drift::differences(desired, observed, &domain.spec);
    if differences.is_empty() {
        plan.cleared.push(condition::RESTART_REQUIRED);
    } else {
        let message =
            format!("the VM runs with {}; `ucloudctl restart` brings what the spec says", differences.join(", "));
        plan.findings.push(Finding::new(condition::RESTART_REQUIRED, Verdict::True, reason::SPEC_CHANGED, message));
    }
    let interfaces = interfaces::plan(desired, observed, &domain.spec, pace, now);
    if interfaces.finding.is_none() {
        plan.cleared.push(condition::INTERFACES_READY);
    }
    let disks = disks::plan(desired, observed, &domain.spec, pace, now);
    if disks.finding.is_none() {
        plan.cleared.push(condition::DISKS_READY);
    }
    plan.findings.extend(interfaces.finding.into_iter().chain(disks.finding));
    Plan {
        step: interfaces.step.or(disks.step),
        requeue_after: interfaces.after.into_iter().chain(disks.after).min(),
        retry: interfaces.retry || disks.retry,
        ..plan
    }
}

/// A VM that does not run gives back the Volumes that it does not want, and all of them where it has no domain and is not
/// about to have one: who waits for one Volume must not keep another from those who wait for both.
fn give_back(desired: &Desired, observed: &Observed, plan: Plan) -> Plan {
    let waits = observed.domain.is_none() && plan.step.is_none();
    let held = disks::surplus(desired, observed, None).or_else(|| observed.volumes.first().filter(|_| waits));
    match held {
        Some(held) => plan.step(Step::ReleaseVolume(held.clone())),
        None => plan,
    }
}

/// The domain is off, or there is none.
fn off(desired: &Desired, observed: &Observed, domain: Option<&Domain>, pace: &Pace, now: Timestamp) -> Plan {
    let stopped = |reason, message: String| Plan::new(VMPhase::Stopped, not_ready(reason, message)).not_running();
    if let Some(plan) = restore::plan(desired, observed, domain) {
        return plan;
    }
    let start = format!("start it with `ucloudctl start {} -n {}`", desired.name, desired.namespace);
    match power::when_off(desired, domain) {
        Off::Halted => {
            let plan = stopped(reason::STOPPED, "the VM is halted: its run strategy says so".to_owned());
            // Without a domain, nothing is left of how it stopped, which must not count when it is to run again
            if domain.is_some() { plan.step(Step::Undefine) } else { plan }
        }
        Off::Ordered => stopped(reason::STOPPED, format!("the VM was stopped by request: {start}")),
        Off::Left(Some(StopReason::Shutdown)) => {
            stopped(reason::GUEST_SHUTDOWN, format!("the guest shut itself down: {start}"))
        }
        Off::Left(_) => stopped(reason::STOPPED, format!("the VM starts only by request: {start}")),
        Off::Start => begin(desired, observed, false),
        Off::Restart => {
            let crashes = &observed.memory.crashes;
            if let Some(wait) = crashes.wait(pace, now) {
                // Whole seconds, so that the message of one pause is always the same
                let at = now.saturating_add(wait).unwrap_or(now).as_second();
                let at = Timestamp::from_second(at).unwrap_or(now);
                let message = format!(
                    "the VM stopped by itself again, after {} restarts in a row; it is started again at {at}: \
                     its console tells what the guest does",
                    crashes.streak()
                );
                return Plan::new(VMPhase::Failed, not_ready(reason::CRASH_LOOP_BACK_OFF, message))
                    .after(wait)
                    .not_running();
            }
            begin(desired, observed, crashes.has_stopped())
        }
    }
}

/// Towards a running domain.
fn begin(desired: &Desired, observed: &Observed, restart: bool) -> Plan {
    if let Some(Blocker { reason, .. }) = observed.blockers.first() {
        let messages: Vec<_> = observed.blockers.iter().map(|blocker| blocker.message.as_str()).collect();
        return Plan::new(VMPhase::Provisioning, not_ready(reason, messages.join("; "))).not_running();
    }
    let starting =
        || Plan::new(VMPhase::Starting, not_ready(reason::STARTING, "the VM is being started")).not_running();
    if observed.domain.is_none() && !observed.confirmed {
        return starting().step(Step::Confirm);
    }
    match observed.provisioned.as_ref().and_then(|provisioned| desired.domain(provisioned)) {
        None => {
            let message = "the VM's networks and disks are being made";
            Plan::new(VMPhase::Provisioning, not_ready(reason::PROVISIONING, message))
                .not_running()
                .step(Step::Provision)
        }
        Some(domain) => Plan { restart, ..starting().step(Step::Start(Box::new(domain))) },
    }
}
