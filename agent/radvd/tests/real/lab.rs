//! A host with a bridge `br0` whose gateway is fe80::1, and a guest with `eth0` in it: two network namespaces.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{runtime, sync::oneshot};
use ucloud_agent_core::{HostError, RouterAdvertiser as _, net::Advertisement};
use ucloud_agent_radvd::{Config, Radvd};

pub const PREFIX: &str = "fd00:1::/64";

const PATIENCE: Duration = Duration::from_secs(20);

pub struct Lab {
    agent: Agent,
    pub config: Config,
    host: Namespace,
    guest: Namespace,
    directory: tempfile::TempDir,
}

/// The thread in the host's namespace on which the adapter runs.
struct Agent {
    radvd: Arc<Radvd>,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Lab {
    pub async fn new() -> Result<Self> {
        let (host, guest) = (Namespace::new("host")?, Namespace::new("guest")?);
        for command in [
            "ip link add br0 type bridge mcast_snooping 0",
            "ip link set br0 addrgenmode none",
            "ip link set br0 up",
            "sysctl -q -w net.ipv6.conf.br0.forwarding=1",
            "ip addr add fe80::1/64 dev br0 nodad",
            &format!("ip link add tap0 type veth peer name eth0 netns {}", guest.0),
            "ip link set tap0 master br0 addrgenmode none up",
        ] {
            host.run(command)?;
        }
        guest.run("ip link set eth0 up")?;
        let directory = tempfile::tempdir()?;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        let config = Config::in_directory(directory.path());
        anyhow::ensure!(config.user.is_some(), "the user radvd is missing: install radvd's package");
        Ok(Self { agent: Agent::start(&host, config.clone()).await?, config, host, guest, directory })
    }

    /// Another agent in place of the first.
    pub async fn restart_agent(&mut self) -> Result<()> {
        self.agent.end();
        self.agent = Agent::start(&self.host, self.config.clone()).await?;
        Ok(())
    }

    pub async fn advertise(&self, advertisements: &[Advertisement]) -> Result<(), HostError> {
        self.hand_over(advertisements, &[]).await
    }

    pub async fn hand_over(&self, advertisements: &[Advertisement], handed_over: &[&str]) -> Result<(), HostError> {
        let (radvd, advertisements) = (self.agent.radvd.clone(), advertisements.to_vec());
        let handed_over: Vec<String> = handed_over.iter().map(ToString::to_string).collect();
        let done = self.agent.runtime.spawn(async move { radvd.advertise(&advertisements, &handed_over).await });
        done.await.unwrap()
    }

    pub fn host(&self, command: &str) -> Result<String> {
        self.host.run(command)
    }

    pub fn guest(&self, command: &str) -> Result<String> {
        self.guest.run(command)
    }

    /// A process that runs on the host until it is dropped.
    pub fn start(&self, command: &str) -> Result<tokio::process::Child> {
        let mut process = tokio::process::Command::new("ip");
        process.args(["netns", "exec", &self.host.0]).args(command.split(' ')).kill_on_drop(true);
        Ok(process.spawn()?)
    }

    /// A process that runs in the guest until it is dropped, and has begun to print.
    pub fn start_in_guest(&self, command: &str) -> Result<tokio::process::Child> {
        let mut process = tokio::process::Command::new("ip");
        process.args(["netns", "exec", &self.guest.0]).args(command.split(' ')).kill_on_drop(true);
        Ok(process.stdout(std::process::Stdio::piped()).spawn()?)
    }

    pub fn guest_has(&self, prefix: &str) -> bool {
        self.guest("ip -o -6 addr show dev eth0 scope global").is_ok_and(|addresses| addresses.contains(prefix))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The processes that use this host's configuration, one a line.
    pub fn processes(&self) -> Result<String> {
        let all = run(&["ps", "-e", "-o", "pid=,ppid=,user=,args="])?;
        let ours = self.file("radvd.conf").display().to_string();
        Ok(all.lines().filter(|line| line.contains(&ours)).collect::<Vec<_>>().join("\n"))
    }

    /// The number of the one radvd that runs.
    pub fn pid(&self) -> Result<String> {
        let processes = self.processes()?;
        let parsed: Vec<Vec<&str>> = processes.lines().map(|line| line.split_whitespace().collect()).collect();
        let mut main = parsed.iter().filter(|fields| !parsed.iter().any(|other| other[0] == fields[1]));
        match (main.next(), main.next()) {
            (Some(fields), None) if fields[2] == "radvd" => Ok(fields[0].to_owned()),
            _ => bail!("not one radvd, run by its user, but: {processes}"),
        }
    }

    pub fn count_in_log(&self, text: &str) -> usize {
        std::fs::read_to_string(self.file("radvd.log")).unwrap_or_default().matches(text).count()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.agent.end();
        for line in self.processes().unwrap_or_default().lines() {
            let pid = line.split_whitespace().next().unwrap_or_default();
            let _ = run(&["kill", "-KILL", pid]);
        }
    }
}

impl Agent {
    async fn start(host: &Namespace, config: Config) -> Result<Self> {
        let file = std::fs::File::open(format!("/run/netns/{}", host.0))?;
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let _ = ready.send((Arc::new(Radvd::new(config)), runtime::Handle::current()));
                let _ = stopped.await;
            });
        });
        let (radvd, runtime) = started.await?;
        Ok(Self { radvd, runtime, stop: Some(stop), thread: Some(thread) })
    }

    /// As abruptly as a thread can end: whatever its tasks were doing, they do no more.
    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Namespace(String);

impl Namespace {
    fn new(role: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ucra-{}-{role}{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&["ip", "netns", "add", &name]).context("tests with radvd need root")?;
        let namespace = Self(name);
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    fn run(&self, command: &str) -> Result<String> {
        run(&["ip", "netns", "exec", &self.0].into_iter().chain(command.split(' ')).collect::<Vec<_>>())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(&["ip", "netns", "del", &self.0]);
    }
}

fn run(words: &[&str]) -> Result<String> {
    let Output { status, stdout, stderr } = Command::new(words[0]).args(&words[1..]).output()?;
    if !status.success() {
        bail!("{}: {status}: {}", words.join(" "), String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8(stdout)?)
}

pub fn advertisement(prefix: &str) -> Advertisement {
    Advertisement {
        bridge: "br0".into(),
        prefix: prefix.parse().unwrap(),
        mtu: 1430,
        dns_servers: vec![],
        dns_search: vec![],
    }
}

/// Waits until the condition holds.
pub async fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !condition() {
        if began.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} in vain until {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
