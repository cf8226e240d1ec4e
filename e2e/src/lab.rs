//! A lab: several hosts on this machine, made by `hack/lab`, with a control plane of their own.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::{Guest, Installation, Run};

/// A lab.
pub struct Lab {
    /// What users see of it.
    pub ucloud: Installation,
    labs: PathBuf,
    name: String,
}

impl Lab {
    /// The lab with this name, with its state in a folder of `labs`; nothing is done yet.
    pub fn at(labs: &Path, name: &str) -> anyhow::Result<Self> {
        let ucloud = Installation::at(labs.join(name).join("control"))?;
        Ok(Self { ucloud, labs: labs.to_owned(), name: name.to_owned() })
    }

    /// Its folder.
    pub fn folder(&self) -> PathBuf {
        self.labs.join(&self.name)
    }

    /// `hack/lab` with these words, to its end.
    pub fn run(&self, words: &[&str]) -> anyhow::Result<Run> {
        let mut command = self.ucloud.command("hack/lab");
        Run::of(command.arg("--labs").arg(&self.labs).args(["--name", &self.name]).args(words), "")
    }

    /// `hack/lab up` with so many hosts and routers.
    pub fn up(&self, hosts: u8, routers: u8) -> anyhow::Result<Run> {
        self.run(&["up", "--hosts", &hosts.to_string(), "--routers", &routers.to_string()])?.ok()
    }

    /// A command on one of its machines.
    pub fn exec(&self, machine: &str, words: &[&str]) -> anyhow::Result<Run> {
        self.run(&[&["exec", machine], words].concat())
    }

    /// The host that a VM is bound to.
    pub fn host_of(&self, vm: &VmName<'_>) -> anyhow::Result<String> {
        Ok(vm.get(&self.ucloud)?["status"]["binding"]["host"].as_str().context("the VM has no host")?.to_owned())
    }

    /// A shell in a VM, once there is one.
    pub fn guest(&self, vm: &VmName<'_>) -> anyhow::Result<Guest> {
        let object = vm.get(&self.ucloud)?;
        let uid = object["metadata"]["uid"].as_str().context("the VM has no UID")?;
        let host = object["status"]["binding"]["host"].as_str().context("the VM has no host")?;
        Guest::on(&self.folder().join(host).join("agent/console").join(format!("{uid}.sock")))
    }
}

/// The name of a VM.
#[derive(Clone, Copy, Debug)]
pub struct VmName<'a> {
    /// Its project.
    pub namespace: &'a str,
    /// Its name in the project.
    pub name: &'a str,
}

impl VmName<'_> {
    /// The VM, as it is.
    pub fn get(&self, ucloud: &Installation) -> anyhow::Result<serde_json::Value> {
        let run = ucloud.ucloudctl(&["get", "vm", self.name, "-n", self.namespace, "-o", "json"])?.ok()?;
        serde_json::from_str(&run.stdout).with_context(|| format!("{} answered {}", run.line, run.stdout))
    }

    /// Waits until it is Ready.
    pub fn ready(&self, ucloud: &Installation) -> anyhow::Result<()> {
        let what = format!("vm/{}", self.name);
        let words = ["wait", "--for=condition=Ready", &what, "-n", self.namespace, "--timeout", "120s"];
        ucloud.ucloudctl(&words)?.ok().map(|_| ())
    }
}
