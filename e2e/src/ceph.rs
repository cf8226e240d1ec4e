//! A small cluster of Ceph on this machine, made by `hack/lib/small-ceph`.

use std::{
    io::{BufRead as _, BufReader},
    net::Ipv6Addr,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{Installation, Run};

const PORT: &str = "6789";

/// A cluster with the pool `vms`, which the user `ucloud` may use. It ends with this.
pub struct Ceph {
    folder: PathBuf,
    // It ends when its standard input does.
    cluster: Child,
}

impl Ceph {
    /// A new one, at this address of the machine, which keeps what it has in this folder.
    pub fn start(ucloud: &Installation, folder: PathBuf, address: Ipv6Addr) -> anyhow::Result<Self> {
        let mut command = Command::new(ucloud.root().join("hack/lib/small-ceph"));
        command.arg(&folder).args([PORT, &address.to_string()]);
        let mut cluster = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut said = String::new();
        BufReader::new(cluster.stdout.take().context("no output")?).read_line(&mut said)?;
        ensure!(said == "ready\n", "small-ceph did not get ready; see {}", folder.display());
        Ok(Self { folder, cluster })
    }

    /// The StoragePool of this name that is its pool, seen as this user.
    pub fn storage_pool(&self, name: &str, user: &str) -> String {
        let conf = self.folder.join("ceph.conf");
        format!(
            "apiVersion: ucloud.ungleich.ch/v1alpha1\nkind: StoragePool\nmetadata: {{name: {name}}}\n\
             spec: {{rbd: {{pool: vms, user: {user}, conf: {}}}}}\n",
            conf.display()
        )
    }

    /// Sends a signal to its monitor (`mon`) or its OSD (`osd`).
    pub fn signal(&self, daemon: &str, signal: Signal) -> anyhow::Result<()> {
        let pid = std::fs::read_to_string(self.folder.join(format!("{daemon}.pid")))?;
        Ok(kill(Pid::from_raw(pid.trim().parse()?), signal)?)
    }

    /// The names of the images in the pool, and of those in its trash.
    pub fn images(&self) -> anyhow::Result<Vec<String>> {
        let list = |words: &[&str]| {
            let mut command = Command::new("rbd");
            command.arg("--conf").arg(self.folder.join("ceph.conf")).args(["--pool", "vms"]).args(words);
            Run::of(&mut command, "")?.ok().map(|run| run.stdout)
        };
        Ok([list(&["ls"])?, list(&["trash", "ls"])?].concat().lines().map(str::to_owned).collect())
    }
}

impl Drop for Ceph {
    fn drop(&mut self) {
        drop(self.cluster.stdin.take());
        let _ = self.cluster.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
