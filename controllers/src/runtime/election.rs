//! Which of several processes acts: leader election by a Lease, as client-go does it.
//!
//! Whoever holds the Lease renews it. Another may take it once it has seen it unchanged, by its own clock, for as long as
//! the Lease says; clocks of different machines are never compared. Taking and renewing are compare-and-swap on the Lease's
//! resourceVersion.
//!
//! A leader that could not renew in time stops acting before its Lease runs out. A process that was stopped (SIGSTOP, a
//! paused machine) and resumed finds that its time is over at its next look at the clock. What it may have written until
//! then is refused by the server, for every write of a controller is conditional.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};
use ucloud_types::meta::SYSTEM_NAMESPACE;

/// The Lease's name.
pub const LEASE: &str = "ucloud-controllers";

/// The times of an election; by default those of client-go.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long a Lease holds that is not renewed. Whole seconds, for that is how it is written.
    pub lease: Duration,
    /// How long a leader tries to renew before it stops acting. Shorter than `lease`.
    pub renew_deadline: Duration,
    /// How often it is tried.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew_deadline: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// What a process may do with a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// It is ours: renew it.
    Renew,
    /// Nobody holds it, or its holder is gone: take it.
    Take,
    /// Another holds it.
    Wait,
}

/// Decides from the Lease and from how long it was seen unchanged.
fn claim(me: &str, lease: &LeaseSpec, unchanged_for: Duration) -> Claim {
    let duration = Duration::from_secs(lease.lease_duration_seconds.unwrap_or(0).max(0).unsigned_abs().into());
    match lease.holder_identity.as_deref() {
        Some(holder) if holder == me => Claim::Renew,
        None | Some("") => Claim::Take,
        Some(_) if unchanged_for >= duration => Claim::Take,
        Some(_) => Claim::Wait,
    }
}

/// The Lease as its holder writes it.
fn held(me: &str, timing: &Timing, before: Option<&LeaseSpec>, claim: Claim, now: Timestamp) -> LeaseSpec {
    let before = before.cloned().unwrap_or_default();
    let fresh = claim != Claim::Renew;
    LeaseSpec {
        holder_identity: Some(me.to_owned()),
        lease_duration_seconds: i32::try_from(timing.lease.as_secs()).ok(),
        acquire_time: if fresh { Some(MicroTime(now)) } else { before.acquire_time },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(fresh)),
        ..LeaseSpec::default()
    }
}

/// One process' part in the election.
pub struct Election {
    leases: Api<Lease>,
    me: String,
    timing: Timing,
    /// The Lease's last known spec, and when it was first seen so.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Election {
    /// A candidate that calls itself `me`, which must be unique among all processes.
    pub fn new(client: Client, me: String, timing: Timing) -> Self {
        Self { leases: Api::namespaced(client, SYSTEM_NAMESPACE), me, timing, seen: None }
    }

    /// Waits until this process leads.
    pub async fn acquire(&mut self) {
        info!(me = self.me, lease = LEASE, "standing by");
        loop {
            match timeout(self.timing.renew_deadline, self.try_hold()).await {
                Ok(Ok(true)) => {
                    info!(me = self.me, "leading");
                    return;
                }
                Ok(Ok(false)) => debug!("another process leads"),
                Ok(Err(error)) if is_lost_race(&error) => debug!("another process was faster"),
                Ok(Err(error)) => warn!(%error, "cannot take the lease, trying again"),
                Err(_) => warn!("cannot take the lease: no answer, trying again"),
            }
            sleep(self.timing.retry).await;
        }
    }

    /// Renews until that is no longer possible, and ends then: this process must not act any more.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(self.timing.retry).await;
            let left = self.timing.renew_deadline.saturating_sub(renewed.elapsed());
            if left.is_zero() {
                warn!(me = self.me, "the lease could not be renewed in time");
                return;
            }
            // counted from before the request: the server may have renewed it at any time after
            let asked = Instant::now();
            match timeout(left, self.try_hold()).await {
                Ok(Ok(true)) => renewed = asked,
                Ok(Ok(false)) => {
                    warn!(me = self.me, "another process has taken the lease");
                    return;
                }
                Ok(Err(error)) => warn!(%error, "cannot renew the lease, trying again"),
                Err(_) => warn!("cannot renew the lease: no answer"),
            }
        }
    }

    /// Gives the Lease up, so that another process need not wait for it to run out. Nobody is kept from ending by it.
    pub async fn release(&mut self) {
        let consequence = "another process waits until the lease runs out";
        match timeout(self.timing.renew_deadline, self.try_release()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "cannot release the lease; {consequence}"),
            Err(_) => warn!("cannot release the lease: no answer; {consequence}"),
        }
    }

    async fn try_release(&mut self) -> Result<(), kube::Error> {
        let mut lease = self.leases.get(LEASE).await?;
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.me)) else {
            return Ok(());
        };
        spec.holder_identity = Some(String::new());
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        self.leases.replace(LEASE, &PostParams::default(), &lease).await?;
        info!(me = self.me, "lease released");
        Ok(())
    }

    /// Looks at the Lease and takes or renews it if that may be. Whether this process holds it then.
    async fn try_hold(&mut self) -> Result<bool, kube::Error> {
        let now = Timestamp::now();
        let Some(mut lease) = self.leases.get_opt(LEASE).await? else {
            return self.create(now).await;
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == spec => *since,
            _ => Instant::now(),
        };
        self.seen = Some((spec.clone(), since));
        let claim = claim(&self.me, &spec, since.elapsed());
        if claim == Claim::Wait {
            return Ok(false);
        }
        lease.spec = Some(held(&self.me, &self.timing, Some(&spec), claim, now));
        self.leases.replace(LEASE, &PostParams::default(), &lease).await.map(|_| true)
    }

    async fn create(&self, now: Timestamp) -> Result<bool, kube::Error> {
        let lease = Lease {
            metadata: ObjectMeta { name: Some(LEASE.to_owned()), ..ObjectMeta::default() },
            spec: Some(held(&self.me, &self.timing, None, Claim::Take, now)),
        };
        self.leases.create(&PostParams::default(), &lease).await.map(|_| true)
    }
}

fn is_lost_race(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        }
    }

    const LONG: Duration = Duration::from_secs(15);
    const SHORT: Duration = Duration::from_secs(14);

    #[test]
    fn only_a_lease_seen_unchanged_for_its_whole_time_is_taken() {
        assert_eq!(claim("me", &lease(Some("other")), SHORT), Claim::Wait);
        assert_eq!(claim("me", &lease(Some("other")), LONG), Claim::Take);
        assert_eq!(claim("me", &lease(Some("me")), SHORT), Claim::Renew);
        for free in [None, Some("")] {
            assert_eq!(claim("me", &lease(free), Duration::ZERO), Claim::Take);
        }
    }

    #[test]
    fn taking_counts_as_a_transition_and_renewing_does_not() {
        let (old, now) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(9).unwrap());
        let mut before = lease(Some("me"));
        before.acquire_time = Some(MicroTime(old));
        let renewed = held("me", &Timing::default(), Some(&before), Claim::Renew, now);
        assert_eq!((renewed.lease_transitions, renewed.acquire_time.unwrap().0), (Some(4), old));
        let taken = held("me", &Timing::default(), Some(&before), Claim::Take, now);
        assert_eq!((taken.lease_transitions, taken.acquire_time.unwrap().0), (Some(5), now));
        assert_eq!(held("me", &Timing::default(), None, Claim::Take, now).lease_transitions, Some(1));
    }
}
