//! How a domain is brought to rest: by asking the guest, again and again, and by force once its time is up.

use jiff::{SignedDuration, Timestamp};

use crate::hypervisor::DomainState;

use super::{Desired, Memory, Pace, Step};

/// What to do next about a domain that is to stop.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Take this step.
    Step(Step),
    /// Give the guest this much more time before asking or forcing it.
    Wait(SignedDuration),
}

pub(super) fn stop(desired: &Desired, state: DomainState, memory: &Memory, pace: &Pace, now: Timestamp) -> Stop {
    // A paused guest hears nothing
    if state == DomainState::Paused || desired.grace.is_zero() {
        return Stop::Step(Step::Destroy);
    }
    let Some(shutdown) = memory.shutdown else {
        return Stop::Step(Step::RequestShutdown);
    };
    let grace = desired.grace - now.duration_since(shutdown.since);
    let repeat = pace.shutdown_repeat - now.duration_since(shutdown.last);
    if !grace.is_positive() {
        Stop::Step(Step::Destroy)
    } else if !repeat.is_positive() {
        Stop::Step(Step::RequestShutdown)
    } else {
        Stop::Wait(grace.min(repeat))
    }
}

/// When the guest is switched off, for a message.
pub(super) fn deadline(desired: &Desired, memory: &Memory, now: Timestamp) -> Timestamp {
    let since = memory.shutdown.map_or(now, |shutdown| shutdown.since);
    // Whole seconds, so that the message of one shutdown is always the same
    let end = since.saturating_add(desired.grace).unwrap_or(now);
    Timestamp::from_second(end.as_second()).unwrap_or(end)
}
