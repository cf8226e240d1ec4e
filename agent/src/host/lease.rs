//! The heartbeat: a Lease that is renewed as long as the agent lives, whatever else is wrong.
//!
//! A router renews it more often, and says so in it: while it is silent its networks lead nowhere, so others take over
//! from it within seconds. And a host that was cut off looks anew at everything when it is heard again: its watches may
//! hang on connections that nobody answers, and it may route what is another's by now.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{info, warn};
use ucloud_types::{
    Host,
    host::HostRole,
    meta::{HOST_LEASE_DURATION_SECONDS, HOSTS_NAMESPACE, ROUTER_LEASE_DURATION_SECONDS, ROUTER_LEASE_RENEW_SECONDS},
};

use crate::{
    Config,
    api::{ApiError, ApiServer},
    config::Timing,
    shared::Shared,
};

/// A router's Lease holds for so many of its renewals.
const RENEWALS_PER_ROUTER_LEASE: u32 = ROUTER_LEASE_DURATION_SECONDS / ROUTER_LEASE_RENEW_SECONDS;

/// How often the Lease is renewed, and how long it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    renew: Duration,
    seconds: u32,
}

impl Pace {
    fn of(routes: bool, timing: &Timing) -> Self {
        if routes {
            // a Lease counts whole seconds
            let seconds = timing.renew_router.saturating_mul(RENEWALS_PER_ROUTER_LEASE).as_secs_f64().ceil();
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded, and saturates")]
            let seconds = seconds as u32;
            Self { renew: timing.renew_router, seconds }
        } else {
            Self { renew: timing.renew, seconds: HOST_LEASE_DURATION_SECONDS }
        }
    }

    /// How long a renewal may take, and how long to wait after one that failed: one that hangs must not cost the Lease.
    fn limit(self, pause: Duration) -> Duration {
        pause.min(self.renew)
    }

    fn duration(self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// Whether the host has the role router.
pub fn is_router(host: &Host) -> bool {
    host.spec.roles.contains(&HostRole::Router)
}

/// Tells the heartbeat whether the host has the role router, as long as the agent runs.
pub async fn follow_role(shared: Arc<Shared>, routes: watch::Sender<bool>) {
    let mut changes = shared.caches.host.changes();
    loop {
        if let Some(host) = shared.caches.host.get(None, &shared.config.host) {
            routes.send_if_modified(|routes| std::mem::replace(routes, is_router(&host)) != *routes);
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Renews the Lease, as long as the agent runs. `look_anew` is told when it was renewed again after it had run out.
pub async fn heartbeat(
    api: ApiServer,
    config: Arc<Config>,
    mut routes: watch::Receiver<bool>,
    look_anew: watch::Sender<u64>,
) {
    let leases: Api<Lease> = api.namespaced(HOSTS_NAMESPACE);
    let mut renewed = Instant::now();
    loop {
        let pace = Pace::of(*routes.borrow_and_update(), &config.timing);
        let api = api.with_limit(pace.limit(config.timing.call));
        let mut timer = interval(pace.renew);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                changed = routes.changed() => {
                    // nobody tells any more: the agent is about to end
                    if changed.is_err() { std::future::pending::<()>().await; }
                    break;
                }
            }
            let mut failures = 0;
            while let Err(error) = renew(&api, &leases, &config.host, pace).await {
                failures += 1;
                warn!(failures, error = &error as &dyn std::error::Error, "cannot renew the heartbeat");
                tokio::time::sleep(pace.limit(config.timing.retry(failures)) / 2).await;
            }
            let silent = renewed.elapsed();
            renewed = Instant::now();
            if failures > 0 && silent > pace.duration() {
                info!(?silent, "the API server answers again: looking at everything anew");
                look_anew.send_modify(|count| *count += 1);
            }
        }
    }
}

async fn renew(api: &ApiServer, leases: &Api<Lease>, host: &str, pace: Pace) -> Result<(), ApiError> {
    let spec = LeaseSpec {
        holder_identity: Some(host.to_owned()),
        lease_duration_seconds: i32::try_from(pace.seconds).ok(),
        renew_time: Some(MicroTime(jiff::Timestamp::now())),
        ..LeaseSpec::default()
    };
    let patch = Patch::Merge(json!({"spec": spec}));
    match api.call(leases.patch(host, &PatchParams::default(), &patch)).await {
        Err(ApiError::Gone) => {
            let mut lease = Lease { spec: Some(spec), ..Lease::default() };
            lease.metadata.name = Some(host.to_owned());
            api.call(leases.create(&PostParams::default(), &lease)).await?;
            Ok(())
        }
        result => result.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routers_lease_survives_a_renewal_that_hangs() {
        let timing = Timing::default();
        let pace = Pace::of(true, &timing);
        assert_eq!(pace.seconds, ROUTER_LEASE_DURATION_SECONDS);
        let longest_pause = pace.limit(timing.retry(u32::MAX)) / 2;
        assert!(pace.renew + pace.limit(timing.call) + longest_pause < pace.duration());
        assert_eq!(Pace::of(false, &timing).limit(timing.call), Duration::from_secs(10));
    }
}
