//! Making the Host object.

use kube::{Api, api::PostParams};
use tracing::{info, warn};
use ucloud_types::{Host, HostSpec};

use crate::{
    Config,
    api::{ApiError, ApiServer},
};

/// Makes the Host object, unless it is there already: then it is the administrators', and stays as it is. Tries until
/// it succeeds.
pub async fn register(api: &ApiServer, config: &Config) {
    let mut failures = 0;
    while let Err(error) = ensure(api, config).await {
        failures += 1;
        warn!(failures, error = &error as &dyn std::error::Error, "cannot register the host");
        tokio::time::sleep(config.timing.retry(failures)).await;
    }
}

async fn ensure(api: &ApiServer, config: &Config) -> Result<(), ApiError> {
    let hosts: Api<Host> = Api::all(api.client().clone());
    if api.call(hosts.get_opt(&config.host)).await?.is_some() {
        return Ok(());
    }
    let host = Host::new(&config.host, HostSpec { roles: config.roles.clone(), ..HostSpec::default() });
    match api.call(hosts.create(&PostParams::default(), &host)).await {
        Ok(_) => {
            info!(host = config.host, "registered");
            Ok(())
        }
        // It was made in between, or by an attempt whose answer was lost
        Err(ApiError::Conflict) => Ok(()),
        Err(error) => Err(error),
    }
}
