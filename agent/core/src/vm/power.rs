//! Whether a VM should run: run strategies and power requests.

use ucloud_types::vm::{PowerAction, PowerRequest, RunStrategy, VMPhase};

use crate::hypervisor::{Domain, DomainState, StopReason};

use super::{Desired, Observed};

/// Whether a VM that does not run should, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Off {
    /// It is to be started: somebody asked for it, or it was not started yet.
    Start,
    /// It is to be started again, after a pause if that happens often.
    Restart,
    /// It stays off: its spec says Halted.
    Halted,
    /// It stays off until somebody starts it.
    Ordered,
    /// It stays off: the guest shut itself down, or stopped and its strategy is Manual.
    Left(Option<StopReason>),
}

/// The power request that is not known to have been carried out, if there is one.
fn pending(desired: &Desired) -> Option<&PowerRequest> {
    desired.request.as_ref().filter(|request| request.id > desired.observed_request)
}

/// Whether the domain was started under this request or a later one.
fn started_under(domain: Option<&Domain>, id: u64) -> bool {
    domain.is_some_and(|domain| domain.spec.power_request >= id)
}

/// Whether `domain` was started under this request, and not only defined by a start that failed.
fn ran_under(domain: Option<&Domain>, id: u64) -> bool {
    domain.is_some_and(|d| started_under(Some(d), id) && d.state != DomainState::Off(StopReason::Unknown))
}

fn runs(domain: Option<&Domain>) -> bool {
    domain.is_some_and(|domain| domain.state == DomainState::Running)
}

fn is_off(domain: Option<&Domain>) -> bool {
    domain.is_none_or(|domain| matches!(domain.state, DomainState::Off(_)))
}

/// A stop holds until the VM is started under a later request, or its strategy changes.
fn stop_in_force(desired: &Desired, domain: Option<&Domain>) -> bool {
    matches!(desired.strategy, RunStrategy::Manual | RunStrategy::RerunOnFailure)
        && desired.request.as_ref().is_some_and(|r| r.action == PowerAction::Stop && !started_under(domain, r.id))
}

/// Whether a shutdown is under way, which cannot be called back: it is brought to its end before anything else.
fn shutdown_under_way(desired: &Desired, observed: &Observed) -> bool {
    // After a restart of the agent the reported phase is all that tells of it. It counts only for a start that waits
    // for it, because only then can the domain itself tell whether it was started since
    let reported = desired.phase == Some(VMPhase::Stopping)
        && pending(desired)
            .is_some_and(|r| r.action == PowerAction::Start && !started_under(observed.domain.as_ref(), r.id));
    observed.memory.shutdown.is_some() || reported
}

/// Whether a VM that runs should be shut down.
pub(super) fn should_stop(desired: &Desired, observed: &Observed) -> bool {
    let domain = observed.domain.as_ref();
    let restart = pending(desired).is_some_and(|r| r.action == PowerAction::Restart && !started_under(domain, r.id));
    desired.strategy == RunStrategy::Halted
        || restart
        || stop_in_force(desired, domain)
        || shutdown_under_way(desired, observed)
}

/// Whether a VM that does not run should.
pub(super) fn when_off(desired: &Desired, domain: Option<&Domain>) -> Off {
    if desired.strategy == RunStrategy::Halted {
        return Off::Halted;
    }
    let ordered = pending(desired).is_some_and(|r| r.action != PowerAction::Stop && !ran_under(domain, r.id));
    if ordered {
        return Off::Start;
    }
    if stop_in_force(desired, domain) {
        return Off::Ordered;
    }
    let reason = domain.and_then(|domain| match domain.state {
        DomainState::Off(reason) => Some(reason),
        DomainState::Running | DomainState::Paused => None,
    });
    match (desired.strategy, reason) {
        (RunStrategy::Halted, _) => Off::Halted,
        (RunStrategy::Manual, reason) => Off::Left(reason),
        (RunStrategy::Always | RunStrategy::RerunOnFailure, None) => Off::Start,
        (RunStrategy::RerunOnFailure, Some(StopReason::Shutdown)) => Off::Left(reason),
        (RunStrategy::Always | RunStrategy::RerunOnFailure, Some(_)) => Off::Restart,
    }
}

/// The id of the pending power request, if the state of the world is what it asked for.
pub(super) fn carried_out(desired: &Desired, observed: &Observed) -> Option<u64> {
    let request = pending(desired)?;
    let domain = observed.domain.as_ref();
    let done = match (desired.strategy, request.action) {
        // The spec decides alone: the request is over when the spec is obeyed
        (RunStrategy::Halted, _) => is_off(domain),
        (RunStrategy::Always, PowerAction::Stop) => true,
        (_, PowerAction::Stop) => is_off(domain) || started_under(domain, request.id),
        (_, PowerAction::Start) => {
            ran_under(domain, request.id) || (runs(domain) && !shutdown_under_way(desired, observed))
        }
        (_, PowerAction::Restart) => ran_under(domain, request.id),
    };
    done.then_some(request.id)
}
