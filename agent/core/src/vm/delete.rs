//! The end of a VM: its domain, then its disks, then its networks, and the finalizer last.

use jiff::Timestamp;
use ucloud_types::{
    condition::{self, Finding, Verdict},
    vm::VMPhase,
};

use crate::{HostError, hypervisor::DomainState, reason};

use super::{
    Desired, Observed, Pace, Plan, Step,
    stop::{self, Stop},
};

pub(super) fn plan(desired: &Desired, observed: &Observed, pace: &Pace, now: Timestamp) -> Plan {
    if !desired.held {
        // This host has done its part; whoever else holds the VM says so
        return Plan { phase: None, cleared: Vec::new(), ..Plan::new(VMPhase::Terminating, Vec::new()) };
    }
    let left = left(observed);
    match &observed.domain {
        Some(domain) if matches!(domain.state, DomainState::Off(_)) => removing(&left, None).step(Step::Undefine),
        // What runs under a binding that is over gets no time
        Some(domain) if domain.spec.epoch < desired.epoch => removing(&left, None).step(Step::Destroy),
        Some(domain) => {
            let deadline = stop::deadline(desired, &observed.memory, now);
            let message = format!("the guest was asked to shut down; it is switched off at {deadline}; {left}");
            let plan = terminating(reason::SHUTTING_DOWN, &message);
            match stop::stop(desired, domain.state, &observed.memory, pace, now) {
                Stop::Step(step) => plan.step(step),
                Stop::Wait(wait) => plan.after(wait),
            }
        }
        None => without_domain(observed, &left),
    }
}

fn without_domain(observed: &Observed, left: &str) -> Plan {
    match &observed.disks {
        Err(error) => return Plan { retry: true, ..removing(left, Some(error)) },
        Ok(disks) if !disks.is_empty() => return removing(left, None).step(Step::RemoveDisks(disks.clone())),
        Ok(_) => {}
    }
    match &observed.own_networks {
        Err(error) => Plan { retry: true, ..removing(left, Some(error)) },
        Ok(networks) if !networks.is_empty() => removing(left, None).step(Step::ReleaseNetworks(networks.clone())),
        Ok(_) => removing(left, None).step(Step::DropFinalizer),
    }
}

/// What is reported of a VM that is being deleted, where its end was held up by an error.
pub(super) fn held_up(error: &HostError, left: &str) -> Plan {
    terminating(error.reason, &format!("{}; {left}", error.message))
}

fn removing(left: &str, error: Option<&HostError>) -> Plan {
    error.map_or_else(|| terminating(reason::REMOVING, left), |error| held_up(error, left))
}

fn terminating(reason: &'static str, message: &str) -> Plan {
    let findings = vec![
        Finding::new(condition::READY, Verdict::False, reason::TERMINATING, "the VM is being deleted"),
        Finding::new(condition::TERMINATING, Verdict::True, reason, message),
    ];
    Plan {
        cleared: vec![condition::RESTART_REQUIRED, condition::INTERFACES_READY, condition::DISKS_READY],
        ..Plan::new(VMPhase::Terminating, findings)
    }
}

/// What is left of the VM on this host, for a message.
pub(super) fn left(observed: &Observed) -> String {
    let mut things = Vec::new();
    if observed.domain.is_some() {
        things.push("its domain".to_owned());
    }
    match &observed.disks {
        Ok(disks) => {
            things.extend(disks.iter().map(|disk| format!("disk {} in pool {}", disk.id.name, disk.pool.name)));
        }
        Err(_) => things.push("perhaps disks".to_owned()),
    }
    match &observed.own_networks {
        Ok(networks) if networks.is_empty() => {}
        Ok(networks) => things.push(format!("the devices of {} networks", networks.len())),
        Err(_) => things.push("perhaps devices of networks".to_owned()),
    }
    if things.is_empty() {
        "nothing is left on the host".to_owned()
    } else {
        format!("left on the host: {}", things.join(", "))
    }
}
