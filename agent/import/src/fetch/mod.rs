//! Fetching a source: from a web server, from the import folder or from what was uploaded, in one pass, hashed as it comes, with
//! bounded memory.

pub mod file;
pub mod web;

use std::{io, time::Duration};

use bytes::Bytes;
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufWriter},
    time::timeout,
};
use ucloud_agent_core::HostError;
use ucloud_types::{Quantity, image::Sha256};

use crate::{address::Refused, error::StoreError, summary::summary};

/// How long a source may send nothing before it is given up.
const STALL: Duration = Duration::from_mins(1);
const BUFFER: usize = 1 << 20;

/// Why a source was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is none that is fetched.
    #[error("the URL {url} cannot be used: {why}")]
    Url {
        /// The URL, of the source or of a redirect.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The server's address is none that is connected to.
    #[error("the server {host} cannot be used: {refused}")]
    Address {
        /// The server's name.
        host: String,
        /// Its address.
        refused: Refused,
    },
    /// There was always another redirect.
    #[error("the server redirects more than {0} times")]
    Redirects(usize),
    /// The server refuses.
    #[error("the server {host} answers {status}")]
    Status {
        /// The server's name.
        host: String,
        /// HTTP's status.
        status: reqwest::StatusCode,
    },
    /// The transfer failed.
    #[error("the download from {host} failed")]
    Transfer {
        /// The server's name.
        host: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Nothing came any more.
    #[error("the source has sent nothing for {} s", STALL.as_secs())]
    Stalled,
    /// It is too large.
    #[error("the source is larger than {0}, the most that is imported")]
    TooLarge(Quantity),
    /// There is no such file.
    #[error("there is no file {0} in the import folder of the host; put it there")]
    NotFound(String),
    /// The file's name or kind is none that is imported.
    #[error("{name} in the import folder of the host {why}")]
    NoFile {
        /// NAMESPACE/NAME.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The file cannot be read.
    #[error("{name} in the import folder of the host cannot be read")]
    Read {
        /// NAMESPACE/NAME.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The File cannot be had.
    #[error(transparent)]
    Upload(HostError),
    /// The bytes of the File broke off.
    #[error("the bytes of file {name} broke off")]
    UploadBroke {
        /// NAMESPACE/NAME.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What came cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FetchError {
    /// As an answer to a caller; `act` is what could not be done.
    pub fn reported(self, act: &str) -> HostError {
        let (reason, terminal) = match self {
            Self::Store(error) => return error.reported(act),
            Self::Upload(error) => {
                return HostError { message: format!("cannot {act}: {}", error.message), ..error };
            }
            Self::Url { .. } | Self::Address { .. } | Self::NoFile { .. } => ("SourceRefused", true),
            Self::TooLarge(_) => ("ImageTooLarge", true),
            Self::NotFound(_) => ("SourceNotFound", false),
            Self::Read { .. } => ("SourceUnreadable", false),
            Self::Redirects(_)
            | Self::Status { .. }
            | Self::Transfer { .. }
            | Self::UploadBroke { .. }
            | Self::Stalled => ("DownloadFailed", false),
        };
        let message = format!("cannot {act}: {}", summary(&self));
        let error = if terminal { HostError::terminal(reason, message) } else { HostError::retryable(reason, message) };
        error.caused_by(self)
    }
}

/// An opened source.
pub struct Source {
    /// How many bytes it has, if that is known.
    pub size: Option<u64>,
    /// Its name, for messages.
    pub name: String,
    /// Where the bytes come from.
    pub bytes: Origin,
}

/// Where a source's bytes come from.
pub enum Origin {
    /// The body of an answer.
    Web(reqwest::Response),
    /// A file.
    File(tokio::fs::File),
    /// What was uploaded.
    Upload(Box<dyn AsyncRead + Send + Unpin>),
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its checksum.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

async fn piece(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
    let mut buffer = bytes::BytesMut::with_capacity(BUFFER);
    let read = from.read_buf(&mut buffer).await?;
    Ok((read > 0).then(|| buffer.freeze()))
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let next = async {
            match &mut self.bytes {
                Origin::Web(answer) => {
                    answer.chunk().await.map_err(|source| FetchError::Transfer { host: self.name.clone(), source })
                }
                Origin::File(file) => {
                    let read = piece(file).await;
                    read.map_err(|source| FetchError::Read { name: self.name.clone(), source })
                }
                Origin::Upload(bytes) => {
                    let read = piece(bytes).await;
                    read.map_err(|source| FetchError::UploadBroke { name: self.name.clone(), source })
                }
            }
        };
        timeout(STALL, next).await.map_err(|_| FetchError::Stalled)?
    }

    /// Writes all bytes to `file`, at most `limit` of them. `received` is told how many there are so far.
    pub async fn store(
        mut self,
        file: tokio::fs::File,
        limit: Quantity,
        mut received: impl FnMut(u64),
    ) -> Result<Fetched, FetchError> {
        if self.size.is_some_and(|size| size > limit.bytes()) {
            return Err(FetchError::TooLarge(limit));
        }
        let store = |error| StoreError::new("write the source", error);
        let mut file = BufWriter::with_capacity(BUFFER, file);
        let mut hasher = Hasher::new();
        let mut size = 0;
        while let Some(bytes) = self.next().await? {
            size += bytes.len() as u64;
            if size > limit.bytes() {
                return Err(FetchError::TooLarge(limit));
            }
            hasher.update(&bytes);
            file.write_all(&bytes).await.map_err(store)?;
            received(size);
        }
        file.flush().await.map_err(store)?;
        // Waits for the last write, which would else report its failure to nobody.
        file.get_mut().sync_data().await.map_err(store)?;
        Ok(Fetched { sha256: Sha256::from(<[u8; 32]>::from(hasher.finalize())), size })
    }
}
