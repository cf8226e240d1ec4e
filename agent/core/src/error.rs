//! What a host answers when it cannot do what it was asked.

use std::error::Error;

/// Why a host could not do what it was asked. It becomes a condition: `reason` and `message` are shown to
/// users, the source goes to the log.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// A CamelCase word that programs can rely on.
    pub reason: &'static str,
    /// What failed, for which object, and what to do next. It names no path that the user did not write.
    pub message: String,
    /// Whether trying again is of no use until the object's spec, or something else outside, has changed.
    pub terminal: bool,
    /// The underlying error.
    #[source]
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl HostError {
    /// A failure that may pass: it is tried again with growing pauses.
    pub fn retryable(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), terminal: false, source: None }
    }

    /// A failure that stays until a spec changes.
    pub fn terminal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), terminal: true, source: None }
    }

    /// The same failure, with the error that caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}
