//! What a failure of the store or of the cache means to a client.

use std::error::Error as _;

use super::resource::Resource;
use crate::cache::{NotFresh, Stale};
use crate::status::{ApiError, Reason};
use crate::storage::{MAX_REQUEST_BYTES, StorageError};

/// The answer to a write that the store did not carry out.
pub(crate) fn of_write(error: &StorageError, resource: &Resource, name: &str) -> ApiError {
    let description = &resource.description;
    let (group, plural) = (&description.group, &description.plural);
    match error {
        StorageError::AlreadyExists { .. } => ApiError::already_exists(group, plural, name),
        StorageError::NotFound { .. } => ApiError::not_found(group, plural, name),
        StorageError::Conflict { .. } => ApiError::modified(group, plural, name),
        StorageError::GuardChanged { .. } => ApiError::too_many_requests(format!(
            "{plural} {name:?}: its namespace, a quota there, or the definition of its kind is written all the time; please \
             try again"
        )),
        StorageError::TooLarge { .. } => ApiError::too_large(MAX_REQUEST_BYTES),
        StorageError::NoSpace => ApiError::new(Reason::InsufficientStorage, error.to_string()),
        StorageError::OutcomeUnknown { .. } => ApiError::timeout(format!(
            "the outcome of this write of {plural} {name:?} is not known: read the object again before you repeat it"
        )),
        StorageError::Compacted { .. } | StorageError::FutureRevision { .. } => ApiError::expired(error.to_string()),
        StorageError::Unavailable(_) | StorageError::Refused(_) => unavailable(error),
    }
}

/// The answer to a read for which the store was needed and did not answer.
pub(crate) fn unavailable(error: &StorageError) -> ApiError {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    ApiError::unavailable(message)
}

/// The answer to a consistent read that could not be proven fresh.
pub(crate) fn of_fresh_read(error: &NotFresh) -> ApiError {
    match error {
        NotFresh::Store(store) => unavailable(store),
        NotFresh::Stale(stale) => ApiError::unavailable(format!("the cache lags behind the store: {stale}")),
    }
}

/// The answer to a read at a revision that the cache has not reached.
pub(crate) fn of_stale_read(stale: &Stale) -> ApiError {
    ApiError::timeout(format!("Too large resource version: {}, current: {}", stale.wanted, stale.reached))
        .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
        .with_retry_after(1)
}
