//! Progress on whatever takes longer than a moment: on a terminal a line that moves, or a bar where a
//! percentage is known; elsewhere a line whenever the message changes. It goes to standard error.

use std::{
    cell::{Cell, RefCell},
    io::IsTerminal as _,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{failure, output};

/// Shows how far one thing is.
pub struct Progress {
    bar: Option<ProgressBar>,
    subject: String,
    shown: String,
}

impl Progress {
    /// Begins to show how far `subject` is.
    pub fn new(subject: String) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(100);
            bar.set_style(spinner());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, subject, shown: String::new() }
    }

    /// Shows what the object says of itself.
    pub fn show(&mut self, object: &Value) {
        self.say(&output::one_line(&state(object)), percent(object));
    }

    fn say(&mut self, message: &str, percent: Option<u64>) {
        match &self.bar {
            Some(bar) => {
                if let Some(percent) = percent {
                    bar.set_style(percentage());
                    bar.set_position(percent);
                } else {
                    bar.set_style(spinner());
                }
                bar.set_message(format!("{}: {message}", self.subject));
            }
            None if self.shown != message && !message.is_empty() => eprintln!("{}: {message}", self.subject),
            None => {}
        }
        message.clone_into(&mut self.shown);
    }

    /// What was shown last: the reason, if there is nothing more to wait for.
    pub fn last(&self) -> &str {
        &self.shown
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows how many bytes of something have gone their way: on a terminal by a bar, elsewhere by a line for each tenth.
pub struct Transfer {
    bar: Option<ProgressBar>,
    subject: String,
    size: u64,
    tenths: Cell<u64>,
    noted: RefCell<String>,
}

impl Transfer {
    /// Begins to show it of the `size` bytes of `subject`.
    pub fn new(subject: String, size: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(size);
            bar.set_style(bytes());
            bar.set_message(subject.clone());
            bar
        });
        Self { bar, subject, size, tenths: Cell::default(), noted: RefCell::default() }
    }

    /// So many are through.
    pub fn set(&self, done: u64) {
        if let Some(bar) = &self.bar {
            return bar.set_position(done);
        }
        let tenths = u64::try_from(u128::from(done) * 10 / u128::from(self.size.max(1))).unwrap_or(10);
        if tenths > self.tenths.replace(tenths) {
            eprintln!("{}: {}0 %", self.subject, tenths);
        }
    }

    /// Says something beside it, once as long as it is the same.
    pub fn note(&self, text: &str) {
        let text = output::one_line(text);
        if self.noted.replace(text.clone()) == text {
            return;
        }
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{}: {text}", self.subject),
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Tells how to go on, whatever ends something before its end: an error or Ctrl-C.
pub struct Unfinished(Option<&'static str>);

impl Unfinished {
    /// This is what to tell.
    pub fn new(note: &'static str) -> Self {
        Self(Some(note))
    }

    /// The end is reached.
    pub fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(note) = self.0 {
            failure::note(note);
        }
    }
}

fn bytes() -> ProgressStyle {
    ProgressStyle::with_template("[{bar:30}] {percent:>3}% {wide_msg} {bytes}/{total_bytes} {bytes_per_sec} {eta:>4}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg} {elapsed:>4}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn percentage() -> ProgressStyle {
    ProgressStyle::with_template("[{bar:30}] {percent:>3}% {wide_msg} {elapsed:>4}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// What an object says of itself, in a line: its phase, and what keeps it from being ready or from going away.
pub fn state(object: &Value) -> String {
    let conditions = object["status"]["conditions"].as_array().map_or(&[][..], Vec::as_slice);
    let message = |type_: &str, status: &str| {
        conditions
            .iter()
            .find(|c| c["type"] == type_ && c["status"] == status)
            .and_then(|c| c["message"].as_str().filter(|m| !m.is_empty()).or_else(|| c["reason"].as_str()))
    };
    let deleting = !object["metadata"]["deletionTimestamp"].is_null();
    let said = if deleting {
        message("Terminating", "True").map(str::to_owned).or_else(|| held_by(object))
    } else {
        message("Scheduled", "False")
            .or_else(|| message("Ready", "False"))
            .or_else(|| message("Ready", "Unknown"))
            .map(str::to_owned)
    };
    match (object["status"]["phase"].as_str(), said) {
        (Some(phase), Some(said)) => format!("{phase}: {said}"),
        (Some(phase), None) => phase.to_owned(),
        (None, Some(said)) => said,
        (None, None) if deleting => "Terminating".to_owned(),
        (None, None) => "nothing is known of it yet; is its controller running?".to_owned(),
    }
}

fn held_by(object: &Value) -> Option<String> {
    let finalizers: Vec<_> = object["metadata"]["finalizers"].as_array()?.iter().filter_map(Value::as_str).collect();
    (!finalizers.is_empty()).then(|| {
        let host =
            object["status"]["binding"]["host"].as_str().map_or(String::new(), |host| format!(" on host {host}"));
        format!("held by {}{host}", finalizers.join(", "))
    })
}

fn percent(object: &Value) -> Option<u64> {
    object["status"]["progress"].as_str()?.strip_suffix('%')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_says_what_it_waits_for() {
        let vm = json!({"status": {"phase": "Pending", "conditions": [
            {"type": "Ready", "status": "False", "message": "later"},
            {"type": "Scheduled", "status": "False", "message": "0/1 hosts fit"}]}});
        assert_eq!(state(&vm), "Pending: 0/1 hosts fit");
        let deleted = json!({"metadata": {"deletionTimestamp": "t", "finalizers": ["a/b"]}, "status": {"binding": {"host": "h"}}});
        assert_eq!(state(&deleted), "held by a/b on host h");
        assert_eq!(percent(&json!({"status": {"progress": "42%"}})), Some(42));
    }
}
