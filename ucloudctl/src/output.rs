//! What a command answers, on standard output. A reader that has seen enough (`ucloudctl get vms | head`) is
//! no failure: the error that it causes ends the program silently.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

/// Prints a line.
pub fn line(text: &str) -> anyhow::Result<()> {
    self::text(&format!("{}\n", harmless(text)))
}

/// Prints text that has its own line ends, and sees to it that it is seen now.
pub fn text(text: &str) -> anyhow::Result<()> {
    write(&harmless(text))
}

/// Prints an object as JSON or YAML: for programs exactly as it is, for a terminal harmless.
pub fn document(text: &str) -> anyhow::Result<()> {
    if std::io::stdout().is_terminal() { self::text(text) } else { write(text) }
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(Into::into)
}

/// The text without what would steer the terminal: a guest, a user or a server wrote it.
pub fn harmless(text: &str) -> String {
    let steers = |c: char| {
        c.is_control() && c != '\n' && c != '\t' || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// The text in one harmless line.
pub fn one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// Whether the error only says that nobody reads any more.
pub fn is_closed(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(harmless("a\tb\n\u{1b}[2J\r\u{9b}x\u{202e}y"), "a\tb\n\u{fffd}[2J\u{fffd}\u{fffd}x\u{fffd}y");
        assert_eq!(one_line("a\tb\nc"), "a b c");
    }
}
