//! A whole API server inside a test: real HTTP and TLS on a free port of `[::1]`, over storage in memory.
//!
//! For the component tests of everything that talks to the API; the cargo feature `in-process` turns it on:
//!
//! ```toml
//! [dev-dependencies]
//! ucloud-api = { workspace = true, features = ["in-process"] }
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), ucloud_api::in_process::InProcessError> {
//! let api = ucloud_api::in_process::InProcess::start().await?;
//! let admin: kube::Client = api.admin().await?;
//! let agent: kube::Client = api.agent("h1").await?;
//! # Ok(()) }
//! ```

use std::{
    io,
    net::{Ipv6Addr, SocketAddr},
    time::{Duration, SystemTime},
};

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::{net::TcpListener, task::JoinHandle, time};
use tokio_util::sync::CancellationToken;
use ucloud_machinery::{ServerTls, TlsError, storage::MemoryStorage};
use ucloud_types::host::HostRole;

use crate::{
    agents::{Agents, AgentsError},
    pki::{
        AltName, Authority, HostName, Identity, PkiError, ServerUrl, Subject, directory, kubeconfig,
        names::ParseNameError,
    },
    server::{ServerError, server},
};

/// The server is ready within this time, or something is wrong.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is asked.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// Why a server or a client for it cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InProcessError {
    /// No port, or it is gone.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The server cannot be put together.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A certificate cannot be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// The way to the agents cannot be set up.
    #[error("cannot set up the way to the agents")]
    Agents(#[from] AgentsError),
    /// A host's name is none.
    #[error(transparent)]
    Name(#[from] ParseNameError),
    /// A kubeconfig cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// A kubeconfig cannot be used.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// A client cannot be made.
    #[error("cannot make a client")]
    Client(#[source] kube::Error),
    /// The server does not get ready.
    #[error("the server is not ready after {} s", READY_TIMEOUT.as_secs())]
    NotReady,
}

/// A running server. It stops when this is dropped; what is stored lives as long as a clone of the storage.
pub struct InProcess {
    storage: MemoryStorage,
    authority: Authority,
    certificate: Identity,
    url: ServerUrl,
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl InProcess {
    /// A server over an empty store, ready to serve.
    pub async fn start() -> Result<Self, InProcessError> {
        Self::over(MemoryStorage::new()).await
    }

    /// A server over a store that may hold something already.
    pub async fn over(storage: MemoryStorage) -> Result<Self, InProcessError> {
        let listener = listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).await?;
        let unspecified = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let address =
            listener.local_addr().map_err(|source| InProcessError::Listen { address: unspecified, source })?;
        let now = SystemTime::now();
        let authority = Authority::generate("ucloud CA", now)?;
        let names = [AltName::Ip(address.ip())];
        let certificate = authority.issue(&Subject::server("ucloud-api", names), now)?;
        let url = format!("https://{address}").parse()?;
        let mut this = Self { storage, authority, certificate, url, address, running: None };
        this.serve(listener)?;
        this.ready().await?;
        Ok(this)
    }

    /// What the server stores in.
    pub fn storage(&self) -> &MemoryStorage {
        &self.storage
    }

    /// Where it is reached.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// An administrator.
    pub async fn admin(&self) -> Result<kube::Client, InProcessError> {
        self.client(&directory::admin()).await
    }

    /// The controllers.
    pub async fn controllers(&self) -> Result<kube::Client, InProcessError> {
        self.client(&directory::controllers()).await
    }

    /// The agent of a host, which may have every role.
    pub async fn agent(&self, host: &str) -> Result<kube::Client, InProcessError> {
        self.client(&directory::agent(&host.parse::<HostName>()?, &HostRole::ALL)).await
    }

    /// Anybody, with a new certificate.
    pub async fn client(&self, subject: &Subject) -> Result<kube::Client, InProcessError> {
        let kubeconfig = self.kubeconfig(subject)?;
        let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // as in the programs that this stands for
        config.default_retry = false;
        kube::Client::try_from(config).map_err(InProcessError::Client)
    }

    /// Anybody's certificate and key, new ones.
    pub fn identity(&self, subject: &Subject) -> Result<Identity, InProcessError> {
        Ok(self.authority.issue(subject, SystemTime::now())?)
    }

    /// The certificate of the authority, PEM.
    pub fn authority(&self) -> &str {
        self.authority.certificate()
    }

    /// Anybody's kubeconfig, with a new certificate.
    pub fn kubeconfig(&self, subject: &Subject) -> Result<Kubeconfig, InProcessError> {
        let identity = self.identity(subject)?;
        Ok(kubeconfig::build(&self.url, &self.authority, subject, &identity)?)
    }

    /// An administrator's kubeconfig, as YAML: for programs.
    pub fn admin_kubeconfig(&self) -> Result<String, InProcessError> {
        let subject = directory::admin();
        let identity = self.authority.issue(&subject, SystemTime::now())?;
        Ok(kubeconfig::to_yaml(&self.url, &self.authority, &subject, &identity)?)
    }

    /// Stops the server as SIGTERM does. Clients get no answer until [`InProcess::resume`].
    pub async fn stop(&mut self) {
        if let Some(Running { task, shutdown }) = self.running.take() {
            shutdown.cancel();
            // a panic in it has been told already, on stderr
            let _ = task.await;
        }
    }

    /// Starts a new server over the same storage, at the same address and with the same certificates.
    pub async fn resume(&mut self) -> Result<(), InProcessError> {
        self.stop().await;
        let listener = listen(self.address).await?;
        self.serve(listener)?;
        self.ready().await
    }

    fn serve(&mut self, listener: TcpListener) -> Result<(), InProcessError> {
        let Identity { certificate, key } = &self.certificate;
        let tls = ServerTls::from_pem(certificate.as_bytes(), key.as_bytes(), self.authority.certificate().as_bytes())?;
        let api = self.identity(&directory::api())?;
        let authority = self.authority.certificate().as_bytes();
        let agents = Agents::from_pem(api.certificate.as_bytes(), api.key.as_bytes(), authority)?;
        let shutdown = CancellationToken::new();
        let serving = server(self.storage.clone(), &agents)?.serve(listener, tls, shutdown.clone());
        self.running = Some(Running { task: tokio::spawn(serving), shutdown });
        Ok(())
    }

    async fn ready(&self) -> Result<(), InProcessError> {
        let client = self.admin().await?;
        let asked = async {
            let mut interval = time::interval(READY_INTERVAL);
            loop {
                interval.tick().await;
                let request = http::Request::get("/readyz").body(Vec::new());
                if let Ok(request) = request
                    && client.request_text(request).await.is_ok()
                {
                    return;
                }
            }
        };
        time::timeout(READY_TIMEOUT, asked).await.map_err(|_| InProcessError::NotReady)
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.shutdown.cancel();
        }
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, InProcessError> {
    TcpListener::bind(address).await.map_err(|source| InProcessError::Listen { address, source })
}
