//! Reading what images and disks hold, as a guest sees it.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;
use ucloud_agent_core::{
    HostError,
    block_store::{Readable, pieces},
};
use ucloud_agent_import::{
    StoreError,
    qcow2::{Disk, DiskError, Header, Refused},
    summary::summary,
};

use crate::store::{Backing, Store};

/// Why something was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not there.
    #[error("it is not on this host")]
    Missing,
    /// It is no disk of ours, or was changed.
    #[error("it is not sound")]
    Unsound(#[source] Refused),
    /// The pool fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Io(error) => StoreError::new("read a disk", error).into(),
            DiskError::Refused(refused) => Self::Unsound(refused),
        }
    }
}

impl ReadError {
    /// As an answer to a caller; `act` is what could not be done.
    pub fn reported(self, act: &str) -> HostError {
        let message = format!("cannot {act}: {}", summary(&self));
        match self {
            Self::Missing => HostError::retryable("DiskMissing", message),
            Self::Unsound(refused) => HostError::terminal("DiskRefused", message).caused_by(refused),
            Self::Store(error) => error.reported(act),
        }
    }
}

/// Opens it, if it is there.
pub fn open(store: &Store, what: &Readable) -> Result<Option<Disk>, ReadError> {
    let path = match what {
        Readable::Image(uid) => match store.linked(uid)? {
            Some(sha256) => store.content(&sha256),
            None => return Ok(None),
        },
        Readable::Disk(disk) => store.disk(disk),
    };
    match Disk::open(&path, |header| backing(store, header)) {
        Err(DiskError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => Ok(Some(opened?)),
    }
}

/// A disk is a clone of a content, which is a clone of nothing.
fn backing(store: &Store, header: &Header) -> Result<Option<Disk>, DiskError> {
    match Backing::of(header).ok_or(Refused::BackingFile)? {
        Backing::None => Ok(None),
        Backing::Content(sha256) => Disk::open(&store.content(&sha256), |header| match header.backing {
            None => Ok(None),
            Some(_) => Err(Refused::BackingFile.into()),
        })
        .map(Some),
    }
}

/// Reads until all is read, or nobody takes it any more. Blocks.
pub fn read(disk: &Disk, range: std::ops::Range<u64>, into: &mpsc::Sender<Bytes>) -> Result<(), ReadError> {
    for (at, length) in pieces(range) {
        let mut piece = vec![0; length];
        disk.read(at, &mut piece)?;
        if into.blocking_send(piece.into()).is_err() {
            break;
        }
    }
    Ok(())
}
