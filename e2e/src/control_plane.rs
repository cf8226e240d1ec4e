//! A control plane of its own for tests that need no VMs: a real etcd, `ucloud-api` and `ucloud-controllers` as
//! processes on free ports of `[::1]`, with certificates made by `ucloud-api pki` and all state in a temporary folder.
//! Each program can be killed, stopped and started again at the same address, and ends when this is dropped.

use std::{
    env,
    fs::{self, File},
    net::{Ipv6Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Run, eventually};

/// A program gets ready within this time on a slow machine, too.
const START: Duration = Duration::from_mins(1);

/// A program of a control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// etcd.
    Etcd,
    /// The API server.
    Api,
    /// The controllers.
    Controllers,
}

/// A running control plane.
pub struct ControlPlane {
    folder: TempDir,
    programs: PathBuf,
    ports: [u16; 4],
    running: [Option<Child>; 3],
}

const ALL: [Program; 3] = [Program::Etcd, Program::Api, Program::Controllers];

impl ControlPlane {
    /// Makes certificates, starts these programs in this order and waits until each is ready.
    pub fn start(programs: &[Program]) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("ucloud-clients.").tempdir()?;
        let this = Self { folder, programs: built_programs()?, ports: free_ports()?, running: [None, None, None] };
        let mut pki = this.program("ucloud-api");
        pki.args(["pki", "init", "--server", &this.url()]).arg("--dir").arg(this.path("pki"));
        Run::of(pki.arg("--kubeconfig-dir").arg(this.path("")), "")?.ok()?;
        let mut this = this;
        for &program in programs {
            this.start_again(program)?;
        }
        Ok(this)
    }

    /// A file or folder of this control plane.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("admin.kubeconfig")
    }

    /// Makes the kubeconfig of a host's agent, and gives its path.
    pub fn agent(&self, host: &str) -> anyhow::Result<String> {
        let file = self.path(&format!("{host}.kubeconfig"));
        let mut pki = self.program("ucloud-api");
        pki.args(["pki", "agent", "--host", host, "--server", &self.url(), "--dir"]).arg(self.path("pki"));
        Run::of(pki.arg("--out").arg(&file), "")?.ok()?;
        Ok(file.display().to_string())
    }

    fn url(&self) -> String {
        format!("https://[::1]:{}", self.ports[1])
    }

    fn etcd_url(&self) -> String {
        format!("https://[::1]:{}", self.ports[0])
    }

    fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    fn etcd(&self) -> Command {
        let (client, peer) = (self.etcd_url(), format!("http://[::1]:{}", self.ports[2]));
        let pki = |file: &str| self.path("pki/etcd").join(file);
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "etcd", "--logger", "zap", "--log-level", "warn", "--client-cert-auth"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("etcd={peer}")])
            // a lone member elects itself after one election timeout
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            .arg("--data-dir")
            .arg(self.path("etcd"))
            .arg("--trusted-ca-file")
            .arg(pki("ca.crt"))
            .arg("--cert-file")
            .arg(pki("server.crt"))
            .arg("--key-file")
            .arg(pki("server.key"));
        etcd
    }

    fn api(&self) -> Command {
        let mut api = self.program("ucloud-api");
        api.args(["serve", "--listen", &format!("[::1]:{}", self.ports[1]), "--etcd", &self.etcd_url()])
            .arg("--pki-dir")
            .arg(self.path("pki"));
        api
    }

    fn controllers(&self) -> Command {
        let mut controllers = self.program("ucloud-controllers");
        controllers
            .args(["--metrics", &format!("[::1]:{}", self.ports[3]), "--no-leader-election", "--kubeconfig"])
            .arg(self.path("controllers.kubeconfig"));
        controllers
    }

    /// Starts a program that has ended, on the same data and ports, and waits until it is ready.
    pub fn start_again(&mut self, program: Program) -> anyhow::Result<()> {
        let mut command = match program {
            Program::Etcd => self.etcd(),
            Program::Api => self.api(),
            Program::Controllers => self.controllers(),
        };
        let log = File::options().create(true).append(true).open(self.log(program))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        self.running[program as usize] = Some(child);
        eventually(&format!("{program:?} is ready"), START, || {
            if let Some(child) = &mut self.running[program as usize]
                && let Some(status) = child.try_wait()?
            {
                anyhow::bail!("{program:?} ended with {status}:\n{}", self.log_end(program));
            }
            let run = self.probe(program)?;
            Ok(if run.code == 0 { Ok(()) } else { Err(run.stderr) })
        })
        .with_context(|| self.log_end(program))
    }

    fn probe(&self, program: Program) -> anyhow::Result<Run> {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "5"]);
        match program {
            Program::Etcd => return self.etcdctl(&["endpoint", "health"]),
            Program::Api => curl.arg("--cacert").arg(self.path("pki/ca.crt")).arg(self.url() + "/readyz"),
            Program::Controllers => curl.arg(format!("http://[::1]:{}/readyz", self.ports[3])),
        };
        Run::of(&mut curl, "")
    }

    /// Kills a program with SIGKILL and waits until it is dead.
    pub fn kill(&mut self, program: Program) -> anyhow::Result<()> {
        if let Some(mut child) = self.running[program as usize].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Asks a program to end (SIGTERM) and waits until it has.
    pub fn terminate(&mut self, program: Program) -> anyhow::Result<()> {
        self.signal(program, Signal::SIGTERM)?;
        if let Some(mut child) = self.running[program as usize].take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Sends a program a signal: SIGSTOP makes it stand still, SIGCONT go on.
    pub fn signal(&self, program: Program, signal: Signal) -> anyhow::Result<()> {
        let child = self.running[program as usize].as_ref().with_context(|| format!("{program:?} does not run"))?;
        Ok(kill(Pid::from_raw(child.id().try_into()?), signal)?)
    }

    /// `etcdctl` with these words.
    pub fn etcdctl(&self, words: &[&str]) -> anyhow::Result<Run> {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--command-timeout", "5s", "--endpoints", &self.etcd_url()]);
        for (option, file) in [("--cacert", "ca.crt"), ("--cert", "client.crt"), ("--key", "client.key")] {
            etcdctl.arg(option).arg(self.path("pki/etcd").join(file));
        }
        Run::of(etcdctl.args(words), "")
    }

    /// Compacts etcd's history up to now.
    pub fn compact(&self) -> anyhow::Result<()> {
        let status = self.etcdctl(&["endpoint", "status", "--write-out", "json"])?.ok()?.stdout;
        let status: Value = serde_json::from_str(&status)?;
        let revision = status.pointer("/0/Status/header/revision").context("etcd tells no revision")?.to_string();
        self.etcdctl(&["compaction", &revision])?.ok().map(|_| ())
    }

    /// The file that a program's output goes to.
    pub fn log(&self, program: Program) -> PathBuf {
        self.path(&format!("{program:?}.log").to_lowercase())
    }

    /// The last lines that a program wrote.
    pub fn log_end(&self, program: Program) -> String {
        let log = fs::read_to_string(self.log(program)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("the end of the log of {program:?}:\n{}", lines[lines.len().saturating_sub(20)..].join("\n"))
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // those that depend on others first
        for program in ALL.into_iter().rev() {
            // it may have ended by itself
            let _ = self.kill(program);
        }
    }
}

/// The folder of the programs: cargo puts them beside the folder of the tests.
fn built_programs() -> anyhow::Result<PathBuf> {
    let own = env::current_exe()?;
    let folder = own.ancestors().nth(2).map(Path::to_owned).context("the tests have no folder")?;
    for program in ["ucloud-api", "ucloud-controllers"] {
        let file = folder.join(program);
        ensure!(file.exists(), "{} is missing: ./hack/test clients builds it", file.display());
    }
    Ok(folder)
}

fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut listeners = Vec::new();
    for _ in 0..N {
        // all held at once, so that they differ
        listeners.push(TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
