//! Keeping the bytes of Files: [`FileStore`].

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use ucloud_types::{Quantity, image::Sha256};

use crate::{HostError, block_store::Pool};

/// Keeps the bytes of Files, which come in order and may break off anywhere.
#[async_trait]
pub trait FileStore: Send + Sync {
    /// What there is of all Files in the pool, by UID.
    async fn files(&self, pool: &Pool) -> Result<BTreeMap<String, Stored>, HostError>;

    /// What there is of one. A File of which nothing has come yet is partial, with no byte.
    async fn stored(&self, file: &FileRequest) -> Result<Stored, HostError>;

    /// Takes bytes from `offset` on, until the channel is closed, and tells what is on the disk then. The last byte makes
    /// the File complete, if its checksum is right; else all of it is thrown away. Whatever fails, the bytes that are
    /// kept are those that came first, and the next call may go on behind them.
    ///
    /// Once called it goes on to its end, also where nobody waits for it any more.
    async fn append(
        &self,
        file: &FileRequest,
        offset: u64,
        bytes: mpsc::Receiver<Bytes>,
    ) -> Result<Stored, AppendError>;

    /// A File that is complete, as a file of the host. None: it is in a pool that every host sees, and is no file there.
    async fn open(&self, file: &FileRequest) -> Result<Option<std::fs::File>, HostError>;

    /// Reads some bytes of a File that is complete, until they are all read or nobody takes them any more.
    async fn read(&self, file: &FileRequest, range: Range<u64>, into: mpsc::Sender<Bytes>) -> Result<(), HostError>;

    /// How many bytes there are of the File with this UID; none if there is nothing of it.
    async fn size(&self, pool: &Pool, uid: &str) -> Result<Option<Quantity>, HostError>;

    /// Removes whatever there is of the File with this UID.
    async fn remove(&self, pool: &Pool, uid: &str) -> Result<(), HostError>;
}

/// A File, as its host needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRequest {
    /// The File's UID.
    pub uid: String,
    /// The File's namespace.
    pub namespace: String,
    /// The File's name.
    pub name: String,
    /// The pool to keep it in.
    pub pool: Pool,
    /// How many bytes it has.
    pub size: u64,
    /// The checksum that they are claimed to have.
    pub sha256: Option<Sha256>,
}

impl FileRequest {
    /// What is done with it, for messages.
    pub fn act(&self, what: &str) -> String {
        format!("{what} file {}/{} in pool {}", self.namespace, self.name, self.pool.name)
    }

    /// Why it cannot be read: some of it is missing.
    pub fn incomplete(&self) -> HostError {
        let message = format!("file {}/{} is not complete yet: upload the rest of it", self.namespace, self.name);
        HostError::retryable("FileIncomplete", message)
    }

    /// What those are answered who send bytes from `offset` on to a File that is complete with this checksum. Blocks.
    pub fn sent_again(
        &self,
        sha256: Sha256,
        offset: u64,
        mut bytes: mpsc::Receiver<Bytes>,
    ) -> Result<Stored, AppendError> {
        if offset != self.size {
            return Err(AppendError::WrongOffset { next: self.size });
        }
        match bytes.blocking_recv() {
            Some(_) => Err(AppendError::TooMany(Quantity::from_bytes(self.size))),
            None => Ok(Stored::Complete(sha256)),
        }
    }

    /// Whether its bytes, which have this checksum, are those that were claimed.
    pub fn check(&self, found: &Sha256) -> Result<(), AppendError> {
        match self.sha256.clone().filter(|claimed| claimed != found) {
            Some(claimed) => Err(AppendError::Checksum { claimed, found: found.clone() }),
            None => Ok(()),
        }
    }
}

/// What there is of a File.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// So many bytes, from the first one on.
    Partial(u64),
    /// All of them; they have this checksum.
    Complete(Sha256),
}

/// Why bytes were not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Others are wanted.
    #[error("the next byte is number {next}: go on there")]
    WrongOffset {
        /// How many are there already.
        next: u64,
    },
    /// Somebody else is at it.
    #[error("another upload of it is under way: wait until that has ended")]
    Busy,
    /// There are more than the File has. Those that came before them are kept.
    #[error("more bytes came than its size {0}: make a file of the right size")]
    TooMany(Quantity),
    /// They are not those that were claimed. All of them are thrown away.
    #[error(
        "its bytes have the checksum {found}, and {claimed} was promised: upload the right ones, from the first on"
    )]
    Checksum {
        /// What was claimed.
        claimed: Sha256,
        /// What was found.
        found: Sha256,
    },
    /// The host fails.
    #[error(transparent)]
    Host(#[from] HostError),
}
