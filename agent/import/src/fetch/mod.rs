//! Fetching a source: from a web server, from the import folder or from what was uploaded, in one pass, hashed and
//! unpacked as it comes, with bounded memory.

pub mod file;
mod target;
mod unpack;
pub mod web;

use std::{io, time::Duration};

use bytes::Bytes;
use sha2::{Digest as _, Sha256 as Hasher};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, duplex},
    time::timeout,
};
use ucloud_agent_core::HostError;
use ucloud_types::{
    Quantity,
    image::{Compression, Sha256},
};

use self::{
    target::{Target, TargetError},
    unpack::unpack,
};
use crate::{address::Refused, error::StoreError, format::Detected, summary::summary};

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
    /// What it unpacks to is too large.
    #[error("the source unpacks to more than {0}, the most that is imported")]
    UnpackedTooLarge(Quantity),
    /// It is not compressed as it is claimed to be.
    #[error(
        "it is claimed to be compressed with {claimed}, and is {found}; make a new image with the right spec.compression, or \
         without it"
    )]
    Compression {
        /// The claim.
        claimed: &'static str,
        /// What it begins as.
        found: Detected,
    },
    /// It cannot be unpacked.
    #[error("it cannot be unpacked with {compression} (in 128 MiB of memory)")]
    Unpack {
        /// How it is compressed.
        compression: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
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
            Self::TooLarge(_) | Self::UnpackedTooLarge(_) => ("ImageTooLarge", true),
            Self::Compression { .. } => ("FormatMismatch", true),
            Self::Unpack { .. } => ("ImageRefused", true),
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
    /// What was uploaded, and has this checksum.
    Upload(Box<dyn AsyncRead + Send + Unpin>, Sha256),
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
                Origin::Upload(bytes, _) => {
                    let read = piece(bytes).await;
                    read.map_err(|source| FetchError::UploadBroke { name: self.name.clone(), source })
                }
            }
        };
        timeout(STALL, next).await.map_err(|_| FetchError::Stalled)?
    }

    /// Writes all bytes, unpacked, to `file`, at most `limit` of them. `received` is told how many have come so far.
    pub async fn store(
        self,
        file: tokio::fs::File,
        compression: Option<Compression>,
        limit: Quantity,
        received: impl FnMut(u64),
    ) -> Result<Fetched, FetchError> {
        if self.size.is_some_and(|size| size > limit.bytes()) {
            return Err(FetchError::TooLarge(limit));
        }
        let mut source = Hashed { source: self, sum: Sum { hasher: Hasher::new(), size: 0, limit, received } };
        let mut target = Target::new(file, limit);
        if let Some(compression) = compression {
            let (packed, unpacker) = duplex(BUFFER);
            tokio::try_join!(source.send(packed), unpack(unpacker, compression, &mut target))?;
        } else {
            source.copy(&mut target).await?;
        }
        target.finish().await?;
        let Sum { hasher, size, .. } = source.sum;
        Ok(Fetched { sha256: Sha256::from(<[u8; 32]>::from(hasher.finalize())), size })
    }
}

impl From<TargetError> for FetchError {
    fn from(error: TargetError) -> Self {
        match error {
            TargetError::TooLarge(limit) => Self::TooLarge(limit),
            TargetError::Store(error) => Self::Store(error),
        }
    }
}

/// A source of which each byte is counted and goes into the checksum.
struct Hashed<F> {
    source: Source,
    sum: Sum<F>,
}

/// What has come so far.
struct Sum<F> {
    hasher: Hasher,
    size: u64,
    limit: Quantity,
    received: F,
}

impl<F: FnMut(u64)> Sum<F> {
    fn add(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.size += bytes.len() as u64;
        if self.size > self.limit.bytes() {
            return Err(FetchError::TooLarge(self.limit));
        }
        self.hasher.update(bytes);
        (self.received)(self.size);
        Ok(())
    }
}

impl<F: FnMut(u64)> Hashed<F> {
    async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let next = self.source.next().await?;
        if let Some(bytes) = &next {
            self.sum.add(bytes)?;
        }
        Ok(next)
    }

    /// Copies everything to `target`.
    async fn copy(&mut self, target: &mut Target) -> Result<(), FetchError> {
        let Self { source, sum } = self;
        let mut next = source.next().await?;
        while let Some(bytes) = next {
            // The next ones come while these are counted and written.
            let write = async {
                sum.add(&bytes)?;
                Ok(target.write(&bytes).await?)
            };
            (next, ()) = tokio::try_join!(source.next(), write)?;
        }
        Ok(())
    }

    /// Hands everything on to whoever unpacks it, who sees the end when there is no more.
    async fn send(&mut self, mut to: tokio::io::DuplexStream) -> Result<(), FetchError> {
        while let Some(bytes) = self.next().await? {
            // Nobody listens any more when the unpacking has failed, which is reported there.
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}
