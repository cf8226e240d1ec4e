//! ucloud-agent: the adapters of a real host, put together.

mod cli;
mod stores;

use std::{
    io::{self, IsTerminal as _},
    net::IpAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;
use ucloud_agent::{
    Agent, Config, Inventory, Machine, Streams, Timing, files::FileSource, serve_metrics, streams::StreamTls,
};
use ucloud_agent_core::{FileStore, Net as _};
use ucloud_agent_files::Files;
use ucloud_agent_import::{ImportConfig, Importer, IpPrefix};
use ucloud_agent_libvirt::{Libvirt, LibvirtConfig};
use ucloud_agent_netlink::Netlink;
use ucloud_agent_nftables::Nftables;
use ucloud_agent_radvd::Radvd;
use ucloud_agent_rbd::{Pools, Rbd};
use ucloud_types::Ipv6Prefix;

use cli::{Cli, LogFormat};
use stores::{FileStores, Stores};

/// How many VMs are worked on at the same time.
const CONCURRENCY: u16 = 8;
/// How long a Ceph cluster may take to answer.
const CEPH: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let cli = Cli::parse();
    begin_log(cli.log_format);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
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

fn run(cli: &Cli) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS library is in use already"))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(serve(cli));
    // A call to the host that does not return must not keep the process: the next agent completes it
    runtime.shutdown_background();
    result
}

async fn serve(cli: &Cli) -> anyhow::Result<()> {
    let config = Config {
        host: cli.host_name()?,
        roles: cli.roles(),
        inventory: Inventory::read()?,
        cpu_overcommit: cli.cpu_overcommit,
        reserved_memory: cli.reserved_memory,
        concurrency: CONCURRENCY,
        timing: Timing::default(),
    };
    let end = CancellationToken::new();
    tokio::spawn(wait_for_signal(end.clone())?);
    let kubeconfig = &cli.kubeconfig;
    let kubeconfig = Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("cannot read the kubeconfig {}", kubeconfig.display()))?;
    let streams = streams(cli, &kubeconfig).await?;
    let client = connect(cli, kubeconfig).await?;
    let machine = machine(cli, client.clone()).await?;
    info!(host = config.host, version = env!("CARGO_PKG_VERSION"), "starting");
    let mut agent = Agent::new(config, client, machine);
    if let Some(streams) = streams {
        agent = agent.with_streams(streams);
    }
    let serving = serve_metrics(cli.metrics, agent.metrics(), end.clone());
    let served = async {
        match serving.await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        result = agent.run(end) => {
            result?;
            info!("ended; the VMs run on");
            Ok(())
        }
        error = served => Err(error).with_context(|| format!("cannot serve metrics at {}; choose another address by --metrics", cli.metrics)),
    }
}

fn wait_for_signal(end: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("told to end");
        end.cancel();
    })
}

async fn streams(cli: &Cli, kubeconfig: &Kubeconfig) -> anyhow::Result<Option<Streams>> {
    let Some(address) = cli.streams else { return Ok(None) };
    let tls = StreamTls::from_kubeconfig(kubeconfig)?;
    let streams = Streams::bind(address, tls).await;
    streams.map(Some).with_context(|| format!("cannot serve streams at {address}; choose another address by --streams"))
}

async fn connect(cli: &Cli, kubeconfig: Kubeconfig) -> anyhow::Result<kube::Client> {
    let path = &cli.kubeconfig;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?;
    // what fails is tried again by whoever asked, with pauses and limits of its own
    config.default_retry = false;
    kube::Client::try_from(config).context("cannot make a client for the API server")
}

async fn machine(cli: &Cli, client: kube::Client) -> anyhow::Result<Machine> {
    let data = std::path::absolute(&cli.data).with_context(|| format!("cannot use {}", cli.data.display()))?;
    let net =
        Netlink::start(ucloud_agent_netlink::Config { underlay: cli.underlay.clone(), uplink: cli.uplink.clone() })
            .await?;
    let underlay = net.underlay_addresses().await.with_context(|| format!("cannot use underlay {}", cli.underlay))?;
    let libvirt =
        LibvirtConfig { uri: cli.libvirt.clone(), consoles: data.join("console"), ..LibvirtConfig::default() };
    let imports = ImportConfig {
        import_dir: cli.import_dir.clone(),
        denied: underlay.into_iter().map(around).collect::<anyhow::Result<_>>()?,
        allowed: cli.allow_import_from.clone(),
        ..ImportConfig::default()
    };
    let pools = Arc::new(Pools::new(CEPH));
    let (directories, rbd) =
        (ucloud_agent_files::Uploads::default(), ucloud_agent_rbd::Uploads::new(Arc::clone(&pools)));
    let files: Arc<dyn FileStore> = Arc::new(FileStores { directories, rbd });
    let importer = Importer::new(imports)?.with_uploads(Arc::new(FileSource::new(client, Arc::clone(&files))));
    let importer = Arc::new(importer);
    let rbd = Rbd::new(pools, Arc::clone(&importer), data.join("scratch"))
        .with_context(|| format!("cannot use {}", data.display()))?;
    Ok(Machine {
        hypervisor: Arc::new(Libvirt::connect(libvirt, Arc::new(Rbd::key)).await?),
        store: Arc::new(Stores { files: Files::new(importer), rbd }),
        files,
        net: Arc::new(net),
        advertiser: Arc::new(Radvd::new(ucloud_agent_radvd::Config::in_directory(data.join("radvd")))),
        firewall: Arc::new(Nftables::start()),
    })
}

/// The network that an address of the underlay is in, as far as its size is known: a /64; in IPv4, the address alone.
fn around(address: IpAddr) -> anyhow::Result<IpPrefix> {
    let prefix = match address {
        IpAddr::V6(address) => Ipv6Prefix::containing(address, 64).context("a /64 is a prefix")?.to_string(),
        IpAddr::V4(address) => format!("{address}/32"),
    };
    Ok(prefix.parse()?)
}
