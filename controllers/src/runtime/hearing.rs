//! Listens to the heartbeats of hosts: the cache of their Leases, and the server where a cache is not enough.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Client, ResourceExt as _};
use tokio::time::Instant;
use ucloud_types::{
    Host,
    condition::{self, Condition, READY},
    meta::HOSTS_NAMESPACE,
};

use super::{
    Cache, Failure,
    heartbeat::{Heartbeats, Next, Pulse},
    objects,
};

/// The reason of Ready on a host that is silent.
pub const LEASE_EXPIRED: &str = "LeaseExpired";

/// What one controller has heard of hosts. Cheap to clone.
#[derive(Clone)]
pub struct Hearing {
    client: Client,
    leases: Cache<Lease>,
    heartbeats: Arc<Mutex<Heartbeats>>,
}

impl Hearing {
    /// Nothing heard yet; `leases` are those of the hosts.
    pub fn new(client: &Client, leases: &Cache<Lease>) -> Self {
        Self { client: client.clone(), leases: leases.clone(), heartbeats: Arc::default() }
    }

    fn heartbeats(&self) -> MutexGuard<'_, Heartbeats> {
        self.heartbeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When to look at the host again; none if it has been silent for longer than it may be, by its Lease.
    pub async fn look(
        &self,
        host: &Host,
        patience: impl Fn(Option<&Lease>) -> Duration,
    ) -> Result<Option<Duration>, Failure> {
        let name = host.name_any();
        let cached = self.leases.get(Some(HOSTS_NAMESPACE), &name);
        let cached = cached.as_deref();
        let next = self.heartbeats().observe(&name, pulse(host, cached), patience(cached), Instant::now());
        if let Next::Wait(left) = next {
            return Ok(Some(left));
        }
        match objects::get::<Lease>(&self.client, Some(HOSTS_NAMESPACE), &name).await {
            Ok(live) => {
                let live = live.as_ref();
                Ok(self.heartbeats().answered(&name, pulse(host, live), patience(live), Instant::now()))
            }
            Err(failure) => {
                self.heartbeats().unanswered(&name);
                Err(failure)
            }
        }
    }

    /// Whether the host has missed a renewal.
    pub fn is_late(&self, host: &str) -> bool {
        self.heartbeats().is_late(host, Instant::now())
    }

    /// The host is gone, or of no interest.
    pub fn forget(&self, host: &str) {
        self.heartbeats().forget(host);
    }
}

/// The condition Ready of a host.
pub fn ready(host: &Host) -> Option<&Condition> {
    condition::get(&host.status.as_ref()?.conditions, READY)
}

fn pulse(host: &Host, lease: Option<&Lease>) -> Pulse {
    Pulse {
        renewed: lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref()).map(|time| time.0),
        ready: ready(host).filter(|ready| ready.reason != LEASE_EXPIRED).map(|ready| ready.last_transition_time.0),
    }
}
