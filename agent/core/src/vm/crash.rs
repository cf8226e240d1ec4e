//! How a VM ran so far, and how long its next start has to wait for that.

use jiff::{SignedDuration, Timestamp};

use crate::hypervisor::{DomainState, StopReason};

use super::Pace;

/// How a VM ran so far, as far as this agent has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crashes {
    /// How often in a row it was started again because it had stopped.
    streak: u32,
    /// Since when it runs.
    up: Option<Timestamp>,
    /// Since when it is off after having run.
    down: Option<Timestamp>,
}

impl Crashes {
    /// Takes note of what was observed. `ran` tells whether it is known to have run before this agent started.
    pub fn observe(&mut self, state: Option<DomainState>, ran: bool, pace: &Pace, now: Timestamp) {
        match state {
            None => *self = Self::default(),
            Some(DomainState::Running) => {
                let up = *self.up.get_or_insert(now);
                self.down = None;
                if now.duration_since(up) >= pace.restart_forgiven {
                    self.streak = 0;
                }
            }
            Some(DomainState::Paused) => {}
            // A domain whose start failed is off for unknown reasons too, but it never ran
            Some(DomainState::Off(reason)) => {
                if self.down.is_none() && (ran || self.up.is_some() || reason != StopReason::Unknown) {
                    self.down = Some(now);
                }
                self.up = None;
            }
        }
    }

    /// Takes note of a start: by the agent's own decision (`restart`), or for the first time or as ordered.
    pub fn started(&mut self, restart: bool) {
        self.streak = if restart { self.streak.saturating_add(1) } else { 0 };
        self.down = None;
        self.up = None;
    }

    /// Whether the VM has run and stopped, so that to start it is to start it again.
    pub fn has_stopped(&self) -> bool {
        self.down.is_some()
    }

    /// How often in a row it was started again because it had stopped.
    pub fn streak(&self) -> u32 {
        self.streak
    }

    /// How long the next start has to wait from now on; None if it may be now.
    pub fn wait(&self, pace: &Pace, now: Timestamp) -> Option<SignedDuration> {
        let doublings = self.streak.checked_sub(1)?.min(20);
        let pause = pace.restart_first.saturating_mul(1 << doublings).min(pace.restart_most);
        let wait = pause - now.duration_since(self.down?);
        wait.is_positive().then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn pauses_grow_to_a_limit_and_are_forgiven() {
        let pace = Pace::default();
        let mut crashes = Crashes::default();
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            crashes.observe(Some(DomainState::Running), false, &pace, at(now));
            now += 1;
            crashes.observe(Some(DomainState::Off(StopReason::Crashed)), false, &pace, at(now));
            let wait = crashes.wait(&pace, at(now)).map_or(0, |wait| wait.as_secs());
            pauses.push(wait);
            now += wait;
            assert_eq!(crashes.wait(&pace, at(now)), None);
            crashes.started(true);
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300, 300]);

        crashes.observe(Some(DomainState::Running), false, &pace, at(now));
        crashes.observe(Some(DomainState::Running), false, &pace, at(now + 600));
        crashes.observe(Some(DomainState::Off(StopReason::Shutdown)), false, &pace, at(now + 601));
        assert_eq!(crashes.wait(&pace, at(now + 601)), None);
    }

    #[test]
    fn a_start_that_failed_is_no_crash() {
        let pace = Pace::default();
        let off = Some(DomainState::Off(StopReason::Unknown));
        let mut crashes = Crashes::default();
        crashes.observe(off, false, &pace, at(1));
        assert!(!crashes.has_stopped());
        crashes.observe(off, true, &pace, at(1));
        assert!(crashes.has_stopped(), "it ran before the host was booted");
    }
}
