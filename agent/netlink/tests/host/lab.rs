//! Hosts and guests for tests: network namespaces that vanish with the value that made them.

use std::{
    os::unix::fs::PermissionsExt as _,
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
use ucloud_agent_core::{
    Net as _,
    net::Gateway,
    net::{NetworkRequest, Tap},
};
use ucloud_agent_netlink::{Config, Netlink};
use ucloud_types::{MacAddr, Vni};

const PATIENCE: Duration = Duration::from_secs(20);

/// A network namespace.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new(role: &str) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ucnl-{}-{role}{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        run(&["ip", "netns", "add", &name]).context("tests of real devices need root")?;
        let namespace = Self { name };
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    /// What a command prints that is run in the namespace. Its words are separated by blanks.
    pub fn run(&self, command: &str) -> Result<String> {
        run(&["ip", "netns", "exec", &self.name].into_iter().chain(command.split(' ')).collect::<Vec<_>>())
    }

    pub fn sysctl(&self, key: &str, value: u32) -> Result<()> {
        self.run(&format!("sysctl -q -w {key}={value}")).map(drop)
    }

    /// A process that runs in the namespace until it is dropped.
    pub fn start(&self, command: &str) -> Result<tokio::process::Child> {
        let mut process = tokio::process::Command::new("ip");
        process.args(["netns", "exec", &self.name]).args(command.split(' ')).kill_on_drop(true);
        Ok(process.spawn()?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = run(&["ip", "netns", "del", &self.name]);
    }
}

fn run(words: &[&str]) -> Result<String> {
    let Output { status, stdout, stderr } = Command::new(words[0]).args(&words[1..]).output()?;
    if !status.success() {
        bail!("{}: {status}: {}", words.join(" "), String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8(stdout)?)
}

/// A host with an underlay interface `up0`, and the adapter at work in it.
pub struct Host {
    // first, so that the adapter is gone before its namespace
    agent: Agent,
    pub namespace: Namespace,
}

/// Two routers, another host, and what is upstream.
pub struct Routers {
    pub one: Host,
    pub two: Host,
    pub other: Host,
    pub upstream: Namespace,
    _switch: Namespace,
}

/// The thread in the host's namespace on which the adapter runs.
struct Agent {
    net: Arc<Netlink>,
    runtime: runtime::Handle,
    _stop: oneshot::Sender<()>,
}

impl Host {
    /// A host whose underlay leads nowhere.
    pub async fn alone() -> Result<Self> {
        let namespace = Namespace::new("host")?;
        namespace.run("ip link add up0 type veth peer name switch0")?;
        namespace.run("ip link set switch0 up")?;
        Self::over(namespace, 1).await
    }

    /// Two hosts on one underlay.
    pub async fn pair() -> Result<(Self, Self)> {
        let (one, two) = (Namespace::new("host")?, Namespace::new("host")?);
        one.run(&format!("ip link add up0 type veth peer name up0 netns {}", two.name))?;
        Ok((Self::over(one, 1).await?, Self::over(two, 2).await?))
    }

    /// Two routers and another host on one underlay; the routers have an uplink `up1` to a third network besides, where
    /// the upstream router is.
    pub async fn routers() -> Result<Routers> {
        let switch = Namespace::new("switch")?;
        switch.run("ip link add underlay type bridge mcast_snooping 0")?;
        switch.run("ip link set underlay addrgenmode none up")?;
        let upstream = Namespace::new("upstream")?;
        upstream.run("ip link add lan0 type bridge mcast_snooping 0")?;
        upstream.run("ip link set lan0 up")?;
        upstream.run("ip addr add fd98::ff/64 dev lan0 nodad")?;
        upstream.run("sysctl -q -w net.ipv6.conf.all.forwarding=1")?;
        let mut hosts = Vec::new();
        for number in 1..=3 {
            let namespace = Namespace::new("host")?;
            namespace.run(&format!("ip link add up0 type veth peer name port{number} netns {}", switch.name))?;
            switch.run(&format!("ip link set port{number} master underlay addrgenmode none up"))?;
            if number < 3 {
                namespace.run(&format!("ip link add up1 type veth peer name down{number} netns {}", upstream.name))?;
                upstream.run(&format!("ip link set down{number} master lan0 addrgenmode none up"))?;
                namespace.run("ip link set up1 up")?;
                namespace.run(&format!("ip addr add fd98::{number}/64 dev up1 nodad"))?;
            }
            hosts.push(Self::with_uplink(namespace, number, (number < 3).then(|| "up1".to_owned())).await?);
        }
        let [one, two, other] = <[Self; 3]>::try_from(hosts).ok().context("three hosts")?;
        Ok(Routers { one, two, other, upstream, _switch: switch })
    }

    async fn over(namespace: Namespace, number: u32) -> Result<Self> {
        Self::with_uplink(namespace, number, None).await
    }

    async fn with_uplink(namespace: Namespace, number: u32, uplink: Option<String>) -> Result<Self> {
        namespace.run("ip link set up0 up")?;
        namespace.run(&format!("ip addr add fd99::{number}/64 dev up0 nodad"))?;
        Ok(Self { agent: Agent::start(&namespace, uplink).await?, namespace })
    }

    /// A second agent in place of the first, which knows nothing of what was learnt.
    pub async fn restart_agent(&mut self) -> Result<()> {
        self.agent = Agent::start(&self.namespace, None).await?;
        Ok(())
    }

    pub fn net(&self) -> &Netlink {
        &self.agent.net
    }

    /// Does something with the adapter on the host's own thread, and so in its namespace.
    pub async fn on<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        action: impl FnOnce(Arc<Netlink>) -> F + Send + 'static,
    ) -> T {
        let net = self.agent.net.clone();
        self.agent.runtime.spawn(async move { action(net).await }).await.unwrap()
    }

    pub async fn ensure(&self, request: &NetworkRequest) -> Result<String> {
        let request = request.clone();
        let devices = self.on(async move |net| net.ensure_network(&request).await).await?;
        Ok(devices.bridge)
    }

    /// Puts a tap back on its bridge.
    pub async fn ensure_tap(&self, tap: &str, bridge: &str) -> Result<()> {
        let tap = Tap { name: tap.into(), bridge: bridge.into() };
        Ok(self.on(async move |net| net.ensure_taps(&[tap]).await).await?)
    }

    pub async fn remove(&self, uid: &str) -> Result<()> {
        let uid = uid.to_owned();
        Ok(self.on(async move |net| net.remove_network(&uid).await).await?)
    }

    pub async fn networks(&self) -> Result<Vec<ucloud_agent_core::net::NetworkDevices>> {
        Ok(self.on(async move |net| net.networks().await).await?)
    }

    /// A guest on this bridge, with an interface `eth0` that is up.
    pub fn guest(&self, bridge: &str, number: u8) -> Result<Guest> {
        let namespace = Namespace::new("guest")?;
        let mac = MacAddr::new([0x02, 0, 0, 0, 0, number]).unwrap();
        let tap = format!("tap{number}");
        namespace.run("sysctl -q -w net.ipv6.conf.all.use_tempaddr=0 net.ipv6.conf.default.use_tempaddr=0")?;
        self.namespace
            .run(&format!("ip link add {tap} type veth peer name eth0 address {mac} netns {}", namespace.name))?;
        self.namespace.run(&format!("ip link set {tap} master {bridge} addrgenmode none up"))?;
        namespace.run("ip link set eth0 up")?;
        Ok(Guest { namespace, mac })
    }
}

impl Agent {
    async fn start(namespace: &Namespace, uplink: Option<String>) -> Result<Self> {
        let file = std::fs::File::open(format!("/run/netns/{}", namespace.name))?;
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let net = Netlink::start(Config { underlay: "up0".into(), uplink }).await;
                let _ = ready.send((net, runtime::Handle::current()));
                let _ = stopped.await;
            });
        });
        let (net, runtime) = started.await?;
        Ok(Self { net: Arc::new(net?), runtime, _stop: stop })
    }
}

/// A guest: a namespace with one interface in a network.
pub struct Guest {
    pub namespace: Namespace,
    pub mac: MacAddr,
}

impl Guest {
    pub fn add(&self, address: &str) -> Result<()> {
        self.namespace.run(&format!("ip addr add {address}/64 dev eth0")).map(drop)
    }

    pub fn pings(&self, address: &str) -> bool {
        self.namespace.run(&format!("ping -6 -n -c 1 -W 1 {address}")).is_ok()
    }
}

/// Advertises a prefix on a bridge, until it is dropped.
pub struct Advertiser {
    _directory: tempfile::TempDir,
    _radvd: tokio::process::Child,
}

impl Advertiser {
    pub fn start(host: &Host, bridge: &str, prefix: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let configuration = directory.path().join("radvd.conf");
        std::fs::write(
            &configuration,
            format!(
                "interface {bridge} {{ AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix {prefix} {{ }}; }};"
            ),
        )?;
        std::fs::set_permissions(&configuration, std::fs::Permissions::from_mode(0o600))?;
        let directory_path = directory.path().display();
        let radvd = host
            .namespace
            .start(&format!("radvd -n -m none -C {directory_path}/radvd.conf -p {directory_path}/pid"))?;
        Ok(Self { _directory: directory, _radvd: radvd })
    }
}

pub fn request(uid: &str, vni: u32) -> NetworkRequest {
    NetworkRequest { uid: uid.into(), vni: Vni::new(vni).unwrap(), mtu: None, gateway: None, advertised: false }
}

pub fn routed(uid: &str, vni: u32, prefix: &str) -> NetworkRequest {
    let prefix: ucloud_types::Ipv6Prefix = prefix.parse().unwrap();
    NetworkRequest { gateway: Some(Gateway { address: prefix.gateway(), prefix }), ..request(uid, vni) }
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
