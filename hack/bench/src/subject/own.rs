//! A ucloud-api with an etcd and certificates of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::daemon::Daemon;
use super::etcd::{Etcd, free_ports};
use crate::http::{Call, Endpoint, Protocol};
use crate::machine::Process;

const PATIENCE: Duration = Duration::from_mins(1);
/// How often a server that starts is asked whether it is ready.
const PAUSE: Duration = Duration::from_millis(1);

/// The server, as it is or as it is to be started.
pub struct Own {
    server: Option<Daemon>,
    pub etcd: Etcd,
    program: PathBuf,
    pub pki: PathBuf,
    pub kubeconfig: PathBuf,
    address: String,
    log: PathBuf,
}

impl Own {
    /// Everything but the server itself.
    pub async fn prepare(program: &Path, folder: &Path) -> anyhow::Result<Self> {
        let [port] = free_ports()?;
        let address = format!("127.0.0.1:{port}");
        let pki = make_certificates(program, folder, &format!("https://{address}"))?;
        Ok(Self {
            server: None,
            etcd: Etcd::start(&folder.join("etcd"), &pki).await?,
            program: program.to_owned(),
            kubeconfig: folder.join("admin.kubeconfig"),
            pki,
            address,
            log: folder.join("ucloud-api.log"),
        })
    }

    /// Starts the server, after ending the one that runs, and tells how long it took to be ready.
    pub async fn restart_server(&mut self, endpoint: &Arc<Endpoint>) -> anyhow::Result<Duration> {
        self.server = None;
        let started = Instant::now();
        let mut command = Command::new(&self.program);
        command
            .args(["serve", "--listen", &self.address, "--etcd", &self.etcd.url, "--pki-dir"])
            .arg(&self.pki)
            // what an operator gets who sets nothing
            .env_remove("RUST_LOG");
        let mut daemon = Daemon::start(&mut command, &self.log)?;
        while !is_ready(endpoint).await {
            daemon.check()?;
            anyhow::ensure!(started.elapsed() < PATIENCE, "ucloud-api is not ready after {PATIENCE:?}");
            tokio::time::sleep(PAUSE).await;
        }
        self.server = Some(daemon);
        Ok(started.elapsed())
    }

    pub fn server_process(&self) -> Option<Process> {
        self.server.as_ref().map(Daemon::process)
    }
}

async fn is_ready(endpoint: &Arc<Endpoint>) -> bool {
    match endpoint.connect(Protocol::Http1).await {
        Ok(mut connection) => connection.succeed(Call::get("/readyz")).await.is_ok(),
        Err(_) => false,
    }
}

/// Lets `ucloud-api pki` make certificates, and tells their folder. The administrator's kubeconfig is beside it.
pub fn make_certificates(program: &Path, folder: &Path, server: &str) -> anyhow::Result<PathBuf> {
    let pki = folder.join("pki");
    let output = Command::new(program)
        .args(["pki", "init", "--server", server, "--dir"])
        .arg(&pki)
        .arg("--kubeconfig-dir")
        .arg(folder)
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    anyhow::ensure!(output.status.success(), "ucloud-api pki: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(pki)
}
