//! Request limits: how many requests are in work at once, in all and of each user, and who is next when there are more.
//!
//! Requests are of one of two levels, each with seats of its own, so that bulk work cannot keep the system's heartbeats
//! from being written. Within a level each user is a flow with a queue, and the queues take turns: one who sends
//! thousands of requests waits for their own, and others wait for one of those at most. Watches hold a seat only until
//! they have begun. Where nobody waits, a request costs one short lock.

mod gate;

use std::time::Duration;

pub(crate) use gate::{Gate, Seat};

use self::gate::Refusal;
use crate::auth::UserInfo;
use crate::status::ApiError;

/// The limits of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// So many requests are in work at once.
    pub concurrent: usize,
    /// Of these, so many of one user.
    pub concurrent_per_user: usize,
    /// So many requests wait.
    pub queued: usize,
    /// Of these, so many of one user.
    pub queued_per_user: usize,
    /// No request waits longer.
    pub patience: Duration,
}

impl Default for RequestLimits {
    fn default() -> Self {
        // what is in work mostly waits for etcd, which groups writes: a few hundred are what it takes to keep it busy
        Self {
            concurrent: 256,
            concurrent_per_user: 128,
            queued: 8192,
            queued_per_user: 1024,
            patience: Duration::from_secs(15),
        }
    }
}

/// The limits of both levels.
pub(crate) struct Flow {
    priority_groups: Vec<String>,
    system: Gate,
    workload: Gate,
}

impl Flow {
    /// `priority_groups` are those whose members' requests are of the system's level.
    pub(crate) fn new(limits: RequestLimits, priority_groups: Vec<String>) -> Self {
        Self { priority_groups, system: Gate::new(limits), workload: Gate::new(limits) }
    }

    /// Waits for a seat.
    ///
    /// # Errors
    /// 429 if too many wait already, or if the wait is too long.
    pub(crate) async fn admit(&self, user: &UserInfo, group: &str, resource: &str) -> Result<Seat<'_>, ApiError> {
        let gate = if self.is_system(user, group, resource) { &self.system } else { &self.workload };
        gate.admit(&user.name).await.map_err(|refusal| {
            let why = match refusal {
                Refusal::QueueFull => "too many requests are waiting",
                Refusal::TooLong => "this request has waited too long",
            };
            ApiError::too_many_requests(format!("too many requests, please try again later: {why}"))
        })
    }

    /// Leases tell who is alive and who leads: none of them must be late because others are busy.
    fn is_system(&self, user: &UserInfo, group: &str, resource: &str) -> bool {
        (group == "coordination.k8s.io" && resource == "leases")
            || self.priority_groups.iter().any(|group| user.in_group(group))
    }

    /// The levels with the names that metrics show them under.
    pub(crate) fn levels(&self) -> [(&'static str, &Gate); 2] {
        [("system", &self.system), ("workload", &self.workload)]
    }
}
