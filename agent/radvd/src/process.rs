//! radvd's process: found again, told something, and waited for.
//!
//! A process is held by a pidfd that was opened before its identity was checked, so no signal can reach another
//! one that got its number meanwhile.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::PathBuf,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{Interest, unix::AsyncFd};

/// How a radvd of ours is told from others.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub command_line: Vec<OsString>,
    pub configuration: PathBuf,
}

/// A running process, or one that was.
#[derive(Debug)]
pub(crate) struct Process {
    pub pid: Pid,
    handle: AsyncFd<OwnedFd>,
}

impl Process {
    /// The process with this number, whatever it is.
    pub fn open(pid: Pid) -> io::Result<Self> {
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: the descriptor is owned, and nothing takes it out of the AsyncFd or replaces it
        let handle = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
        Ok(Self { pid, handle })
    }

    /// Sends it a signal. One that has exited is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(self.handle.get_ref(), signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Returns when it has exited.
    pub async fn exited(&self) {
        // a pidfd is readable from then on. An error can only mean that the runtime is shutting down
        let _ = self.handle.readable().await.map(|mut guard| guard.retain_ready());
    }
}

impl Identity {
    /// All processes of this network namespace that were started with our configuration, in any way, that one excluded
    /// whose number is given, and its child (radvd keeps one with privileges).
    pub fn others(&self, main: Option<Pid>) -> io::Result<Vec<Pid>> {
        let mut pids = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
            let uses_ours = command_line(pid).contains(&OsString::from(&self.configuration));
            if uses_ours && is_in_our_network(pid) && main != Some(pid) && (main.is_none() || parent(pid) != main) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// Whether this process is our radvd, started as we would start it.
    pub fn matches(&self, pid: Pid) -> bool {
        command_line(pid) == self.command_line && is_in_our_network(pid)
    }
}

/// Whether the process handles SIGHUP already. radvd does when it has read its configuration, written its pid file and
/// become its user; until then, the signal would end it.
pub(crate) fn catches_hangup(pid: Pid) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}

/// Empty for a process that has exited.
fn command_line(pid: Pid) -> Vec<OsString> {
    let text = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.strip_suffix(b"\0")
        .map(|text| text.split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec())).collect())
        .unwrap_or_default()
}

/// Hosts that share a kernel (a lab) have the same paths, and each its own network namespace.
fn is_in_our_network(pid: Pid) -> bool {
    let ours = std::fs::read_link("/proc/thread-self/ns/net");
    let theirs = std::fs::read_link(format!("/proc/{pid}/ns/net"));
    matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
}

fn parent(pid: Pid) -> Option<Pid> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name, in parentheses, may hold anything
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok().and_then(Pid::from_raw)
}
