//! What a command answers, on standard output. A reader that has seen enough (`ucloudctl get vms | head`) is
//! no failure: the error that it causes ends the program silently.

use std::io::{ErrorKind, Write as _};

/// Prints a line.
pub fn line(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").map_err(Into::into)
}

/// Prints text that has its own line ends, and sees to it that it is seen now.
pub fn text(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Into::into)
}

/// Whether the error only says that nobody reads any more.
pub fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}
