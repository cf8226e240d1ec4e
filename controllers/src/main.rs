//! ucloud-controllers: runs the controllers against an API server.

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;
use ucloud_controllers::{ControllerName, Options, run, runtime::serve::serve};

/// The controllers of ucloud: the scheduler, networks, files, images, volumes, snapshots and their schedules, orphans, pools, hosts, namespaces, quotas and the garbage collector.
///
/// Any number of them may run; one acts, the others stand by.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The kubeconfig with the API server's address and this program's certificate.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: PathBuf,

    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, value_name = "ADDRESS", default_value = "[::1]:9101")]
    metrics: SocketAddr,

    /// Which controllers run; all by default.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    controllers: Vec<ControllerName>,

    /// Destroys what has belonged to no object for so long, such as 72h; at least 24h. By default nothing is destroyed by itself.
    #[arg(long, value_name = "DURATION", value_parser = orphan_age)]
    destroy_orphans_after: Option<Duration>,

    /// How log lines are written. What is logged is set by RUST_LOG.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// Acts without asking whether another process does. Only where there can be no other.
    #[arg(long)]
    no_leader_election: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // colours are for people at a terminal, not for files
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match arguments.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    // the only provider in the tree; an error says that it is installed already
    let _ = rustls::crypto::ring::default_provider().install_default();

    let options = options(&arguments);
    let client = client(&arguments.kubeconfig).await?;
    let stop = options.stop.clone();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
        }
        stop.cancel();
    });

    let server = serve(arguments.metrics, options.metrics.clone(), options.readiness.clone(), options.stop.clone());
    let serving = async {
        server.await.with_context(|| format!("cannot serve metrics on {}", arguments.metrics))?;
        // it ends by itself only when everything does
        std::future::pending().await
    };
    tokio::select! {
        result = run(client, options.clone()) => result.context("the controllers ended"),
        result = serving => result,
    }
    .inspect_err(|error| error!(error = format!("{error:#}"), "ending"))
}

/// An orphan's age, in hours: a list of objects that is wrong must have time to be put right.
fn orphan_age(text: &str) -> Result<Duration, String> {
    let hours = text.strip_suffix('h').and_then(|hours| hours.parse::<u32>().ok());
    let hours = hours.ok_or_else(|| format!("{text:?} is not a number of hours; write 24h or 72h"))?;
    if hours < 24 {
        return Err(format!("nothing is destroyed by itself before a day has passed; write 24h or more, not {text}"));
    }
    Ok(Duration::from_hours(hours.into()))
}

fn options(arguments: &Arguments) -> Options {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // the process id tells two processes on one machine apart, and the start two with the same id
    let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut options = Options::new(format!("{}_{}_{started:x}", host.trim(), std::process::id()));
    if !arguments.controllers.is_empty() {
        options.controllers = arguments.controllers.iter().copied().collect();
    }
    options.destroy_orphans_after = arguments.destroy_orphans_after;
    if arguments.no_leader_election {
        options.election = None;
    }
    options
}

async fn client(kubeconfig: &PathBuf) -> anyhow::Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read the kubeconfig {}", kubeconfig.display()))?;
    let mut config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use the kubeconfig {}", kubeconfig.display()))?;
    // what fails is tried again by whoever asked, with pauses and limits of its own
    config.default_retry = false;
    Client::try_from(config).context("cannot make a client for the API server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orphans_have_a_day_at_least() {
        assert_eq!(orphan_age("24h"), Ok(Duration::from_hours(24)));
        for text in ["23h", "0h", "", "h", "1d", "-24h", "24"] {
            assert!(orphan_age(text).is_err(), "{text:?} was accepted");
        }
    }
}
