//! When a host is silent. Pure. ([`super::hearing`] feeds it.)
//!
//! The time in a Lease comes from the host's clock, which may be wrong. So it is only compared with itself: what counts is
//! how long ago, by this process' own monotonic clock, it was last seen to change, as in Kubernetes' node lifecycle
//! controller. A process that has just started has seen nothing yet and gives every host the whole time.
//!
//! A cache that stands still proves nothing: the API server, or the way to it, may have been away for hosts as well. So
//! before a host is called silent, the server must have shown the same heartbeat twice, some time apart, and must have
//! answered in between: time enough for a host that lives to renew its Lease after the server has come back.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// What a host's agent last said of itself. Any change of it is a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// The renew time in the Lease; none if there is no Lease.
    pub renewed: Option<Timestamp>,
    /// Since when the condition Ready is as it is; none if it is not the agent's word.
    pub ready: Option<Timestamp>,
}

/// What is to be done about a host now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing before this much time is over.
    Wait(Duration),
    /// Ask the server for its Lease, and tell the answer to [`Heartbeats::answered`].
    Ask,
}

#[derive(Debug)]
struct Seen {
    pulse: Pulse,
    /// How long the host may be silent.
    patience: Duration,
    since: Instant,
    /// When the server itself first showed it.
    confirmed: Option<Instant>,
}

impl Seen {
    /// The server is asked so long before the time is over, at least: more than a host that lives takes from one renewal
    /// to the next.
    fn notice(&self) -> Duration {
        self.patience / 2
    }

    /// When the host will have been silent for too long, and the server will have confirmed it for long enough.
    fn due(&self) -> Instant {
        let end = self.since + self.patience;
        match self.confirmed {
            None => end.checked_sub(self.notice()).unwrap_or(end),
            Some(confirmed) => end.max(confirmed + self.notice()),
        }
    }
}

/// The heartbeats of all hosts, by name.
#[derive(Debug, Default)]
pub struct Heartbeats {
    seen: HashMap<String, Seen>,
}

impl Heartbeats {
    fn take_in(&mut self, host: &str, pulse: Pulse, patience: Duration, now: Instant) -> &mut Seen {
        let fresh = || Seen { pulse, patience, since: now, confirmed: None };
        let seen = self.seen.entry(host.to_owned()).or_insert_with(fresh);
        if seen.pulse != pulse {
            *seen = fresh();
        }
        seen.patience = patience;
        seen
    }

    /// Takes in what the cache shows of a host that may be silent for as long as `patience`.
    pub fn observe(&mut self, host: &str, pulse: Pulse, patience: Duration, now: Instant) -> Next {
        match self.take_in(host, pulse, patience, now).due().saturating_duration_since(now) {
            Duration::ZERO => Next::Ask,
            left => Next::Wait(left),
        }
    }

    /// Takes in what the server shows. Tells after which time to look again; none if the host is silent.
    pub fn answered(&mut self, host: &str, pulse: Pulse, patience: Duration, now: Instant) -> Option<Duration> {
        let seen = self.take_in(host, pulse, patience, now);
        seen.confirmed.get_or_insert(now);
        let left = seen.due().saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Whether the host has missed a renewal: it is silent, or soon will be unless it is heard. Where all hosts fell
    /// silent in the same moment, all are late by the time at which the first is silent: they renew their Leases a third
    /// of `patience` apart or less.
    pub fn is_late(&self, host: &str, now: Instant) -> bool {
        self.seen.get(host).is_some_and(|seen| now.saturating_duration_since(seen.since) >= seen.patience * 3 / 5)
    }

    /// The server has not answered: what it said before is no proof any more.
    pub fn unanswered(&mut self, host: &str) {
        if let Some(seen) = self.seen.get_mut(host) {
            seen.confirmed = None;
        }
    }

    /// The host is gone. One that comes back gets the whole time again.
    pub fn forget(&mut self, host: &str) {
        self.seen.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(40);

    fn beat(second: i64) -> Pulse {
        Pulse { renewed: Timestamp::from_second(second).ok(), ready: None }
    }

    fn wait(seconds: u64) -> Next {
        Next::Wait(Duration::from_secs(seconds))
    }

    /// One host, and a clock.
    struct Test {
        heartbeats: Heartbeats,
        start: Instant,
    }

    impl Test {
        fn new() -> Self {
            Self { heartbeats: Heartbeats::default(), start: Instant::now() }
        }

        fn observe(&mut self, pulse: Pulse, second: u64) -> Next {
            self.heartbeats.observe("h", pulse, PATIENCE, self.start + Duration::from_secs(second))
        }

        fn answered(&mut self, pulse: Pulse, second: u64) -> Option<u64> {
            let left = self.heartbeats.answered("h", pulse, PATIENCE, self.start + Duration::from_secs(second));
            left.map(|left| left.as_secs())
        }
    }

    #[test]
    fn only_changes_count_and_only_by_our_own_clock() {
        let mut test = Test::new();
        assert_eq!(test.observe(beat(5), 0), wait(20), "a wrong clock is no dead host");
        assert_eq!(test.observe(beat(4), 19), wait(20), "a clock that was set back beats too");
        assert_eq!(test.observe(beat(4), 38), wait(1));
        let reported = Pulse { ready: Timestamp::from_second(9).ok(), ..beat(4) };
        assert_eq!(test.observe(reported, 39), wait(20), "a report is a sign of life as well");
        test.heartbeats.forget("h");
        assert_eq!(test.observe(reported, 99), wait(20));
    }

    #[test]
    fn a_host_is_silent_when_the_server_has_shown_so_twice() {
        let mut test = Test::new();
        test.observe(beat(1), 0);
        assert_eq!(test.observe(beat(1), 20), Next::Ask);
        assert_eq!(test.answered(beat(1), 20), Some(20));
        assert_eq!(test.observe(beat(1), 39), wait(1));
        assert_eq!(test.observe(beat(1), 40), Next::Ask);
        assert_eq!(test.answered(beat(1), 40), None);
        assert_eq!(test.answered(beat(2), 41), Some(40), "the server knows more than the cache");
    }

    /// Pattern 9: the server was away for longer than a Lease holds. Hosts that live have the time to say so.
    #[test]
    fn an_outage_of_the_server_silences_no_host() {
        let mut test = Test::new();
        test.observe(beat(1), 0);
        test.answered(beat(1), 30);
        test.heartbeats.unanswered("h");
        assert_eq!(test.observe(beat(1), 500), Next::Ask);
        assert_eq!(test.answered(beat(1), 500), Some(20), "the server is back, the host not yet");
        assert_eq!(test.observe(beat(2), 505), wait(20));
    }

    /// What the guard against storms rests on.
    #[test]
    fn hosts_that_fell_silent_together_are_late_together() {
        let (mut heartbeats, start) = (Heartbeats::default(), Instant::now());
        let after = |millis| start + Duration::from_millis(millis);
        let patience = Duration::from_secs(6);
        // the one renewed its Lease just before all fell silent, the other was about to
        heartbeats.observe("first", beat(1), patience, after(0));
        heartbeats.observe("last", beat(1), patience, after(2000));
        assert!(!heartbeats.is_late("first", after(3500)), "one renewal may be lost");
        assert!(heartbeats.is_late("first", after(6000)) && heartbeats.is_late("last", after(6000)));
        heartbeats.observe("last", beat(2), patience, after(6100));
        assert!(!heartbeats.is_late("last", after(6200)) && !heartbeats.is_late("never seen", after(6200)));
    }
}
