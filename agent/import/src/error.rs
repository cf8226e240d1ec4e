//! What goes wrong with a pool's file system.

use std::io;

use ucloud_agent_core::HostError;

use crate::summary::summary;

/// A failure of the pool's file system.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no room.
    #[error("the pool is full")]
    Full,
    /// Anything else.
    #[error("cannot {doing}")]
    Io {
        /// What failed.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// The error that `doing` failed with.
    pub fn new(doing: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Io { doing, source },
        }
    }

    /// As an answer to a caller; `act` is what could not be done.
    pub fn reported(self, act: &str) -> HostError {
        match self {
            Self::Full => HostError::retryable(
                "StorageFull",
                format!("cannot {act}: the pool has no room on this host; remove images or VMs that are not needed, or enlarge it"),
            ),
            Self::Io { .. } => {
                let message = format!("cannot {act}, because the pool on this host does not work: {}", summary(&self));
                HostError::retryable("StorageFailed", message)
            }
        }
        .caused_by(self)
    }
}

/// Gives an I/O error the name of what was done.
pub fn doing<T>(what: &'static str, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::new(what, source))
}
