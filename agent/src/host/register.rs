//! Making the Host object.

use kube::{Api, api::PostParams};
use tracing::{info, warn};
use ucloud_types::{Host, HostSpec};

use crate::{
    Config,
    api::{ApiError, ApiServer},
};

/// Makes the Host object, unless it is there already: then it is the administrators', and stays as it is. Tries until
/// it succeeds, and gives the object.
pub async fn register(api: &ApiServer, config: &Config) -> Host {
    let mut failures = 0;
    loop {
        match ensure(api, config).await {
            Ok(host) => return host,
            Err(error) => {
                failures += 1;
                warn!(failures, error = &error as &dyn std::error::Error, "cannot register the host");
                tokio::time::sleep(config.timing.retry(failures)).await;
            }
        }
    }
}

async fn ensure(api: &ApiServer, config: &Config) -> Result<Host, ApiError> {
    let hosts: Api<Host> = Api::all(api.client().clone());
    if let Some(host) = api.call(hosts.get_opt(&config.host)).await? {
        return Ok(host);
    }
    let host = Host::new(&config.host, HostSpec { roles: config.roles.clone(), ..HostSpec::default() });
    match api.call(hosts.create(&PostParams::default(), &host)).await {
        Ok(host) => {
            info!(host = config.host, "registered");
            Ok(host)
        }
        // It was made in between, or by an attempt whose answer was lost
        Err(ApiError::Conflict) => api.call(hosts.get(&config.host)).await,
        Err(error) => Err(error),
    }
}
