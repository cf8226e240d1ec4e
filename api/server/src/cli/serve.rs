//! `ucloud-api serve`: the server over etcd, until it is told to stop.

use std::{
    fs,
    io::{self, IsTerminal as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use ucloud_api::Agents;
use ucloud_machinery::{
    ServerTls,
    storage::{EtcdConfig, EtcdStorage, Storage as _},
};

/// How long etcd has to answer before the log says that it does not.
const ETCD_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Args)]
#[command(after_help = "Examples:\n  \
        ucloud-api serve --pki-dir /etc/ucloud/pki --etcd https://[::1]:2379\n  \
        ucloud-api serve --listen '[::]:6443' --pki-dir /etc/ucloud/pki \\\n    \
            --etcd https://[fd00::1]:2379 --etcd https://[fd00::2]:2379 --etcd https://[fd00::3]:2379\n\n\
        RUST_LOG sets what is logged, such as RUST_LOG=debug; info by default.")]
pub struct ServeArgs {
    /// The address and port to serve at.
    #[arg(long, value_name = "ADDRESS", default_value = "[::1]:6443")]
    listen: SocketAddr,
    /// The folder that `ucloud-api pki init` made: ca.crt, server.crt, server.key, agents.crt, agents.key, etcd/.
    #[arg(long, value_name = "DIR")]
    pki_dir: PathBuf,
    /// The URL of an etcd member. Repeat it for each member.
    #[arg(long, value_name = "URL", required = true)]
    etcd: Vec<String>,
    /// The authority of etcd's certificate [default: PKI_DIR/etcd/ca.crt]
    #[arg(long, value_name = "FILE")]
    etcd_ca: Option<PathBuf>,
    /// The certificate to show to etcd [default: PKI_DIR/etcd/client.crt]
    #[arg(long, value_name = "FILE")]
    etcd_cert: Option<PathBuf>,
    /// The key of that certificate [default: PKI_DIR/etcd/client.key]
    #[arg(long, value_name = "FILE")]
    etcd_key: Option<PathBuf>,
    /// The form of the log, which goes to stderr.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

/// Serves until SIGTERM or Ctrl-C.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    begin_log(args.log_format);
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(args))
}

fn begin_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn serve(args: ServeArgs) -> anyhow::Result<()> {
    let pki = |file: &str| read(&args.pki_dir.join(file));
    let tls = ServerTls::from_pem(&pki("server.crt")?, &pki("server.key")?, &pki("ca.crt")?)
        .with_context(|| format!("cannot use the certificates in {}", args.pki_dir.display()))?;
    let agents = Agents::from_pem(&pki("agents.crt")?, &pki("agents.key")?, &pki("ca.crt")?)
        .with_context(|| format!("cannot use the certificate for agents in {}", args.pki_dir.display()))?;
    let etcd_file = |given: &Option<PathBuf>, file: &str| match given {
        Some(path) => read(path),
        None => pki(file),
    };
    let config = EtcdConfig {
        endpoints: args.etcd.clone(),
        ca: etcd_file(&args.etcd_ca, "etcd/ca.crt")?,
        cert: etcd_file(&args.etcd_cert, "etcd/client.crt")?,
        key: etcd_file(&args.etcd_key, "etcd/client.key")?,
        prefix: String::new(),
    };
    let storage =
        EtcdStorage::connect(config).await.with_context(|| format!("cannot use etcd at {}", args.etcd.join(", ")))?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?;
    let shutdown = stop_on_signal()?;
    let etcd = args.etcd.join(", ");
    let silence = match timeout(ETCD_PATIENCE, storage.current_revision()).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(chain(&error)),
        Err(_elapsed) => Some(format!("no answer within {} s", ETCD_PATIENCE.as_secs())),
    };
    if let Some(error) = silence {
        tracing::warn!(etcd, error, "etcd does not answer yet: trying on; /readyz fails until it does");
    }
    let server = ucloud_api::server(storage, &agents)?;
    tracing::info!(address = %listener.local_addr().unwrap_or(args.listen), version = env!("CARGO_PKG_VERSION"), "serving");
    server.serve(listener, tls, shutdown).await;
    tracing::info!("stopped");
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path)
        .with_context(|| format!("cannot read {}; `ucloud-api pki init` makes the certificates", path.display()))
}

/// Cancelled by the first SIGTERM or SIGINT. A second one ends the process at once.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let shutdown = CancellationToken::new();
    let told = shutdown.clone();
    tokio::spawn(async move {
        for told_before in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if told_before {
                std::process::exit(130);
            }
            tracing::info!("stopping: requests in progress may finish");
            told.cancel();
        }
    });
    Ok(shutdown)
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
