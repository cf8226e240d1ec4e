//! Leases for keys with a time to live, shared between the keys of about the same moment.
//!
//! A lease per Event would double the number of writes. As Kubernetes does, one lease serves all keys of the same time
//! to live that are created within a window, up to a number; it is granted for the time to live plus the window, so
//! that the last of them still lives long enough.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::members::Members;
use crate::storage::StorageError;

/// The longest window.
const MAX_WINDOW: Duration = Duration::from_mins(1);
/// The window is at most this part of the time to live.
const WINDOW_PART: u32 = 20;
/// etcd deletes a lease's keys in one transaction; more would stall it.
const MAX_KEYS: u32 = 1000;

/// The leases that new keys may still be put on, by time to live.
#[derive(Default)]
pub(super) struct Leases {
    current: Mutex<HashMap<Duration, Current>>,
}

struct Current {
    id: i64,
    granted: Instant,
    keys: u32,
}

impl Current {
    fn takes_another(&self, ttl: Duration, now: Instant) -> bool {
        self.keys < MAX_KEYS && now.duration_since(self.granted) < window(ttl)
    }
}

impl Leases {
    /// A lease that keeps a key created now for at least `ttl`.
    pub(super) async fn lease_for(&self, members: &Members, ttl: Duration) -> Result<i64, StorageError> {
        // held over the grant, so that keys created at the same time wait for one lease
        let mut current = self.current.lock().await;
        if let Some(lease) = current.get_mut(&ttl)
            && lease.takes_another(ttl, Instant::now())
        {
            lease.keys += 1;
            return Ok(lease.id);
        }
        let granted = Instant::now();
        let id = members.grant(granted_seconds(ttl)).await?;
        current.insert(ttl, Current { id, granted, keys: 1 });
        Ok(id)
    }

    /// Puts no more keys on the leases known, after etcd has lost one of them.
    pub(super) async fn forget(&self) {
        self.current.lock().await.clear();
    }
}

fn window(ttl: Duration) -> Duration {
    (ttl / WINDOW_PART).min(MAX_WINDOW)
}

fn granted_seconds(ttl: Duration) -> i64 {
    let granted = ttl + window(ttl);
    let seconds = granted.as_secs() + u64::from(granted.subsec_nanos() > 0);
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_outlives_the_time_to_live_of_its_last_key() {
        let hour = Duration::from_hours(1);
        assert_eq!(window(hour), Duration::from_mins(1));
        assert_eq!(granted_seconds(hour), 3660);
        assert_eq!(granted_seconds(Duration::from_millis(1500)), 2);
    }

    #[test]
    fn a_lease_is_left_when_it_is_full_or_old() {
        let (ttl, granted) = (Duration::from_secs(200), Instant::now());
        let mut lease = Current { id: 1, granted, keys: MAX_KEYS - 1 };
        assert!(lease.takes_another(ttl, granted + Duration::from_secs(9)));
        assert!(!lease.takes_another(ttl, granted + Duration::from_secs(10)));
        lease.keys = MAX_KEYS;
        assert!(!lease.takes_another(ttl, granted));
    }
}
