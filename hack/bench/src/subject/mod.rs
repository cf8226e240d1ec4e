//! The server that is measured, and the etcd whose raw transactions it is compared with.

mod daemon;
mod etcd;
mod own;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use self::etcd::Etcd;
use self::own::Own;
use crate::http::{Call, Connection, Endpoint, Protocol};
use crate::kind::{Kind, NAMESPACE};
use crate::machine::Process;
use crate::settings::{Server, Settings};

/// The server under load.
pub struct Subject {
    pub endpoint: Arc<Endpoint>,
    /// Its process, where it is known.
    pub server: Option<Process>,
    /// Its etcd's process, where it is known.
    pub etcd: Option<Process>,
    own: Option<Own>,
    raw: Option<Etcd>,
    kind: Kind,
    /// Where the files of what was started are; removed last.
    _files: tempfile::TempDir,
}

const NAMESPACES: &str = "/api/v1/namespaces";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How long a new kind may take until it is served.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

impl Subject {
    /// Finds or starts everything. Also gives the time that our own server took to be ready.
    pub async fn start(settings: &Settings) -> anyhow::Result<(Self, Option<Duration>)> {
        let files =
            tempfile::Builder::new().prefix("ucloud-bench-").tempdir().context("cannot make a temporary folder")?;
        match &settings.server {
            Server::Own(program) => {
                let own = Own::prepare(program, files.path()).await?;
                let raw = Etcd::start(&files.path().join("raw"), &own.pki).await?;
                let endpoint = endpoint(own.kubeconfig.clone(), None).await?;
                let (etcd, kind) = (Some(own.etcd.process()), settings.kind);
                let mut subject =
                    Self { endpoint, server: None, etcd, own: Some(own), raw: Some(raw), kind, _files: files };
                let time = subject.restart().await?;
                Ok((subject, Some(time)))
            }
            Server::Foreign { kubeconfig, context, server_pid, etcd_pid, program } => {
                let raw = match program {
                    Some(program) => {
                        let pki = own::make_certificates(program, files.path(), "https://localhost:6443")?;
                        Some(Etcd::start(&files.path().join("raw"), &pki).await?)
                    }
                    None => None,
                };
                let process = |pid: &Option<u32>| pid.map(|pid| Process { pid });
                let subject = Self {
                    endpoint: endpoint(kubeconfig.clone(), context.clone()).await?,
                    server: process(server_pid),
                    etcd: process(etcd_pid),
                    own: None,
                    raw,
                    kind: settings.kind,
                    _files: files,
                };
                Ok((subject, None))
            }
        }
    }

    /// Starts our own server, ending the one that runs, and tells how long it took to be ready.
    pub async fn restart(&mut self) -> anyhow::Result<Duration> {
        let own = self.own.as_mut().context("only a server of one's own can be restarted")?;
        let time = own.restart_server(&self.endpoint).await?;
        self.server = own.server_process();
        Ok(time)
    }

    /// The etcd that serves nobody else, and its version.
    pub fn raw(&self) -> Option<(&etcd_client::Client, &str)> {
        self.raw.as_ref().map(|raw| (&raw.client, raw.version.as_str()))
    }

    /// The process of the raw etcd.
    pub fn raw_process(&self) -> Option<Process> {
        self.raw.as_ref().map(Etcd::process)
    }

    /// What the server says of itself.
    pub async fn version(&self) -> anyhow::Result<String> {
        let (code, body) = self.connect().await?.ask(Call::get("/version")).await?;
        anyhow::ensure!(code.is_success(), "/version: {code}");
        let version: Value = serde_json::from_slice(&body).context("/version is no JSON")?;
        Ok(version["gitVersion"].as_str().unwrap_or("unknown").to_owned())
    }

    /// The present revision of the server's store.
    pub async fn revision(&self) -> anyhow::Result<u64> {
        let (code, body) = self.connect().await?.ask(Call::get(&format!("{NAMESPACES}?limit=1"))).await?;
        anyhow::ensure!(code.is_success(), "{NAMESPACES}: {code}");
        let list: Value = serde_json::from_slice(&body).context("the list of namespaces is no JSON")?;
        let revision =
            list["metadata"]["resourceVersion"].as_str().context("the list of namespaces has no revision")?;
        revision.parse().with_context(|| format!("the revision {revision} is no number"))
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        self.endpoint.connect(Protocol::Http2).await
    }

    /// Makes the namespace of the load, and its kind if that is our own.
    pub async fn make_room(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        match connection.ask(Call::post(NAMESPACES, namespace.to_string().into())).await? {
            (code, _) if code.is_success() => {}
            (StatusCode::CONFLICT, _) => {
                anyhow::bail!("the namespace {NAMESPACE} is there already, of another run: delete it first")
            }
            (code, body) => anyhow::bail!("cannot create a namespace: {code}: {}", String::from_utf8_lossy(&body)),
        }
        if self.kind == Kind::Custom {
            connection.succeed(Call::post(DEFINITIONS, Kind::definition().to_string().into())).await?;
            let served = async {
                while !connection.ask(Call::get(&self.kind.collection())).await?.0.is_success() {
                    tokio::time::sleep(PAUSE).await;
                }
                anyhow::Ok(())
            };
            tokio::time::timeout(PATIENCE, served).await.context("the new kind is not served")??;
        }
        Ok(())
    }

    /// Takes away what was made on a server that stays.
    pub async fn tidy_up(&self) -> anyhow::Result<()> {
        if self.own.is_some() {
            return Ok(());
        }
        let mut connection = self.connect().await?;
        let mut paths = vec![self.kind.collection(), format!("{NAMESPACES}/{NAMESPACE}")];
        if self.kind == Kind::Custom {
            paths.push(format!("{DEFINITIONS}/loads.bench.ucloud.ungleich.ch"));
        }
        for path in paths {
            let (code, body) = connection.ask(Call::delete(&path)).await?;
            anyhow::ensure!(
                code.is_success() || code == StatusCode::NOT_FOUND,
                "cannot remove {path}: {code}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        Ok(())
    }
}

async fn endpoint(kubeconfig: PathBuf, context: Option<String>) -> anyhow::Result<Arc<Endpoint>> {
    let read = Kubeconfig::read_from(&kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    let options = KubeConfigOptions { context, ..KubeConfigOptions::default() };
    let config = kube::Config::from_custom_kubeconfig(read, &options)
        .await
        .with_context(|| format!("cannot use {}", kubeconfig.display()))?;
    Ok(Arc::new(Endpoint::new(&config).await?))
}
