//! A program that runs for as long as it is needed.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::machine::Process;

/// So much of a log is shown when its program has ended.
const LOG_LINES: usize = 10;

/// A running program, killed and waited for when it is dropped.
pub struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, with what it says in a file.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name, log: log.to_owned() })
    }

    pub fn process(&self) -> Process {
        Process { pid: self.child.id() }
    }

    /// Fails with what it said last if it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait().with_context(|| format!("cannot look after {}", self.name))? else {
            return Ok(());
        };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        anyhow::bail!(
            "{} has ended ({status}):\n{}",
            self.name,
            lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_ends_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no luck >&2; exit 3"]);
        let mut daemon = Daemon::start(&mut command, &folder.path().join("log")).unwrap();
        let error = loop {
            if let Err(error) = daemon.check() {
                break error.to_string();
            }
            std::thread::yield_now();
        };
        assert!(error.contains("sh has ended") && error.ends_with("no luck"), "{error}");
    }

    #[test]
    fn one_that_is_dropped_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(Command::new("sleep").arg("1000"), &folder.path().join("log")).unwrap();
        let process = daemon.process();
        assert!(process.cpu().is_ok());
        drop(daemon);
        assert!(process.cpu().is_err());
    }
}
