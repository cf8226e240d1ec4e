//! The heartbeat: a Lease that is renewed as long as the agent lives, whatever else is wrong.

use std::sync::Arc;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tracing::warn;
use ucloud_types::meta::{HOST_LEASE_DURATION_SECONDS, HOSTS_NAMESPACE};

use crate::{
    Config,
    api::{ApiError, ApiServer},
};

/// Renews the Lease, as long as the agent runs.
pub async fn heartbeat(api: ApiServer, config: Arc<Config>) {
    let leases: Api<Lease> = api.namespaced(HOSTS_NAMESPACE);
    let mut failures = 0;
    let mut timer = tokio::time::interval(config.timing.renew);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        while let Err(error) = renew(&api, &leases, &config.host).await {
            failures += 1;
            warn!(failures, error = &error as &dyn std::error::Error, "cannot renew the heartbeat");
            tokio::time::sleep(config.timing.retry(failures).min(config.timing.renew)).await;
        }
        failures = 0;
    }
}

async fn renew(api: &ApiServer, leases: &Api<Lease>, host: &str) -> Result<(), ApiError> {
    let spec = LeaseSpec {
        holder_identity: Some(host.to_owned()),
        lease_duration_seconds: i32::try_from(HOST_LEASE_DURATION_SECONDS).ok(),
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
