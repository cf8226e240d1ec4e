//! Finds the API server: kubeconfig, namespace.

use std::path::Path;

use anyhow::Context as _;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::{cli::Connection, server::Server};

/// Where ucloud keeps its state on a host, and with it the administrator's kubeconfig.
const SYSTEM_DATA: &str = "/var/lib/ucloud";

/// Connects as the kubeconfig says. Nothing is sent yet.
pub async fn connect(options: &Connection) -> anyhow::Result<Server> {
    let (kubeconfig, origin) = kubeconfig(options)?;
    let context = || format!("cannot use the kubeconfig {origin}");
    let mut config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.with_context(context)?;
    let namespace = options.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let url = config.cluster_url.to_string();
    // up to fifteen times, for minutes, and without a word: a person is told at once
    config.default_retry = false;
    let client = Client::try_from(config).with_context(context)?;
    Ok(Server::new(client, url, namespace))
}

/// The kubeconfig, and what to call it in messages.
fn kubeconfig(options: &Connection) -> anyhow::Result<(Kubeconfig, String)> {
    let read = |path: &Path| {
        let origin = path.display().to_string();
        let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("cannot use the kubeconfig {origin}"))?;
        Ok((kubeconfig, origin))
    };
    if let Some(path) = &options.kubeconfig {
        return read(path);
    }
    if let Some(kubeconfig) = Kubeconfig::from_env().context("cannot use the kubeconfig that KUBECONFIG names")? {
        return Ok((kubeconfig, "that KUBECONFIG names".to_owned()));
    }
    let data = std::env::var_os("UCLOUD_DATA").unwrap_or_else(|| SYSTEM_DATA.into());
    let system = Path::new(&data).join("admin.kubeconfig");
    if system.exists() {
        return read(&system);
    }
    let home = std::env::home_dir().map(|home| home.join(".kube/config")).filter(|path| path.exists());
    read(&home.with_context(|| {
        let system = system.display();
        format!("no kubeconfig: neither {system} nor ~/.kube/config is there; name one with --kubeconfig or KUBECONFIG")
    })?)
}
