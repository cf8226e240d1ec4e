//! When a host is silent. Pure.
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
    since: Instant,
    /// When the server itself first showed it.
    confirmed: Option<Instant>,
}

/// The heartbeats of all hosts, by name.
#[derive(Debug)]
pub struct Heartbeats {
    patience: Duration,
    seen: HashMap<String, Seen>,
}

impl Heartbeats {
    /// Nothing seen yet; hosts may be silent for so long.
    pub fn new(patience: Duration) -> Self {
        Self { patience, seen: HashMap::new() }
    }

    /// The server is asked so long before the time is over, at least.
    fn notice(&self) -> Duration {
        self.patience / 4
    }

    fn take_in(&mut self, host: &str, pulse: Pulse, now: Instant) -> &mut Seen {
        let fresh = Seen { pulse, since: now, confirmed: None };
        let seen = self.seen.entry(host.to_owned()).or_insert(fresh);
        if seen.pulse != pulse {
            *seen = Seen { pulse, since: now, confirmed: None };
        }
        seen
    }

    /// Takes in what the cache shows.
    pub fn observe(&mut self, host: &str, pulse: Pulse, now: Instant) -> Next {
        let (patience, notice) = (self.patience, self.notice());
        let seen = self.take_in(host, pulse, now);
        let due = match seen.confirmed {
            None => seen.since + patience.saturating_sub(notice),
            Some(confirmed) => (seen.since + patience).max(confirmed + notice),
        };
        match due.saturating_duration_since(now) {
            Duration::ZERO => Next::Ask,
            left => Next::Wait(left),
        }
    }

    /// Takes in what the server shows. Tells after which time to look again; none if the host is silent.
    pub fn answered(&mut self, host: &str, pulse: Pulse, now: Instant) -> Option<Duration> {
        let (patience, notice) = (self.patience, self.notice());
        let seen = self.take_in(host, pulse, now);
        let confirmed = *seen.confirmed.get_or_insert(now);
        let left = (seen.since + patience).max(confirmed + notice).saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
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

    #[test]
    fn only_changes_count_and_only_by_our_own_clock() {
        let mut heartbeats = Heartbeats::new(PATIENCE);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(heartbeats.observe("h", beat(5), after(0)), wait(30), "a wrong clock is no dead host");
        assert_eq!(heartbeats.observe("h", beat(4), after(29)), wait(30), "a clock that was set back beats too");
        assert_eq!(heartbeats.observe("h", beat(4), after(58)), wait(1));
        let reported = Pulse { ready: Timestamp::from_second(9).ok(), ..beat(4) };
        assert_eq!(heartbeats.observe("h", reported, after(59)), wait(30), "a report is a sign of life as well");
        heartbeats.forget("h");
        assert_eq!(heartbeats.observe("h", reported, after(99)), wait(30));
    }

    #[test]
    fn a_host_is_silent_when_the_server_has_shown_so_twice() {
        let mut heartbeats = Heartbeats::new(PATIENCE);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        heartbeats.observe("h", beat(1), after(0));
        assert_eq!(heartbeats.observe("h", beat(1), after(30)), Next::Ask);
        assert_eq!(heartbeats.answered("h", beat(1), after(30)), Some(Duration::from_secs(10)));
        assert_eq!(heartbeats.observe("h", beat(1), after(39)), wait(1));
        assert_eq!(heartbeats.observe("h", beat(1), after(40)), Next::Ask);
        assert_eq!(heartbeats.answered("h", beat(1), after(40)), None);
        assert_eq!(
            heartbeats.answered("h", beat(2), after(41)),
            Some(Duration::from_secs(40)),
            "the server knows more than the cache"
        );
    }

    /// Pattern 9: the server was away for longer than a Lease holds. Hosts that live have the time to say so.
    #[test]
    fn an_outage_of_the_server_silences_no_host() {
        let mut heartbeats = Heartbeats::new(PATIENCE);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        heartbeats.observe("h", beat(1), after(0));
        heartbeats.answered("h", beat(1), after(30));
        heartbeats.unanswered("h");
        assert_eq!(heartbeats.observe("h", beat(1), after(500)), Next::Ask);
        assert_eq!(
            heartbeats.answered("h", beat(1), after(500)),
            Some(Duration::from_secs(10)),
            "the server is back, the host not yet"
        );
        assert_eq!(heartbeats.observe("h", beat(2), after(505)), wait(30));
    }
}
