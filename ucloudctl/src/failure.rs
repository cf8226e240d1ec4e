//! How a command fails: what is printed, and with which code the program ends. Scripts rely on the codes.

use kube::core::{Status, response::StatusCause};

use crate::output;

/// The program's exit code for an error that is none of the others.
pub const FAILED: u8 = 1;
/// The program's exit code when a named object does not exist.
pub const NOT_FOUND: u8 = 3;
/// The program's exit code when something did not come in time.
pub const TIMED_OUT: u8 = 4;

/// The program's exit code when it was interrupted, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// The reason of a cause that names a field which another owns.
const CONFLICT: &str = "FieldManagerConflict";

/// A failure with an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A named object does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Something did not come in time.
    #[error("{0}")]
    TimedOut(String),
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The API server cannot be reached or cannot answer now.
    #[error("{0}")]
    Unavailable(String),
    /// The object is not as the request presumes.
    #[error("{0}")]
    Conflict(String),
    /// The API server no longer knows what happened since then.
    #[error("{0}")]
    Expired(String),
    /// Some of several objects failed; each was reported when it did.
    #[error("{failed} of {all} objects failed")]
    Some { failed: usize, all: usize, code: u8 },
}

/// The exit code for an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Failure>() {
        Some(Failure::NotFound(_)) => NOT_FOUND,
        Some(Failure::TimedOut(_)) => TIMED_OUT,
        Some(Failure::Some { code, .. }) => *code,
        Some(Failure::Interrupted) => INTERRUPTED,
        Some(Failure::Unavailable(_) | Failure::Conflict(_) | Failure::Expired(_)) | None => FAILED,
    }
}

/// Whether the same may succeed later.
pub fn is_transient(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Failure::Unavailable(_)))
}

/// Whether the object is not as the request presumes: to look at it again helps.
pub fn is_conflict(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Failure::Conflict(_)))
}

/// Whether a watch must begin with a new list.
pub fn is_expired(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Failure::Expired(_)))
}

/// Makes an error of what the API server, or the way to it, answered.
pub fn from_kube(error: kube::Error, server: &str) -> anyhow::Error {
    match error {
        kube::Error::Api(status)
            if status.is_not_found() && status.details.as_ref().is_some_and(|d| !d.name.is_empty()) =>
        {
            Failure::NotFound(status.message).into()
        }
        kube::Error::Api(status) if status.is_conflict() => Failure::Conflict(explain(&status)).into(),
        kube::Error::Api(status) if status.code == 410 => Failure::Expired(status.message).into(),
        kube::Error::Api(status) if status.code == 429 || status.code >= 500 => {
            Failure::Unavailable(explain(&status)).into()
        }
        kube::Error::Api(status) => anyhow::anyhow!(explain(&status)),
        other => {
            let cause = anyhow::Error::new(other);
            let text = format!("cannot reach the API server at {server}; is ucloud-api running there?: {cause:#}");
            Failure::Unavailable(text).into()
        }
    }
}

/// A Status as text: one line, or one more for each of several causes.
fn explain(status: &Status) -> String {
    let causes = status.details.as_ref().map_or(&[][..], |d| &d.causes);
    if causes.iter().any(|cause| cause.reason == CONFLICT) {
        return conflicts(causes);
    }
    if causes.len() < 2 {
        return status.message.clone();
    }
    let name = status.details.as_ref().map_or("", |d| &d.name);
    let mut text = format!("{name:?} is invalid, in {} places:", causes.len());
    for cause in causes {
        text.push_str("\n  ");
        if !cause.field.is_empty() {
            text.push_str(&cause.field);
            text.push_str(": ");
        }
        text.push_str(&cause.message);
    }
    text
}

/// The fields that others own, whose they are, and what to do.
fn conflicts(causes: &[StatusCause]) -> String {
    let (fields, them) = if causes.len() == 1 { ("a field", "it") } else { ("fields", "them") };
    let mut lines = vec![format!("the file changes {fields} that others own:")];
    for cause in causes {
        lines.push(format!("  {}: {}", cause.field, cause.message.trim_start_matches("conflict with ")));
    }
    lines.push(format!("leave {them} out of the file, or take {them} with --force-conflicts"));
    lines.join("\n")
}

/// Prints an error with what caused it, in one line where the error is one line.
pub fn print(error: &anyhow::Error) {
    eprintln!("error: {}", output::harmless(&format!("{error:#}")));
}

/// Tells of something that is no failure yet.
pub fn note(text: &str) {
    eprintln!("{}", output::harmless(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_says_whose_the_field_is_and_what_to_do() {
        let cause = |manager: &str, field: &str| StatusCause {
            reason: CONFLICT.to_owned(),
            message: format!("conflict with {manager:?} using v1"),
            field: field.to_owned(),
        };
        assert_eq!(
            conflicts(&[cause("kubectl-edit", ".spec.cpus")]),
            "the file changes a field that others own:\n  .spec.cpus: \"kubectl-edit\" using v1\n\
             leave it out of the file, or take it with --force-conflicts"
        );
        assert!(conflicts(&[cause("a", ".x"), cause("b", ".y")]).ends_with("take them with --force-conflicts"));
    }
}
