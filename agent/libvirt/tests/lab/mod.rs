//! A libvirtd of the test's own: in namespaces of its own (mounts, processes, network), so that it meets neither
//! the host's libvirtd nor another test's, and so that nothing is left when the test ends, however it ends.

mod shell;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use ucloud_agent_core::hypervisor::{Domain, DomainDisk, DomainInterface, DomainSpec, DomainState};
use ucloud_agent_core::{HostError, Hypervisor as _, hypervisor::DiskSource};
use ucloud_agent_libvirt::{Libvirt, LibvirtConfig};
use ucloud_types::Quantity;

pub use shell::Shell;

/// The first process of the namespaces. It carries out the commands that it reads, and when there are no more
/// (the test has ended), it ends, and the kernel ends all others with it.
const INIT: &str = r#"
set -e
lab=$1
mkdir "$lab"/{run,lib,cache,log,etc,dev}
# A usable /dev/kvm spares libvirt a minute of looking at QEMU again.
mknod "$lab/dev/kvm" c 10 232 && chown root:kvm "$lab/dev/kvm" && chmod 660 "$lab/dev/kvm"
[ -e /dev/kvm ] && mount --bind "$lab/dev/kvm" /dev/kvm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/libvirt /var/{lib,cache,log}/libvirt /etc/libvirt
mount --bind "$lab/run" /run/libvirt
mount --bind "$lab/lib" /var/lib/libvirt
mount --bind "$lab/cache" /var/cache/libvirt
mount --bind "$lab/log" /var/log/libvirt
mount --bind "$lab/etc" /etc/libvirt
printf '%s\n' 'namespaces = []' 'cgroup_controllers = []' 'remember_owner = 0' >/etc/libvirt/qemu.conf
echo "host_uuid = \"$(cat /proc/sys/kernel/random/uuid)\"" >/etc/libvirt/libvirtd.conf
ip link set lo up
ip link add ucbr-test type bridge && ip link set ucbr-test up
virtlogd --daemon
libvirtd --daemon
set +e
echo ready
while IFS= read -r command; do
    eval "$command" </dev/null 2>&1
    printf '\nstatus %s\n' $?
done
"#;

/// A libvirtd of the test's own.
pub struct Lab {
    dir: TempDir,
    init: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Lab {
    pub fn start() -> Result<Self> {
        let dir = TempDir::with_prefix("ucloud-libvirt-")?;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
        let mut init = Command::new("unshare")
            .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", INIT, "lab"])
            .arg(dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        let stdin = init.stdin.take().context("no pipe")?;
        let mut stdout = BufReader::new(init.stdout.take().context("no pipe")?);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        ensure!(
            line == "ready\n",
            "no libvirtd for the test: it must be run as root, with libvirtd and virtlogd installed"
        );
        Ok(Self { dir, init, pipes: Mutex::new((stdin, stdout)) })
    }

    /// Runs a shell command among libvirtd's processes, devices and mounts.
    pub fn run(&self, command: &str) -> Result<String> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(pipes.0, "{command}")?;
        let mut output = String::new();
        loop {
            let start = output.len();
            ensure!(pipes.1.read_line(&mut output)? > 0, "the lab has ended");
            if let Some(status) = output[start..].strip_prefix("status ") {
                let status = status.trim().to_owned();
                output.truncate(start - 1);
                ensure!(status == "0", "{command}: status {status}\n{output}");
                return Ok(output);
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub async fn connect(&self) -> Result<Libvirt> {
        let config = LibvirtConfig {
            uri: format!("qemu:///system?socket={}", self.path("run/libvirt-sock").display()),
            consoles: self.path("console"),
            ..LibvirtConfig::default()
        };
        let no_keys =
            |user: &str, _: &Path| Err(HostError::terminal("NoKey", format!("client.{user} has no key here")));
        Ok(Libvirt::connect(config, Arc::new(no_keys)).await?)
    }

    /// What is left in the folder of consoles.
    pub fn consoles(&self) -> Result<Vec<String>> {
        std::fs::read_dir(self.path("console"))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into())).collect()
    }

    /// The process id of a VM's QEMU, among the lab's processes.
    pub fn qemu(&self, uid: &str) -> Result<String> {
        Ok(self.run(&format!("cat /run/libvirt/qemu/ucloud-{uid}.pid"))?.trim().to_owned())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // unshare --kill-child takes the first process along, and that one all others.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// A VM with 64 MiB of memory and nothing else.
pub fn small() -> DomainSpec {
    let uid = uuid::Uuid::new_v4().to_string();
    DomainSpec {
        uid,
        namespace: "demo".into(),
        name: "small".into(),
        epoch: 1,
        power_request: 0,
        cpus: 1,
        memory: Quantity::from_bytes(64 << 20),
        disks: Vec::new(),
        interfaces: Vec::new(),
        standstill: false,
    }
}

pub fn disk(path: &Path, backing: &Path) -> DomainDisk {
    let source = DiskSource::Overlay { path: path.into(), backing: Some(backing.into()) };
    DomainDisk { name: "root".into(), volume: None, limits: None, source }
}

/// An empty disk of this size, with all of its room taken: to copy it takes a while.
pub fn volume(lab: &Lab, name: &str, size: &str) -> Result<DomainDisk> {
    let path = lab.path(&format!("{name}.qcow2"));
    let mut qemu_img = Command::new("qemu-img");
    qemu_img.args(["create", "-q", "-f", "qcow2", "-o", "preallocation=falloc"]).arg(&path).arg(size);
    ensure!(qemu_img.status()?.success(), "{qemu_img:?} failed");
    let source = DiskSource::Overlay { path, backing: None };
    Ok(DomainDisk { name: name.into(), volume: Some(format!("uid-of-{name}")), limits: None, source })
}

pub fn interface() -> Result<DomainInterface> {
    Ok(DomainInterface {
        name: "eth0".into(),
        mac: "02:00:5e:10:00:01".parse()?,
        bridge: "ucbr-test".into(),
        tap: "uctp-test".into(),
        mtu: 1430,
    })
}

/// Waits until `done` says so.
pub async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) -> Result<()> {
    let waited = timeout(Duration::from_mins(1), async {
        while !done().await {
            sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.with_context(|| format!("waited for a minute until {what}"))
}

/// Waits for events until the VM's domain is in this state, also while libvirt is away.
pub async fn becomes(libvirt: &Libvirt, uid: &str, state: DomainState) -> Result<()> {
    let mut changes = libvirt.changes();
    let waited = timeout(Duration::from_mins(1), async {
        loop {
            match libvirt.domain(uid).await {
                Ok(domain) if domain.as_ref().is_some_and(|domain| domain.state == state) => return anyhow::Ok(()),
                Err(error) if error.reason != "HypervisorUnavailable" => return Err(error.into()),
                _ => changes.changed().await?,
            }
        }
    });
    waited.await.with_context(|| format!("waited for a minute until {uid} is {state:?}"))?
}

pub fn running(spec: &DomainSpec) -> Domain {
    Domain { spec: spec.clone(), state: DomainState::Running }
}
