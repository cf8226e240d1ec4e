//! What libvirt's domain states mean (`virDomainState` and its reasons, libvirt-domain.h).

use ucloud_agent_core::hypervisor::{DomainState, StopReason};
use virt::sys;

/// The state of a domain, from the state and reason that `virDomainGetState` gives, and whether it is to stand still.
pub fn domain_state(state: sys::virDomainState, reason: i32, standstill: bool) -> DomainState {
    let suspended = is_suspended(state, reason);
    let reason = u32::try_from(reason).unwrap_or_default();
    match state {
        sys::VIR_DOMAIN_SHUTOFF => DomainState::Off(stop_reason(reason)),
        // A domain that is being started is paused for the blink of an eye.
        sys::VIR_DOMAIN_PAUSED if reason == sys::VIR_DOMAIN_PAUSED_STARTING_UP => DomainState::Running,
        // One that stands still goes on by itself: it is no operator's business.
        sys::VIR_DOMAIN_PAUSED if standstill && suspended => DomainState::Running,
        // A crashed domain that is still there was kept by an operator's hand: ours are destroyed.
        sys::VIR_DOMAIN_PAUSED | sys::VIR_DOMAIN_CRASHED => DomainState::Paused,
        _ => DomainState::Running,
    }
}

/// Whether the guest's processors run.
pub fn runs(state: sys::virDomainState) -> bool {
    matches!(state, sys::VIR_DOMAIN_RUNNING | sys::VIR_DOMAIN_BLOCKED)
}

/// Whether a domain was suspended by a call, rather than paused by what befell it. A libvirtd that died before it had
/// written down what it did does not know why.
pub fn is_suspended(state: sys::virDomainState, reason: i32) -> bool {
    let by_call = [sys::VIR_DOMAIN_PAUSED_USER, sys::VIR_DOMAIN_PAUSED_UNKNOWN];
    state == sys::VIR_DOMAIN_PAUSED && by_call.contains(&reason.cast_unsigned())
}

fn stop_reason(reason: sys::virDomainShutoffReason) -> StopReason {
    match reason {
        sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => StopReason::Shutdown,
        sys::VIR_DOMAIN_SHUTOFF_DESTROYED => StopReason::Destroyed,
        // FAILED: QEMU did not even come up.
        sys::VIR_DOMAIN_SHUTOFF_CRASHED | sys::VIR_DOMAIN_SHUTOFF_FAILED => StopReason::Crashed,
        _ => StopReason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_reasons() {
        for (state, reason, expected) in [
            (sys::VIR_DOMAIN_RUNNING, sys::VIR_DOMAIN_RUNNING_BOOTED, DomainState::Running),
            // The guest has shut down, QEMU has not ended yet.
            (sys::VIR_DOMAIN_SHUTDOWN, 0, DomainState::Running),
            (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_IOERROR, DomainState::Paused),
            (sys::VIR_DOMAIN_PAUSED, sys::VIR_DOMAIN_PAUSED_STARTING_UP, DomainState::Running),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN, DomainState::Off(StopReason::Shutdown)),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_DESTROYED, DomainState::Off(StopReason::Destroyed)),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_CRASHED, DomainState::Off(StopReason::Crashed)),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_FAILED, DomainState::Off(StopReason::Crashed)),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_DAEMON, DomainState::Off(StopReason::Unknown)),
            (sys::VIR_DOMAIN_SHUTOFF, sys::VIR_DOMAIN_SHUTOFF_UNKNOWN, DomainState::Off(StopReason::Unknown)),
        ] {
            for standstill in [false, true] {
                assert_eq!(domain_state(state, i32::try_from(reason).unwrap(), standstill), expected);
            }
        }
        for reason in [sys::VIR_DOMAIN_PAUSED_USER, sys::VIR_DOMAIN_PAUSED_UNKNOWN] {
            let suspended = |standstill| domain_state(sys::VIR_DOMAIN_PAUSED, reason.cast_signed(), standstill);
            assert_eq!((suspended(false), suspended(true)), (DomainState::Paused, DomainState::Running));
        }
    }
}
