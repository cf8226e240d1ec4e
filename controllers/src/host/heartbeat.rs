//! When a host's heartbeat was last seen to beat. Pure.
//!
//! The time in a Lease comes from the host's clock, which may be wrong. So it is only compared with itself: what counts is
//! how long ago, by this process' own monotonic clock, it was last seen to change, as in Kubernetes' node lifecycle
//! controller. A process that has just started has seen nothing yet and gives every host the whole time.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

/// The heartbeats of all hosts, by name.
#[derive(Debug, Default)]
pub struct Heartbeats {
    seen: HashMap<String, (Option<Timestamp>, Instant)>,
}

impl Heartbeats {
    /// Takes in the renew time in the host's Lease, none if there is no Lease, and tells how long it has been the same.
    pub fn observe(&mut self, host: &str, renewed: Option<Timestamp>, now: Instant) -> Duration {
        let (last, since) = self.seen.entry(host.to_owned()).or_insert((renewed, now));
        if *last != renewed {
            (*last, *since) = (renewed, now);
        }
        now.saturating_duration_since(*since)
    }

    /// The host is gone. One that comes back gets the whole time again.
    pub fn forget(&mut self, host: &str) {
        self.seen.remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    #[test]
    fn only_changes_count_and_only_by_our_own_clock() {
        let mut heartbeats = Heartbeats::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let year_1970 = at(5);
        assert_eq!(heartbeats.observe("h", year_1970, after(0)), Duration::ZERO, "a wrong clock is no dead host");
        assert_eq!(heartbeats.observe("h", year_1970, after(41)), Duration::from_secs(41));
        assert_eq!(heartbeats.observe("h", at(4), after(42)), Duration::ZERO, "a clock that was set back beats too");
        assert_eq!(heartbeats.observe("h", at(4), after(50)), Duration::from_secs(8));
        assert_eq!(heartbeats.observe("h", None, after(51)), Duration::ZERO);
        heartbeats.forget("h");
        assert_eq!(heartbeats.observe("h", None, after(99)), Duration::ZERO);
    }
}
