//! A host in a network namespace, with a bridge, taps and the packet filter.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    net::Ipv6Addr,
    os::{fd::AsRawFd as _, unix::fs::OpenOptionsExt as _},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use tokio::{runtime, sync::oneshot};
use ucloud_agent_core::{
    Firewall as _,
    firewall::{DeviceName, GroupRules, Guard, NetworkAddresses, Port, Rules},
};
use ucloud_agent_nftables::Nftables;
use ucloud_types::MacAddr;

use crate::frames::{Path, ip};

const PATIENCE: Duration = Duration::from_secs(20);

nix::ioctl_write_int!(set_interface, b'T', 202); // TUNSETIFF

/// A host: its namespace, and the thread in it on which the adapter runs.
pub struct Host {
    name: String,
    firewall: Arc<Nftables>,
    runtime: runtime::Handle,
    _stop: oneshot::Sender<()>,
}

impl Host {
    /// A host with a bridge `ucbr-1` without address.
    pub async fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ucnft-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        command(&format!("ip netns add {name}")).context("tests of the real kernel need root")?;
        let file = File::open(format!("/run/netns/{name}"))?;
        let (ready, started) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let _ = ready.send((Arc::new(Nftables::start()), runtime::Handle::current()));
                let _ = stopped.await;
            });
        });
        let (firewall, runtime) = started.await?;
        let host = Self { name, firewall, runtime, _stop: stop };
        // without IPv6 of their own, devices say nothing by themselves. Bridges' frames are none of the host's own rules'
        host.run("sysctl -q -w net.ipv6.conf.default.disable_ipv6=1")?;
        host.pass_bridged_frames_to_inet(false)?;
        host.run("ip link set lo up")?;
        host.bridge("ucbr-1")?;
        Ok(host)
    }

    /// A bridge as ucloud makes them.
    pub fn bridge(&self, name: &str) -> Result<()> {
        self.run(&format!(
            "ip link add {name} address 02:00:00:00:00:ff type bridge stp_state 0 mcast_snooping 0 no_linklocal_learn 1"
        ))?;
        self.run(&format!("ip link set {name} addrgenmode none up")).map(drop)
    }

    /// Whether the host's own rules see what is bridged, as they do when br_netfilter is loaded.
    pub fn pass_bridged_frames_to_inet(&self, on: bool) -> Result<()> {
        let value = u8::from(on);
        let keys = ["ip6", "ip", "arp"].map(|family| format!("net.bridge.bridge-nf-call-{family}tables={value}"));
        self.run(&format!("sysctl -q -e -w {}", keys.join(" "))).map(drop)
    }

    /// What a command prints that is run in the namespace. Its words are separated by blanks.
    pub fn run(&self, line: &str) -> Result<String> {
        command(&format!("ip netns exec {} {line}", self.name))
    }

    /// Does something on the host's own thread, and so in its namespace.
    pub async fn on<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        action: impl FnOnce(Arc<Nftables>) -> F + Send + 'static,
    ) -> T {
        let firewall = self.firewall.clone();
        self.runtime.spawn(async move { action(firewall).await }).await.unwrap()
    }

    pub async fn enforce(&self, rules: &Rules) -> Result<()> {
        let rules = rules.clone();
        Ok(self.on(async move |firewall| firewall.enforce(&rules).await).await?)
    }

    pub fn firewall(&self) -> &Nftables {
        &self.firewall
    }

    /// A wire with this name at the host's end: what is sent there can be received.
    pub async fn wire(&self, name: &str) -> Result<Guest> {
        let tap = name.to_owned();
        let file = self.on(async move |_| open_tap(&tap)).await?;
        self.run(&format!("ip link set {name} addrgenmode none up"))?;
        Ok(Guest { tap: name.to_owned(), mac: MacAddr::new([0x02, 0, 0, 0, 0, 0xbb]).unwrap(), file })
    }

    /// A guest with the tap `uctp-NUMBER` in this bridge.
    pub async fn guest(&self, number: u8, bridge: &str) -> Result<Guest> {
        let tap = format!("uctp-{number}");
        let name = tap.clone();
        let file = self.on(async move |_| open_tap(&name)).await?;
        self.run(&format!("ip link set {tap} master {bridge} addrgenmode none up"))?;
        let mac = MacAddr::new([0x02, 0, 0, 0, 0, number]).unwrap();
        Ok(Guest { tap, mac, file })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = command(&format!("ip netns del {}", self.name));
    }
}

fn open_tap(name: &str) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: a structure of integers and arrays of them, for which zero is a value
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from)?;
    }
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI)?;
    // SAFETY: the descriptor is open, and the kernel only reads and writes the structure, during the call
    unsafe { set_interface(file.as_raw_fd(), std::ptr::from_mut(&mut request) as libc::c_ulong) }?;
    Ok(file)
}

fn command(line: &str) -> Result<String> {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output()?;
    if !output.status.success() {
        bail!("{line}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// A guest: the other end of a tap.
pub struct Guest {
    pub tap: String,
    pub mac: MacAddr,
    file: File,
}

impl Guest {
    /// The packets that it sends to this guest, from its own address in `fd00:1::/64`.
    pub fn path(&self, to: &Guest) -> Path {
        let own = |guest: &Guest| guest.mac.slaac("fd00:1::/64".parse().unwrap()).unwrap();
        Path { mac: self.mac, to: to.mac.octets(), source: own(self), destination: own(to) }
    }

    pub fn address(&self) -> Ipv6Addr {
        self.mac.slaac("fd00:1::/64".parse().unwrap()).unwrap()
    }

    pub fn link_local(&self) -> Ipv6Addr {
        self.mac.slaac("fe80::/64".parse().unwrap()).unwrap()
    }

    pub fn send(&self, frame: &[u8]) {
        (&self.file).write_all(frame).unwrap();
    }

    /// The next frame that came to it and of which this holds, and all before it.
    pub fn receive(&self, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let began = Instant::now();
        let mut received = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(length) => {
                    received.push(buffer[..length].to_vec());
                    if wanted(&buffer[..length]) {
                        return Ok(received);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    ensure!(began.elapsed() < PATIENCE, "it did not come; these did: {received:02x?}");
                    thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The frame passes to `to`.
    pub fn reaches(&self, to: &Guest, frame: &[u8]) -> Result<()> {
        self.send(frame);
        to.receive(|received| received == frame).with_context(|| format!("{frame:02x?} must pass")).map(drop)
    }

    /// The attack does not pass to `to`, and the legitimate frame behind it does. Frames do not overtake each other.
    pub fn cannot(&self, to: &Guest, what: &str, attack: &[u8], legitimate: &[u8]) -> Result<()> {
        self.send(attack);
        self.send(legitimate);
        let received = to.receive(|received| received == legitimate).with_context(|| format!("legitimate, {what}"))?;
        ensure!(!received.iter().any(|frame| frame == attack), "passed: {what}: {attack:02x?}");
        Ok(())
    }
}

/// The port of a guest.
pub fn port(guest: &Guest, guard: Guard) -> Port {
    Port { tap: DeviceName::new(&guest.tap).unwrap(), mac: guest.mac, guard, groups: None }
}

/// The guard of a network with addresses.
pub fn checked() -> Guard {
    Guard::Addresses { bridge: DeviceName::new("ucbr-1").unwrap(), recorded_only: false }
}

/// The network `fd00:1::/64`, in which these guests have the addresses that they form by themselves.
pub fn network(guests: &[&Guest]) -> NetworkAddresses {
    let mut owners: Vec<_> =
        guests.iter().flat_map(|guest| [(guest.address(), guest.mac), (guest.link_local(), guest.mac)]).collect();
    owners.sort_unstable();
    NetworkAddresses {
        bridge: DeviceName::new("ucbr-1").unwrap(),
        prefix: "fd00:1::/64".parse().unwrap(),
        gateway: Some(ip("fd00:1::1")),
        owners,
    }
}

/// A host with two guests in a network with addresses.
pub async fn pair() -> Result<(Host, Guest, Guest)> {
    let host = Host::new().await?;
    let (one, two) = (host.guest(1, "ucbr-1").await?, host.guest(2, "ucbr-1").await?);
    host.enforce(&guarded(&[&one, &two], &checked())).await?;
    Ok((host, one, two))
}

/// The rules for these guests in one network, all with the same guard.
pub fn guarded(guests: &[&Guest], guard: &Guard) -> Rules {
    let ports = guests.iter().map(|guest| port(guest, guard.clone())).collect();
    Rules { ports, networks: vec![network(guests)], ..Rules::default() }
}

/// The same with security groups for the second guest.
pub fn grouped(guests: &[&Guest], guard: &Guard, groups: GroupRules) -> Rules {
    let mut rules = guarded(guests, guard);
    rules.ports[1].groups = Some(groups);
    rules
}
