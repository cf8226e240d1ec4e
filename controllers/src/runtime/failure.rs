//! How a reconcile fails, which decides what happens next: again soon, again with backoff, or not before the object
//! changes.

use std::{error::Error, time::Duration};

use kube::core::Status;

/// Why a reconcile did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Trying again cannot help before the object's spec changes.
    #[error("{message}")]
    Terminal {
        /// A CamelCase word for the condition.
        reason: &'static str,
        /// What is wrong and what to do next.
        message: String,
    },

    /// The decision was made on an older version of an object than the server has. Nothing was written; the next
    /// reconcile decides on the newer version.
    #[error("{doing}: the object has changed meanwhile")]
    Conflict {
        /// What was tried.
        doing: String,
    },

    /// The server did not do what was asked, and may the next time.
    #[error("{doing}")]
    Api {
        /// What was tried.
        doing: String,
        /// What the server, or the way to it, answered.
        #[source]
        source: ApiError,
    },

    /// The reconcile took too long and was stopped. It goes on where it was.
    #[error("not done after {} s", .0.as_secs())]
    TimedOut(Duration),

    /// The reconcile panicked. It concerns this object alone, and is tried again: what it met may change.
    #[error("a defect of ucloud-controllers: {0}")]
    Panicked(String),
}

/// An answer of the API server, or the lack of one, in one line.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server refused, and said why.
    #[error("{} ({})", .0.message, .0.code)]
    Refused(Box<Status>),
    /// There was no answer, or none that could be read. What was asked may have happened.
    #[error("no usable answer from the API server")]
    NoAnswer(#[source] Box<kube::Error>),
}

impl Failure {
    /// Sorts an error of the API: a lost race, a refusal for good, or trouble that passes.
    pub fn api(doing: impl Into<String>, error: kube::Error) -> Self {
        let doing = doing.into();
        match error {
            kube::Error::Api(status) => match status.code {
                409 => Self::Conflict { doing },
                400 | 413 | 422 => {
                    Self::Terminal { reason: "Refused", message: format!("{doing}: {}", status.message) }
                }
                _ => Self::Api { doing, source: ApiError::Refused(status) },
            },
            other => Self::Api { doing, source: ApiError::NoAnswer(Box::new(other)) },
        }
    }

    /// The error and its causes in one line, for conditions and Events.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let line = error.to_string();
            // kube repeats the cause in the message of some errors
            if !text.contains(&line) {
                text.push_str(": ");
                text.push_str(&line);
            }
            cause = error.source();
        }
        text
    }
}

/// Whether the server says that the object is not there.
pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Whether the request certainly had no effect: the server has looked at it and refused it.
pub fn is_refusal(status: &Status) -> bool {
    (400..500).contains(&status.code) && status.code != 408
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16) -> kube::Error {
        kube::Error::Api(Status::failure("spec.x is wrong", "Reason").with_code(code).boxed())
    }

    #[test]
    fn answers_are_sorted_by_what_can_be_done() {
        assert!(matches!(Failure::api("a", answer(409)), Failure::Conflict { .. }));
        assert!(matches!(Failure::api("a", answer(422)), Failure::Terminal { .. }));
        for code in [401, 403, 404, 429, 500, 503] {
            assert!(matches!(Failure::api("a", answer(code)), Failure::Api { .. }), "{code}");
        }
        let refusal = |code| is_refusal(&Status::default().with_code(code));
        assert!(refusal(409) && refusal(422) && !refusal(408) && !refusal(500) && !refusal(504));
    }

    #[test]
    fn a_chain_says_everything_once() {
        assert_eq!(Failure::api("cannot read vms", answer(503)).chain(), "cannot read vms: spec.x is wrong (503)");
    }
}
