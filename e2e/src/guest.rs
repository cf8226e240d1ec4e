//! A shell in a guest, over its serial console.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    eventually,
    installation::{BOOT, SOON},
};

/// How long a shell that is there takes to answer `echo`.
const ANSWER: Duration = Duration::from_secs(2);

/// A shell in a guest.
pub struct Guest {
    socket: PathBuf,
    stream: UnixStream,
    /// How many commands it has been given. Each has marks of its own, so that none is taken for another's.
    commands: u32,
}

impl Guest {
    /// Waits until a shell answers on the console behind this socket.
    pub fn on(socket: &Path) -> anyhow::Result<Self> {
        let mut commands = 0;
        eventually(&format!("a shell on {}", socket.display()), BOOT, || {
            let stream = match UnixStream::connect(socket) {
                Ok(stream) => stream,
                Err(error) => return Ok(Err(format!("cannot connect: {error}"))),
            };
            let mut guest = Self { socket: socket.to_owned(), stream, commands };
            let answer = guest.command("true", ANSWER);
            commands = guest.commands;
            Ok(answer.map(|_| guest).map_err(|error| error.to_string()))
        })
    }

    /// What a command says that succeeds.
    pub fn run(&mut self, command: &str) -> anyhow::Result<String> {
        let (status, said) = self.command(command, BOOT)?;
        ensure!(status == 0, "{command:?} ended with {status} in the guest:\n{said}");
        Ok(said)
    }

    /// Whether a command succeeds.
    pub fn succeeds(&mut self, command: &str) -> anyhow::Result<bool> {
        Ok(self.command(command, BOOT)?.0 == 0)
    }

    /// Waits until a command succeeds and says something that `is` accepts.
    pub fn until(&mut self, command: &str, is: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        eventually(&format!("{command:?} in the guest"), SOON, || {
            let (status, said) = self.command(command, BOOT)?;
            Ok(if status == 0 && is(&said) { Ok(said) } else { Err(format!("{status}: {said}")) })
        })
    }

    /// Waits for the disk with this serial number, and gives the name of its device.
    pub fn disk(&mut self, serial: &str) -> anyhow::Result<String> {
        let find = format!("for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" != {serial} ] || echo ${{d##*/}}; done");
        let said = self.until(&find, |said| said.trim().starts_with("vd"))?;
        Ok(said.trim().to_owned())
    }

    /// The sum of the first 4 MiB of a device, past the guest's cache.
    pub fn sum(&mut self, device: &str) -> anyhow::Result<String> {
        let said = self.run(&format!("echo 3 >/proc/sys/vm/drop_caches; head -c 4194304 /dev/{device} | sha256sum"))?;
        Ok(said.trim().to_owned())
    }

    /// The exit status of a command, and what it said.
    fn command(&mut self, command: &str, patience: Duration) -> anyhow::Result<(i32, String)> {
        self.commands += 1;
        let number = self.commands;
        // The console shows what is typed, too: there the marks are in pieces.
        writeln!(self.stream, "echo be''gin-{number}; {{ {command}; }} 2>&1; echo e''nd-{number} $?.")?;
        let (begin, end) = (format!("begin-{number}\n"), format!("end-{number} "));
        let deadline = Instant::now() + patience;
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).replace('\r', "");
            let answer = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
            if let Some((said, rest)) = answer
                && let Some((status, _)) = rest.split_once('.')
            {
                // what the guest's own scripts say on the console at the same time is no answer
                let said = said.lines().filter(|line| !line.starts_with("guest: ")).collect::<Vec<_>>().join("\n");
                return Ok((status.parse().with_context(|| format!("{status:?} is no status"))?, said));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("{command:?} did not end within {patience:?} on {}:\n{text}", self.socket.display());
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut some = [0; 4096];
            match self.stream.read(&mut some) {
                Ok(0) => bail!("the console {} was closed while {command:?} ran", self.socket.display()),
                Ok(count) => bytes.extend_from_slice(&some[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
