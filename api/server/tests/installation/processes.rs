//! Programs that the tests run, and the waiting for what they do.

use std::{
    fs::File,
    net::{Ipv6Addr, TcpListener},
    process::{self, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

/// What is waited for comes within this time on a slow machine, too.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often is looked.
const INTERVAL: Duration = Duration::from_millis(100);

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Runs a program that must be installed.
pub fn installed(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("cannot run {}: {error}", command.get_program().display()))
}

/// Runs a program to its successful end and gives its output.
#[track_caller]
pub fn output(command: &mut Command) -> String {
    let out = installed(command);
    assert!(out.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// Waits until `holds`.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(INTERVAL);
    }
}

/// A program that runs, killed when this is dropped.
pub struct Child(process::Child);

impl Child {
    /// Starts a program; what it writes is appended to the file `log`.
    pub fn start(mut command: Command, log: &str) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Self(command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    /// Sends SIGTERM, and waits for the end.
    pub fn terminate(mut self) {
        output(Command::new("kill").arg(self.0.id().to_string()));
        until("it ends after SIGTERM", || self.0.try_wait().unwrap().is_some());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
