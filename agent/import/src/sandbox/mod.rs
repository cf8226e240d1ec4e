//! Where a program runs that opens what comes from strangers.
//!
//! ```text
//!   bwrap      namespaces of its own (mounts, network, processes, IPC, host name); /usr and the lent files alone are
//!              seen, all of it read-only but the file that is to be written; few system calls
//!     setpriv    a user of its own, who owns nothing but the lent files; no capabilities, and none to be had
//!       prlimit    memory, processor, size of files, processes
//!         the program
//! ```
//! What cannot be set up makes the program not run: there is no way around the sandbox. It needs root, which it gives
//! away. No user namespace is made, so that it works where these are forbidden.

mod lent;
mod syscalls;

use std::{
    io::{self, Write as _},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

pub use lent::{Access, Lent};

/// Where the program lies inside.
const PROGRAM: &str = "/program";
/// The system's programs and libraries, which everybody may read.
const SYSTEM: [&str; 4] = ["/usr", "/bin", "/lib", "/lib64"];
/// The programs that set it up, as they begin their messages.
const TOOLS: [&str; 3] = ["bwrap: ", "setpriv: ", "prlimit: "];

const ADDRESS_SPACE: u64 = 2 << 30;
const OPEN_FILES: u32 = 256;
/// Threads count. The user is one of its own, so that these are the program's alone.
const PROCESSES: u32 = 256;

/// What the program may use of the host, besides what every program may.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may use a processor.
    pub cpu: Duration,
    /// The largest file that it may make, in bytes.
    pub file_size: u64,
}

/// A user whom nobody else is: systemd and Debian leave these numbers to nobody.
pub fn stranger() -> u32 {
    0x7000_0000 | rand::random::<u32>() >> 4
}

/// The program in its sandbox, as `user`; its arguments are still to be added. It sees what is lent, under the names
/// that it is lent as.
pub fn command(program: &Path, user: u32, lent: &[Lent], limits: Limits) -> io::Result<Command> {
    program.metadata()?;
    let mut command = Command::new("bwrap");
    command
        .args(["--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"])
        .arg("--die-with-parent")
        // Who changes to another user needs these two; with the third, these three are given up for good.
        .args(["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP"]);
    for path in SYSTEM {
        command.args(["--ro-bind-try", path, path]);
    }
    command.args(["--dev", "/dev", "--ro-bind"]).arg(program).arg(PROGRAM);
    for file in lent {
        command.arg(file.access().bind()).arg(file.path()).arg(file.name());
    }
    command.args(["--remount-ro", "/", "--clearenv", "--setenv", "LC_ALL", "C", "--chdir", "/", "--seccomp", "0"]);
    command.args(["--", "setpriv", &format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]).args([
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
    ]);
    command
        .args([
            "--",
            "prlimit",
            &format!("--as={ADDRESS_SPACE}"),
            "--core=0",
            &format!("--cpu={}", limits.cpu.as_secs()),
        ])
        .args([format!("--fsize={}", limits.file_size), format!("--nofile={OPEN_FILES}")])
        .arg(format!("--nproc={PROCESSES}"))
        .args(["--", PROGRAM]);
    command.stdin(filter()?).stdout(Stdio::piped()).stderr(Stdio::piped());
    // No session of its own: nobody in there can leave this group, nor do anything with a terminal
    command.process_group(0).kill_on_drop(true);
    Ok(command)
}

/// A [`command`] that runs. Dropped, it ends with all that it has begun.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    /// What it says.
    pub fn output(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.0.stdout.take(), self.0.stderr.take())
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0.wait().await
    }

    /// Ends it now, if it has not ended.
    pub async fn kill(&mut self) -> io::Result<ExitStatus> {
        self.kill_group();
        self.0.wait().await
    }

    /// Ends all of it. Were bwrap alone killed while it makes its second process, that one would wait for it for ever.
    fn kill_group(&self) {
        // Its number is its own until it was waited for
        let group = self.0.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = group {
            // It fails when all have ended
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Why the sandbox could not be set up, if that is what was said.
pub fn complaint(said: &str) -> Option<&str> {
    TOOLS.iter().any(|tool| said.starts_with(tool)).then_some(said)
}

/// bwrap reads the rules for system calls from its standard input, and closes it.
fn filter() -> io::Result<Stdio> {
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(&syscalls::filter().map_err(io::Error::other)?)?;
    Ok(reader.into())
}

#[cfg(test)]
mod tests;
