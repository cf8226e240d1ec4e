//! `ucloudctl console`: a VM's serial console, on the host that runs it.

use std::{
    io::{IsTerminal as _, Read as _, Seek as _, SeekFrom},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use nix::sys::termios::{self, SetArg, Termios};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    signal::unix::{SignalKind, signal},
};

use crate::{
    cli::Console,
    output,
    server::{Form, Server},
};

/// Ctrl-], which ends telnet, virsh console and this.
const ESCAPE: u8 = 0x1d;
/// As much of a log as is read for its last lines.
const LOG_TAIL: u64 = 256 * 1024;

/// Connects the terminal with the console, or prints the end of its log.
pub async fn run(server: &Server, options: &Console) -> anyhow::Result<()> {
    let kind = server.catalog().await?.one("vms.ucloud.ungleich.ch")?;
    let name = options.vm.strip_prefix("vm/").unwrap_or(&options.vm);
    let vm = server.get(&kind, &server.namespace, name, Form::Object).await?;
    let uid = vm["metadata"]["uid"].as_str().context("the VM has no UID")?;
    let Some(host) = vm["status"]["binding"]["host"].as_str() else {
        bail!("vm {name:?} has no host yet; `ucloudctl describe vm {name}` tells why");
    };
    let file = |suffix: &str| -> PathBuf { options.data.join("agent/console").join(format!("{uid}.{suffix}")) };
    let unreachable = |path: &Path| {
        format!(
            "cannot open the console of vm {name:?} at {}; it runs on host {host}: run this there, as root (--data says where that host keeps its state)",
            path.display()
        )
    };
    if options.log {
        let path = file("log");
        let text = tail(&path, options.lines).with_context(|| unreachable(&path))?;
        output::text(&text)?;
        return Ok(());
    }
    if vm["status"]["phase"] != "Running" {
        bail!("vm {name:?} does not run (phase {}); start it with `ucloudctl start {name}`", vm["status"]["phase"]);
    }
    let path = file("sock");
    let stream = UnixStream::connect(&path).await.with_context(|| unreachable(&path))?;
    interact(stream).await
}

/// The last lines of a log, without what would steer the terminal.
fn tail(path: &Path, lines: usize) -> anyhow::Result<String> {
    let mut log = std::fs::File::open(path)?;
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).replace('\r', "");
    let printable = anstream::adapter::strip_str(&text).to_string();
    let all: Vec<_> = printable.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].iter().flat_map(|line| [line, "\n"]).collect())
}

async fn interact(stream: UnixStream) -> anyhow::Result<()> {
    let raw = RawTerminal::enter()?;
    if raw.is_some() {
        eprint!("Connected. Ctrl-] leaves; press Enter for a prompt.\r\n");
    }
    let (mut from_guest, mut to_guest) = stream.into_split();
    let (mut input, mut output) = (tokio::io::stdin(), tokio::io::stdout());
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let (mut typed, mut shown) = ([0; 1024], [0; 8192]);
    loop {
        tokio::select! {
            count = input.read(&mut typed) => {
                let typed = &typed[..count?];
                let leave = typed.is_empty() || raw.is_some() && typed.contains(&ESCAPE);
                let end = typed.iter().position(|&b| raw.is_some() && b == ESCAPE).unwrap_or(typed.len());
                to_guest.write_all(&typed[..end]).await?;
                if leave {
                    break;
                }
            }
            count = from_guest.read(&mut shown) => {
                let count = count?;
                if count == 0 {
                    eprint!("\r\nThe console was closed: the VM has stopped.\r\n");
                    break;
                }
                output.write_all(&shown[..count]).await?;
                output.flush().await?;
            }
            _ = terminated.recv() => break,
            _ = hung_up.recv() => break,
        }
    }
    Ok(())
}

/// The terminal hands on every key while this lives, and is as before afterwards.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // nothing better can be done where this fails
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSANOW, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_lines_and_harmless() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(&path, "one\r\ntwo\r\nthree \u{1b}[2Jx\r\n").unwrap();
        assert_eq!(tail(&path, 2).unwrap(), "two\nthree x\n");
        assert_eq!(tail(&path, 9).unwrap().lines().count(), 3);
    }
}
