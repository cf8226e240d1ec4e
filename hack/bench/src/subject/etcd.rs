//! An etcd with a single member, on free ports of the loopback interface.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

use super::daemon::Daemon;
use crate::machine::Process;

const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(5);

/// A running etcd, with a connection to it.
pub struct Etcd {
    daemon: Daemon,
    pub url: String,
    pub client: Client,
    pub version: String,
}

impl Etcd {
    /// Starts one as `hack/up` does, with its files in `folder` and the certificates of `ucloud-api pki`.
    pub async fn start(folder: &Path, pki: &Path) -> anyhow::Result<Self> {
        let [client_port, peer_port] = free_ports()?;
        let (url, peer_url) = (format!("https://127.0.0.1:{client_port}"), format!("https://127.0.0.1:{peer_port}"));
        let file = |name: &str| pki.join("etcd").join(name);
        let mut command = Command::new("etcd");
        command
            .args(["--name", "bench", "--logger", "zap", "--log-outputs", "stderr"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("bench={peer_url}"), "--quota-backend-bytes", "4294967296"])
            .arg("--data-dir")
            .arg(folder)
            .args(["--client-cert-auth", "--peer-client-cert-auth"]);
        for (option, name) in [
            ("--trusted-ca-file", "ca.crt"),
            ("--cert-file", "server.crt"),
            ("--key-file", "server.key"),
            ("--peer-trusted-ca-file", "ca.crt"),
            ("--peer-cert-file", "server.crt"),
            ("--peer-key-file", "server.key"),
        ] {
            command.arg(option).arg(file(name));
        }
        let mut daemon = Daemon::start(&mut command, &folder.with_extension("log"))?;
        let read = |name: &str| std::fs::read(file(name)).with_context(|| format!("cannot read etcd's {name}"));
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read("ca.crt")?))
            .identity(Identity::from_pem(read("client.crt")?, read("client.key")?));
        let mut client = Client::connect([&url], Some(ConnectOptions::new().with_tls(tls))).await?;
        let started = Instant::now();
        let version = loop {
            let answer = client.status().await;
            if let Ok(status) = &answer
                && status.leader() != 0
            {
                break status.version().to_owned();
            }
            if started.elapsed() > PATIENCE {
                answer.context("etcd does not answer")?;
                anyhow::bail!("etcd has no leader after {PATIENCE:?}");
            }
            daemon.check()?;
            tokio::time::sleep(PAUSE).await;
        };
        Ok(Self { daemon, url, client, version })
    }

    pub fn process(&self) -> Process {
        self.daemon.process()
    }
}

/// Ports that nobody listened at a moment ago.
pub fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    // all held at once, so that they differ
    let mut held = Vec::with_capacity(N);
    for port in &mut ports {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("no port is free")?;
        *port = listener.local_addr().context("a listener has no address")?.port();
        held.push(listener);
    }
    Ok(ports)
}
