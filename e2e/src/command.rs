//! Runs a command as a user would, and keeps what it said.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Run {
    /// The command, for messages.
    pub line: String,
    /// The exit code; -1 where a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Run {
    /// Runs the command to its end, with this on its standard input.
    pub fn of(command: &mut Command, input: &str) -> anyhow::Result<Self> {
        let line = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {line}"))?;
        let stdin = child.stdin.take();
        let input = input.to_owned();
        // in a thread of its own, so that neither side waits for the other with a full pipe
        let writer = std::thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let output = child.wait_with_output()?;
        // a command that does not read all of its input may close it: its exit code tells what that means
        let _ = writer.join();
        Ok(Self {
            line,
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The same, if it succeeded.
    pub fn ok(self) -> anyhow::Result<Self> {
        ensure!(self.code == 0, "{} ended with {}:\n{}{}", self.line, self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// The same, if it failed with this exit code and said all of this on standard error.
    pub fn failed(self, code: i32, said: &[&str]) -> anyhow::Result<Self> {
        ensure!(
            self.code == code,
            "{} ended with {} and not {code}:\n{}{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        );
        for text in said {
            ensure!(self.stderr.contains(text), "{} does not say {text:?}:\n{}", self.line, self.stderr);
        }
        Ok(self)
    }
}
