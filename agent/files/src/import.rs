//! Importing an image: fetch, check, inspect, convert, publish. What VMs use was always written by our own
//! qemu-img, and never by whoever made the source.
//!
//! The bytes are always fetched, also when a content with the claimed checksum is there already: to know a
//! checksum is not to have the right to the bytes.

use std::path::Path;

use tokio::{sync::watch, task::spawn_blocking};
use ucloud_agent_core::{
    HostError,
    block_store::{ImageRequest, StoredImage},
};
use ucloud_types::{Quantity, image::Sha256};

use crate::{
    Files,
    fetch::{self, FetchError, Source},
    inspect::{InspectError, inspect},
    qcow2,
    qemu_img::QemuImgError,
    store::{CONTENT_MODE, Staged, Store, StoreError},
    summary::summary,
};

/// How much of the progress is the fetching; the rest is the converting.
const FETCHED_PERCENT: u8 = 80;

/// Why an image was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It names no source.
    #[error("it has no source; set spec.source.http or spec.source.file")]
    NoSource,
    /// The bytes cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// They are not those that were claimed.
    #[error("its source has the checksum {found}, and {claimed} is claimed; correct one of them in a new image")]
    Checksum {
        /// What was claimed.
        claimed: Sha256,
        /// What was found.
        found: Sha256,
    },
    /// They are no image that is accepted.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// They cannot be copied.
    #[error("it cannot be converted")]
    Convert(#[source] QemuImgError),
    /// The result cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What an import does, for messages.
pub fn act(request: &ImageRequest) -> String {
    format!("import image {}/{} into pool {}", request.namespace, request.name, request.pool.name)
}

impl ImportError {
    /// As an answer to a caller.
    pub fn reported(self, request: &ImageRequest) -> HostError {
        let act = act(request);
        let message = format!("cannot {act}: {}", summary(&self));
        match self {
            Self::NoSource => HostError::terminal("SourceRefused", message),
            Self::Fetch(error) => error.reported(&act),
            Self::Inspect(error) => error.reported(&act),
            Self::Store(error) => error.reported(&act),
            Self::Convert(QemuImgError::Full) => StoreError::Full.reported(&act),
            Self::Checksum { .. } => HostError::terminal("ChecksumMismatch", message),
            Self::Convert(QemuImgError::Unreadable(_)) => HostError::terminal("ImageRefused", message).caused_by(self),
            Self::Convert(_) => HostError::retryable("ImportFailed", message).caused_by(self),
        }
    }
}

impl Files {
    /// Imports an image that is not there yet.
    pub(crate) async fn import(
        &self,
        store: &Store,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
    ) -> Result<StoredImage, ImportError> {
        let report = |now: u8| {
            percent.send_if_modified(|percent| {
                let changed = *percent != now;
                *percent = now;
                changed
            });
        };
        report(0);
        let source = self.open_source(request).await?;
        let total = source.size;
        let fetched_file = staged(store, "source").await?;
        let fetched = source
            .store(fetched_file.file()?, self.max_source, |received| {
                if let Some(total) = total.filter(|total| *total > 0) {
                    let part = received.min(total) * u64::from(FETCHED_PERCENT) / total;
                    report(u8::try_from(part).unwrap_or(FETCHED_PERCENT));
                }
            })
            .await?;
        if let Some(claimed) = request.checksum.as_ref().filter(|claimed| **claimed != fetched.sha256) {
            return Err(ImportError::Checksum { claimed: claimed.clone(), found: fetched.sha256 });
        }
        let virtual_size = inspect(fetched_file.path(), request.format, self.max_disk, &self.qemu_img).await?;
        report(FETCHED_PERCENT);

        let converted = staged(store, "image").await?;
        let convert = self.qemu_img.convert(fetched_file.path(), request.format, converted.path(), |part| {
            let rest = u16::from(100 - FETCHED_PERCENT) * u16::from(part) / 100;
            report(FETCHED_PERCENT + u8::try_from(rest).unwrap_or_default());
        });
        convert.await.map_err(ImportError::Convert)?;
        drop(fetched_file);

        let lock = self.turns.lock(store).await?;
        let (store, uid, sha256) = (store.clone(), request.uid.clone(), fetched.sha256.clone());
        let publish = spawn_blocking(move || {
            let content = store.content(&sha256);
            // The same bytes convert to the same image: the one that is there already may be in use.
            if !content.exists() {
                converted.publish(&content, CONTENT_MODE, &lock)?;
            }
            store.link(&uid, &sha256, &lock)
        });
        finished("publish an image", publish.await)?;
        report(100);
        Ok(StoredImage { sha256: fetched.sha256, virtual_size: Quantity::from_bytes(virtual_size) })
    }

    async fn open_source(&self, request: &ImageRequest) -> Result<Source, ImportError> {
        match (&request.source.http, &request.source.file) {
            (Some(http), None) => Ok(self.web.open(&http.url).await?),
            (None, Some(file)) => {
                let (import_dir, namespace, name) =
                    (self.import_dir.clone(), request.namespace.clone(), file.name.clone());
                let opened = spawn_blocking(move || fetch::file::open(&import_dir, &namespace, &name)).await;
                let opened =
                    opened.map_err(|error| StoreError::new("open the source", std::io::Error::other(error)))?;
                Ok(opened?)
            }
            _ => Err(ImportError::NoSource),
        }
    }
}

/// An empty file in the making.
pub async fn staged(store: &Store, what: &'static str) -> Result<Staged, StoreError> {
    let store = store.clone();
    finished("make a file", spawn_blocking(move || Staged::new(&store, what)).await)
}

/// The result of work on another thread.
pub fn finished<T>(
    doing: &'static str,
    joined: Result<Result<T, StoreError>, tokio::task::JoinError>,
) -> Result<T, StoreError> {
    joined.unwrap_or_else(|error| Err(StoreError::new(doing, std::io::Error::other(error))))
}

/// The size of the disk that a content holds.
pub fn virtual_size(content: &Path) -> Result<u64, StoreError> {
    let header = qcow2::read_header(content).map_err(|error| StoreError::new("read an image's header", error))?;
    header.map(|header| header.virtual_size).map_err(|refused| {
        StoreError::new("read an image's header", std::io::Error::new(std::io::ErrorKind::InvalidData, refused))
    })
}
