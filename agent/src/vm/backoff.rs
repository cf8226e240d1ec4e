//! How long a VM of which a step failed is left alone.
//!
//! Much wakes a VM, its own failure among it: a start that fails leaves a domain behind, and its report comes back by
//! the watch. So it is not the queue that keeps the pauses but this: until a pause is over, a VM that is woken is looked
//! at, but no step is taken.

use std::time::Duration;

use tokio::time::Instant;
use ucloud_agent_core::vm::Desired;

/// What was asked for when a step failed. Once something else is asked for, the failure says nothing any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    generation: Option<i64>,
    epoch: u64,
    request: Option<u64>,
    restore: Option<u64>,
    deleting: bool,
}

impl From<&Desired> for Wish {
    fn from(desired: &Desired) -> Self {
        Self {
            generation: desired.generation,
            epoch: desired.epoch,
            request: desired.request.as_ref().map(|request| request.id),
            restore: desired.restore.as_ref().map(|request| request.id),
            deleting: desired.deleting,
        }
    }
}

/// The failures of one VM's steps, all under one wish.
#[derive(Clone, Debug, Default)]
pub struct Backoff(Option<Failed>);

#[derive(Clone, Debug)]
struct Failed {
    wish: Wish,
    /// How often in a row.
    times: u32,
    /// No step is taken before.
    until: Instant,
}

impl Backoff {
    /// A step has failed. `pause` tells how long to wait after this many failures in a row (1 or more).
    pub fn failed(&mut self, wish: Wish, pause: impl FnOnce(u32) -> Duration, now: Instant) {
        let before = self.0.as_ref().filter(|failed| failed.wish == wish).map_or(0, |failed| failed.times);
        let times = before.saturating_add(1);
        self.0 = Some(Failed { wish, times, until: now + pause(times) });
    }

    /// How long no step may be taken yet for this wish; None if one may be taken now.
    pub fn wait(&mut self, wish: &Wish, now: Instant) -> Option<Duration> {
        if self.0.as_ref().is_some_and(|failed| failed.wish != *wish) {
            self.0 = None;
        }
        self.left(now)
    }

    /// How long it lasts from now on, if it does.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.0.as_ref()?.until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// All went well.
    pub fn succeeded(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use crate::Timing;

    use super::*;

    fn wish(generation: i64) -> Wish {
        Wish { generation: Some(generation), epoch: 1, request: None, restore: None, deleting: false }
    }

    /// An hour in which every step fails, and something wakes the VM ten times a second.
    #[test]
    fn an_hour_of_failures_is_a_score_of_attempts() {
        let timing = Timing::default();
        let begin = Instant::now();
        for uid in ["a", "b", "30b9f0dc-6b0c-4dd1-a8cf-8b9b0ae3bd12"] {
            let mut backoff = Backoff::default();
            let mut attempts = Vec::new();
            for tick in 0..36_000 {
                let now = begin + Duration::from_millis(100) * tick;
                if backoff.wait(&wish(1), now).is_none() {
                    attempts.push(now);
                    backoff.failed(wish(1), |times| timing.retry_step(times, uid), now);
                }
            }
            assert!((17..=21).contains(&attempts.len()), "{} attempts for {uid}", attempts.len());
            let pauses: Vec<_> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(pauses[0] >= timing.step_retry_first && pauses.is_sorted(), "{pauses:?}");
        }
    }

    #[test]
    fn it_ends_with_another_wish_or_a_success() {
        let now = Instant::now();
        let hour = |_| Duration::from_hours(1);
        let mut backoff = Backoff::default();
        backoff.failed(wish(1), hour, now);
        assert_eq!(backoff.wait(&wish(1), now), Some(Duration::from_hours(1)));
        assert_eq!(backoff.wait(&wish(2), now), None);
        assert_eq!(backoff.wait(&wish(1), now), None, "to wish for the same again is another wish");
        backoff.failed(wish(2), hour, now);
        backoff.failed(wish(3), |times| Duration::from_secs(times.into()), now);
        assert_eq!(backoff.left(now), Some(Duration::from_secs(1)), "failures of another wish do not count");
        backoff.succeeded();
        assert_eq!(backoff.wait(&wish(3), now), None);
    }
}
