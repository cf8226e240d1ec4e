//! What a test does in the test's guest.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use anyhow::Result;
use ucloud_agent_core::hypervisor::DomainSpec;

use super::{Lab, eventually};

/// A shell in the guest.
pub struct Shell {
    console: UnixStream,
    log: PathBuf,
}

impl Shell {
    /// Waits until the guest is up.
    pub async fn of(lab: &Lab, vm: &DomainSpec) -> Result<Self> {
        let path = |end: &str| lab.path("console").join(format!("{}.{end}", vm.uid));
        let log = path("log");
        eventually("the guest is up", async || {
            fs::read_to_string(&log).is_ok_and(|said| said.contains("guest: ready"))
        })
        .await?;
        let console = UnixStream::connect(path("sock"))?;
        // What the guest says is in the log; here it is only taken off QEMU's hands
        let mut reader = console.try_clone()?;
        std::thread::spawn(move || while reader.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
        Ok(Self { console, log })
    }

    /// Runs the command again and again until it succeeds.
    pub async fn succeeds(&mut self, command: &str) -> Result<()> {
        // the mark is put together by the guest's shell, so that its echo of the command does not hold it
        let mark = format!("done-{}", uuid::Uuid::new_v4());
        let (begin, end) = mark.split_at(9);
        writeln!(self.console, "until {command}; do sleep 0.2; done >/dev/null 2>&1; echo {begin}''{end}")?;
        eventually(&format!("the guest's {command}"), async || {
            fs::read_to_string(&self.log).is_ok_and(|said| said.contains(&mark))
        })
        .await
    }
}
