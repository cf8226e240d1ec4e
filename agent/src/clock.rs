//! Durations of one kind for the core's decisions (signed) and for timers (unsigned).

use std::time::Duration;

use jiff::SignedDuration;

/// The duration for a timer: nothing less than zero.
pub fn timer(duration: SignedDuration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}
