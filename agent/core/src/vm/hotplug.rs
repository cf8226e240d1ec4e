//! What the plans for interfaces and for disks of a VM that runs have in common.
//!
//! Unplugging needs the guest's cooperation: it is asked, and asked again, for as long as it takes.

use jiff::{SignedDuration, Timestamp};
use ucloud_types::condition::{Finding, Verdict};

use crate::reason;

use super::{Asked, Blocker, Pace, Step};

/// What is to be done about the interfaces, or the disks, of a VM that runs.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The type of the condition that says what is missing.
    condition: &'static str,
    /// The next step.
    pub step: Option<Step>,
    /// What is missing; None if all is as in the spec.
    pub finding: Option<Finding>,
    /// When to look again.
    pub after: Option<SignedDuration>,
    /// Whether the host has to be asked again, because it could not tell what it has.
    pub retry: bool,
}

impl Outcome {
    pub(super) fn new(condition: &'static str) -> Self {
        Self { condition, step: None, finding: None, after: None, retry: false }
    }

    /// Takes this step, unless there is one already.
    pub(super) fn step(&mut self, step: Step) {
        self.step.get_or_insert(step);
    }

    /// `what` waits until that is gone.
    pub(super) fn blocked(&mut self, what: &str, blocker: &Blocker) {
        self.pending(blocker.reason, &format!("{what}: {}", blocker.message));
    }

    fn pending(&mut self, reason: &'static str, message: &str) {
        match &mut self.finding {
            Some(finding) => {
                finding.message.push_str("; ");
                finding.message.push_str(message);
            }
            None => self.finding = Some(Finding::new(self.condition, Verdict::False, reason, message)),
        }
    }

    /// `what`, which is `why`, is to go: asks the guest by `step`, if it was not asked lately.
    pub(super) fn unplug(
        &mut self,
        step: impl FnOnce() -> Step,
        (what, why): (&str, &str),
        asked: Option<&Asked>,
        pace: &Pace,
        now: Timestamp,
    ) {
        let Some(asked) = asked else { return self.step(step()) };
        let repeat = pace.unplug_repeat - now.duration_since(asked.last);
        if !repeat.is_positive() {
            return self.step(step());
        }
        self.after = Some(self.after.map_or(repeat, |after| after.min(repeat)));
        // Whole seconds, so that the message of one wait is always the same
        let since = Timestamp::from_second(asked.since.as_second()).unwrap_or(asked.since);
        let message = format!(
            "the guest was asked at {since} to let go of {what}, which is {why}, and still has it: its operating system \
             must be up and support hot-plug (ACPI); `ucloudctl restart` brings what the spec says"
        );
        self.pending(reason::WAITING_FOR_GUEST, &message);
    }
}
