//! A real etcd for tests: TLS with certificates made for it, a data directory and ports of its own; killed when dropped.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::storage::{EtcdConfig, EtcdStorage, Storage as _};

/// How long etcd may take to answer after a start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// One running etcd.
pub(super) struct TestServer {
    dir: TempDir,
    extra_args: Vec<String>,
    ports: [u16; 2],
    process: Child,
    prefixes: AtomicU32,
}

impl TestServer {
    /// Starts an etcd and waits until it answers.
    pub(super) async fn start(extra_args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_certificates(&dir);
        let extra_args: Vec<String> = extra_args.iter().map(ToString::to_string).collect();
        let ports = free_ports();
        let process = spawn(&dir, ports, &extra_args);
        let server = Self { dir, extra_args, ports, process, prefixes: AtomicU32::new(0) };
        server.wait_until_ready().await;
        server
    }

    /// A config for the endpoint given by its host, such as `127.0.0.1`, with a prefix that no other config has.
    pub(super) fn config(&self, host: &str) -> EtcdConfig {
        self.config_at(&format!("https://{host}:{}", self.port()))
    }

    /// The same for any URL that leads to this etcd.
    pub(super) fn config_at(&self, endpoint: &str) -> EtcdConfig {
        let file = |name: &str| std::fs::read(self.dir.path().join(name)).unwrap();
        EtcdConfig {
            endpoints: vec![endpoint.to_owned()],
            ca: file("ca.crt"),
            cert: file("node.crt"),
            key: file("node.key"),
            prefix: format!("/test-{}", self.prefixes.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A storage with a prefix of its own.
    pub(super) async fn storage(&self) -> EtcdStorage {
        EtcdStorage::connect(self.config("127.0.0.1")).await.unwrap()
    }

    /// The client library, for what only an operator does.
    pub(super) async fn client(&self) -> Client {
        let config = self.config("127.0.0.1");
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(&config.ca))
            .identity(Identity::from_pem(&config.cert, &config.key));
        Client::connect(&config.endpoints, Some(ConnectOptions::new().with_tls(tls))).await.unwrap()
    }

    /// The port for clients.
    pub(super) fn port(&self) -> u16 {
        self.ports[0]
    }

    /// Sends the process a signal. One that is to stop stands still when this returns: until then it may answer.
    pub(super) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.process.id().try_into().unwrap());
        kill(pid, signal).unwrap();
        if signal == Signal::SIGSTOP {
            waitid(Id::Pid(pid), WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT).unwrap();
        }
    }

    /// Kills etcd with SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again on the same data.
    pub(super) async fn start_again(&mut self) {
        self.process = spawn(&self.dir, self.ports, &self.extra_args);
        self.wait_until_ready().await;
    }

    /// Throws the data away and starts an etcd that knows nothing.
    pub(super) async fn replace(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
        self.start_again().await;
    }

    async fn wait_until_ready(&self) {
        let (storage, start) = (self.storage().await, Instant::now());
        while let Err(error) = storage.current_revision().await {
            assert!(start.elapsed() < START_LIMIT, "etcd did not come up: {error:?}; its log: {}", self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        // it may have been killed by the test already
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(dir: &TempDir, [client, peer]: [u16; 2], extra_args: &[String]) -> Child {
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path("log")).unwrap();
    Command::new("etcd")
        .args(["--name", "test", "--data-dir", &path("data")])
        .args(["--listen-client-urls", &format!("https://127.0.0.1:{client},https://[::1]:{client}")])
        .args(["--advertise-client-urls", &format!("https://127.0.0.1:{client}")])
        .args(["--listen-peer-urls", &format!("http://127.0.0.1:{peer}")])
        .args(["--initial-advertise-peer-urls", &format!("http://127.0.0.1:{peer}")])
        .args(["--initial-cluster", &format!("test=http://127.0.0.1:{peer}")])
        .args(["--cert-file", &path("node.crt"), "--key-file", &path("node.key")])
        .args(["--client-cert-auth", "--trusted-ca-file", &path("ca.crt")])
        // a lone member elects itself after one election timeout
        .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
        .args(extra_args)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("etcd must be installed to run these tests")
}

/// A CA, and one certificate for both the server and its client.
fn write_certificates(dir: &TempDir) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = ["127.0.0.1", "::1", "localhost"].map(str::to_owned);
    let node = CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap();
    for (name, pem) in [("ca.crt", ca.pem()), ("node.crt", node.pem()), ("node.key", key.serialize_pem())] {
        std::fs::write(dir.path().join(name), pem).unwrap();
    }
}

fn free_ports() -> [u16; 2] {
    // both held at once, so that they differ
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
