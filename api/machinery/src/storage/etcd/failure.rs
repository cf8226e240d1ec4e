//! Reads etcd's errors: was the request certainly not applied, or is that not known?

use std::{error::Error, io};

use crate::storage::{Revision, StorageError};

/// gRPC's numbers for what trying again does not cure: invalid argument, not found, permission denied, failed
/// precondition, out of range, unimplemented, unauthenticated.
const REFUSALS: [i32; 7] = [3, 5, 7, 9, 11, 12, 16];

/// The client library's error, under the name by which operators know what failed.
#[derive(Debug, thiserror::Error)]
#[error("etcd did not do what it was asked")]
struct EtcdError(#[source] etcd_client::Error);

fn named(error: etcd_client::Error) -> Box<dyn Error + Send + Sync> {
    Box::new(EtcdError(error))
}

/// A failed request.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request was not applied, and never will be.
    Definite(StorageError),
    /// The lease that a put names is gone; the request was not applied.
    LeaseNotFound,
    /// The request may have been applied, or may yet be: a timeout, a broken connection, a change of leader.
    Unknown(Box<dyn Error + Send + Sync>),
}

impl Failure {
    /// The failure as an error of a request that changes nothing, for which an unknown outcome is just no answer.
    pub(super) fn of_read(self) -> StorageError {
        match self {
            Self::Definite(error) => error,
            Self::LeaseNotFound => StorageError::unavailable("lease not found"),
            Self::Unknown(cause) => StorageError::Unavailable(cause),
        }
    }

    /// Whether asking another member, or the same one again, may help. Only for what was certainly not applied.
    pub(super) fn never_arrived(&self) -> bool {
        matches!(self, Self::Definite(StorageError::Unavailable(_)))
    }
}

/// Sorts an error of the client library. `asked` is the revision that the request named, if it did.
pub(super) fn classify(error: etcd_client::Error, asked: Revision) -> Failure {
    let etcd_client::Error::GRpcStatus(status) = &error else {
        return match error {
            // found out before anything is sent
            etcd_client::Error::InvalidArgs(_)
            | etcd_client::Error::InvalidUri(_)
            | etcd_client::Error::InvalidMetadataValue(_)
            | etcd_client::Error::EndpointError(_)
            | etcd_client::Error::EndpointsNotManaged => Failure::Definite(StorageError::Refused(named(error))),
            _ => Failure::Unknown(named(error)),
        };
    };
    let (code, message) = (status.code() as i32, status.message());
    if let Some(known) = classify_message(message, asked) {
        return known;
    }
    if connection_refused(status) {
        return Failure::Definite(StorageError::Unavailable(named(error)));
    }
    if REFUSALS.contains(&code) {
        return Failure::Definite(StorageError::Refused(named(error)));
    }
    Failure::Unknown(named(error))
}

/// etcd's own messages, the same in 3.4 to 3.6 (`api/v3rpc/rpctypes/error.go`).
fn classify_message(message: &str, asked: Revision) -> Option<Failure> {
    let definite = match message.strip_prefix("etcdserver: ")? {
        "mvcc: required revision has been compacted" => StorageError::Compacted { asked, oldest: Revision(0) },
        "mvcc: required revision is a future revision" => StorageError::FutureRevision { asked, current: Revision(0) },
        "mvcc: database space exceeded" => StorageError::NoSpace,
        // turned away before they are proposed
        "no leader" | "too many requests" => StorageError::unavailable(message.to_owned()),
        "requested lease not found" => return Some(Failure::LeaseNotFound),
        _ => return None,
    };
    Some(Failure::Definite(definite))
}

/// Whether there was no connection at all, so that nothing can have been sent.
fn connection_refused(status: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(status);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_message(message: &str) -> Option<Failure> {
        classify_message(message, Revision(7))
    }

    #[test]
    fn etcds_words_for_what_was_not_applied_are_known() {
        assert!(matches!(
            of_message("etcdserver: mvcc: database space exceeded"),
            Some(Failure::Definite(StorageError::NoSpace))
        ));
        assert!(matches!(
            of_message("etcdserver: mvcc: required revision has been compacted"),
            Some(Failure::Definite(StorageError::Compacted { asked: Revision(7), .. }))
        ));
        assert!(of_message("etcdserver: no leader").is_some_and(|failure| failure.never_arrived()));
    }

    #[test]
    fn a_timeout_or_a_change_of_leader_is_not_taken_for_a_refusal() {
        assert!(of_message("etcdserver: request timed out").is_none());
        assert!(of_message("etcdserver: request timed out, possibly due to previous leader failure").is_none());
        assert!(of_message("etcdserver: leader changed").is_none());
        assert!(of_message("transport error").is_none());
    }

    #[test]
    fn a_refused_connection_is_found_anywhere_in_the_chain() {
        let wrapped = |kind: io::ErrorKind| StorageError::Unavailable(Box::new(io::Error::from(kind)));
        assert!(connection_refused(&wrapped(io::ErrorKind::ConnectionRefused)));
        assert!(!connection_refused(&wrapped(io::ErrorKind::ConnectionReset)));
    }
}
