//! An installation of ucloud, made by `hack/up`, and what users do with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;

use crate::{Run, eventually};

/// How long a VM may take to boot, with a processor that is emulated on a busy machine.
pub const BOOT: Duration = Duration::from_mins(2);
/// How long anything else may take.
pub const SOON: Duration = Duration::from_mins(1);

/// An installation of ucloud.
pub struct Installation {
    /// Where it keeps its state.
    pub data: PathBuf,
    root: PathBuf,
}

impl Installation {
    /// The installation with its state in `data`; nothing is done yet.
    pub fn at(data: PathBuf) -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
        Ok(Self { data, root })
    }

    /// The root of the source tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command that runs in the root of the source tree and finds this installation.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .current_dir(&self.root)
            .env("KUBECONFIG", self.data.join("admin.kubeconfig"))
            .env("UCLOUD_DATA", &self.data)
            .env("PATH", format!("{}:{path}", self.root.join("target/debug").display()));
        // What cargo has set for this test is nobody's who uses ucloud; and a build that sees it is another build to some
        // dependencies.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                command.env_remove(&name);
            }
        }
        command
    }

    /// `hack/up`, to its end.
    pub fn up(&self) -> anyhow::Result<Run> {
        Run::of(self.command("hack/up").arg("--data").arg(&self.data), "")?.ok()
    }

    /// `hack/down`, to its end.
    pub fn down(&self, options: &[&str]) -> anyhow::Result<Run> {
        Run::of(self.command("hack/down").arg("--data").arg(&self.data).args(options), "")?.ok()
    }

    /// `ucloudctl` with these words.
    pub fn ucloudctl(&self, words: &[&str]) -> anyhow::Result<Run> {
        Run::of(self.command("ucloudctl").args(words), "")
    }

    /// `kubectl` with these words.
    pub fn kubectl(&self, words: &[&str]) -> anyhow::Result<Run> {
        Run::of(self.command("kubectl").args(words), "")
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<Run> {
        Run::of(self.command("ucloudctl").args(["apply", "-f", "-"]), manifest)
    }

    /// An object, as it is.
    pub fn get(&self, what: &str) -> anyhow::Result<Value> {
        let run = self.ucloudctl(&["get", what, "-o", "json"])?.ok()?;
        serde_json::from_str(&run.stdout).with_context(|| format!("{} answered {}", run.line, run.stdout))
    }

    /// A word of an object, by its JSON pointer.
    pub fn word(&self, what: &str, pointer: &str) -> anyhow::Result<String> {
        let object = self.get(what)?;
        let word = object.pointer(pointer).and_then(Value::as_str);
        word.map(str::to_owned).with_context(|| format!("{what} has no {pointer}: {object}"))
    }

    /// Waits until a condition of an object has this status, reason and a message with all of these words.
    pub fn condition(&self, what: &str, type_: &str, status: &str, reason: &str, said: &[&str]) -> anyhow::Result<()> {
        eventually(&format!("{what}: {type_}={status} ({reason})"), SOON, || {
            let object = self.get(what)?;
            let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
            let found = conditions.into_iter().flatten().find(|c| c["type"] == type_);
            let holds = found.is_some_and(|c| {
                let message = c["message"].as_str().unwrap_or_default();
                c["status"] == status && c["reason"] == reason && said.iter().all(|word| message.contains(word))
            });
            Ok(if holds { Ok(()) } else { Err(format!("{found:?}")) })
        })
    }

    /// Waits until an object is Ready.
    pub fn ready(&self, what: &str) -> anyhow::Result<()> {
        self.ucloudctl(&["wait", "--for=condition=Ready", what, "--timeout", "120s"])?.ok().map(|_| ())
    }

    /// Waits until a VM has this phase.
    pub fn phase(&self, vm: &str, phase: &str) -> anyhow::Result<()> {
        let goal = format!("--for=jsonpath={{.status.phase}}={phase}");
        self.ucloudctl(&["wait", &goal, &format!("vm/{vm}"), "--timeout", "120s"])?.ok().map(|_| ())
    }

    /// Deletes objects and waits until they are gone.
    pub fn delete(&self, what: &[&str]) -> anyhow::Result<()> {
        let words = [&["delete", "--ignore-not-found", "--timeout", "120s"], what].concat();
        self.ucloudctl(&words)?.ok().map(|_| ())
    }

    /// The UID of an object.
    pub fn uid(&self, what: &str) -> anyhow::Result<String> {
        self.word(what, "/metadata/uid")
    }

    /// The process of a program of this installation.
    pub fn pid(&self, program: &str) -> anyhow::Result<Pid> {
        let file = self.data.join("run").join(format!("{program}.pid"));
        let text = fs::read_to_string(&file).with_context(|| format!("{program} has no pid file"))?;
        let pid = text.lines().next().and_then(|line| line.parse().ok());
        pid.map(Pid::from_raw).with_context(|| format!("{} holds {text:?}", file.display()))
    }

    /// Kills a program of this installation, and waits until it is dead.
    pub fn kill(&self, program: &str, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid(program)?;
        nix::sys::signal::kill(pid, signal).with_context(|| format!("cannot send {signal} to {program}"))?;
        eventually(&format!("{program} is dead"), SOON, || {
            Ok(if runs(pid) { Err(format!("process {pid} runs")) } else { Ok(()) })
        })
    }

    /// The process of a VM's QEMU.
    pub fn qemu(&self, vm: &str) -> anyhow::Result<Pid> {
        let name = format!("guest=ucloud-{}", self.uid(&format!("vm/{vm}"))?);
        let found = crate::machine::processes()?.into_iter().find(|p| p.arguments.iter().any(|a| a.starts_with(&name)));
        found.map(|p| Pid::from_raw(p.pid)).with_context(|| format!("vm {vm} has no QEMU"))
    }

    /// Waits until a VM answers a ping on an address that it reports, and gives the address.
    pub fn answering_address(&self, vm: &str) -> anyhow::Result<String> {
        eventually(&format!("vm {vm} answers"), BOOT, || {
            let object = self.get(&format!("vm/{vm}"))?;
            let addresses = object.pointer("/status/interfaces/0/addresses").and_then(Value::as_array);
            for address in addresses.into_iter().flatten().filter_map(|address| address["address"].as_str()) {
                if ping(address)? {
                    return Ok(Ok(address.to_owned()));
                }
            }
            Ok(Err(format!("{}", object["status"])))
        })
    }

    /// Fails if anything of a VM with this UID is left on the machine.
    pub fn nothing_left_of(&self, vm_uid: &str) -> anyhow::Result<()> {
        let domains =
            Run::of(Command::new("virsh").args(["-q", "-c", "qemu:///system", "list", "--all", "--name"]), "")?.ok()?;
        ensure!(!domains.stdout.contains(vm_uid), "a domain is left: {}", domains.stdout);
        let files = crate::machine::files_below(&self.data)?;
        let left: Vec<_> = files.iter().filter(|path| path.to_string_lossy().contains(vm_uid)).collect();
        ensure!(left.is_empty(), "files are left: {left:?}");
        Ok(())
    }
}

/// Whether the address answers a ping.
pub fn ping(address: &str) -> anyhow::Result<bool> {
    Ok(Run::of(Command::new("ping").args(["-6", "-c", "1", "-W", "2", address]), "")?.code == 0)
}

/// Whether the process runs; a dead one that nobody has waited for does not.
pub fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
