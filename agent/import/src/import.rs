//! Importing an image: fetch, check, inspect; converting and publishing are up to the pool.
//!
//! The bytes are always fetched, unless they are here, also when a content with the claimed checksum is there already: to know a
//! checksum is not to have the right to the bytes.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Seek as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::{io::AsyncRead, sync::watch, task::spawn_blocking};
use ucloud_agent_core::{
    HostError,
    block_store::{ImageRequest, SnapshotRequest},
    file_store::FileRequest,
};
use ucloud_types::{
    Quantity,
    image::{ImageFormat, Sha256},
};

use crate::{
    address::AddressPolicy,
    config::ImportConfig,
    error::StoreError,
    fetch::{self, FetchError, Origin, web::Web},
    hashed::Hashed,
    inspect::{Claim, Ends, InspectError, check_tables, confirm, inspect, look_qcow2, look_raw},
    qemu_img::{Conversion, QemuImg, QemuImgError, Source, Target},
    summary::summary,
};

const BUFFER: usize = 1 << 20;
/// How much of the progress is the fetching; the rest is the converting.
const FETCHED_PERCENT: u8 = 80;

/// Why an image was not imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It names no source.
    #[error("it has no source; set spec.source.http, spec.source.file or spec.source.upload")]
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

/// What a snapshot does, for messages.
pub fn snapshot_act(SnapshotRequest { pool, disk, image_uid }: &SnapshotRequest) -> String {
    format!("keep disk {} of {} as image {image_uid} in pool {}", disk.name, disk.owner_uid, pool.name)
}

impl ImportError {
    /// As an answer to a caller; `act` is what could not be done.
    pub fn reported(self, act: &str) -> HostError {
        let message = format!("cannot {act}: {}", summary(&self));
        match self {
            Self::NoSource => HostError::terminal("SourceRefused", message),
            Self::Fetch(error) => error.reported(act),
            Self::Inspect(error) => error.reported(act),
            Self::Store(error) => error.reported(act),
            Self::Convert(QemuImgError::Full) => StoreError::Full.reported(act),
            Self::Checksum { .. } => HostError::terminal("ChecksumMismatch", message),
            Self::Convert(QemuImgError::TooMuchData(_)) => HostError::terminal("ImageTooLarge", message),
            Self::Convert(QemuImgError::Unreadable(_)) => HostError::terminal("ImageRefused", message).caused_by(self),
            Self::Convert(_) => HostError::retryable("ImportFailed", message).caused_by(self),
        }
    }
}

/// Opens Files, whichever host keeps them.
#[async_trait]
pub trait OpenUpload: Send + Sync {
    /// The bytes of the complete File of this name.
    async fn open(&self, namespace: &str, file: &str) -> Result<Uploaded, HostError>;

    /// Where the complete File of this name is, if it is one of this host's. Nobody writes to it any more.
    async fn kept(&self, namespace: &str, file: &str) -> Result<Option<Kept>, HostError>;
}

/// Where a File is that need not be fetched.
#[derive(Debug)]
pub enum Kept {
    /// In this file.
    Here(File),
    /// In its pool, which every host sees.
    InPool(FileRequest),
}

/// A File that was opened.
pub struct Uploaded {
    /// How many bytes it has.
    pub size: u64,
    /// Their checksum.
    pub sha256: Sha256,
    /// The bytes.
    pub bytes: Box<dyn AsyncRead + Send + Unpin>,
}

/// Fetches, checks, inspects and converts images, for every kind of pool.
pub struct Importer {
    import_dir: PathBuf,
    qemu_img: QemuImg,
    web: Web,
    uploads: Option<Arc<dyn OpenUpload>>,
    max_source: Quantity,
    max_disk: Quantity,
}

/// Why nothing can be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImporterError {
    /// The client for downloads cannot be made.
    #[error("cannot set up downloads; are the host's root certificates (ca-certificates) installed?")]
    Web(#[source] reqwest::Error),
}

/// A source that was fetched and found to be well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspected {
    /// Its checksum.
    pub sha256: Sha256,
    /// The size in bytes of the disk that it holds.
    pub virtual_size: u64,
}

/// Tells how far an import is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a>(pub &'a watch::Sender<u8>);

impl Progress<'_> {
    /// So many percent of all are done.
    pub fn report(self, now: u8) {
        self.0.send_if_modified(|percent| {
            let changed = *percent != now;
            *percent = now;
            changed
        });
    }

    /// So many percent of what comes after the fetching are done.
    pub fn report_rest(self, part: u8) {
        let rest = u16::from(100 - FETCHED_PERCENT) * u16::from(part.min(100)) / 100;
        self.report(FETCHED_PERCENT + u8::try_from(rest).unwrap_or_default());
    }
}

impl Importer {
    /// The importer of this host.
    pub fn new(config: ImportConfig) -> Result<Self, ImporterError> {
        let ImportConfig { import_dir, qemu_img, denied, allowed, max_source, max_disk } = config;
        Ok(Self {
            import_dir,
            qemu_img: QemuImg(qemu_img),
            web: Web::new(AddressPolicy { denied, allowed }).map_err(ImporterError::Web)?,
            uploads: None,
            max_source,
            max_disk,
        })
    }

    /// Imports what was uploaded as well.
    #[must_use]
    pub fn with_uploads(self, uploads: Arc<dyn OpenUpload>) -> Self {
        Self { uploads: Some(uploads), ..self }
    }

    /// qemu-img, as it is run on this host.
    pub fn qemu_img(&self) -> &QemuImg {
        &self.qemu_img
    }

    /// Converts what was fetched and found to be well.
    pub async fn convert(
        &self,
        format: ImageFormat,
        found: &Inspected,
        from: Source<'_>,
        to: Target<'_>,
        percent: impl FnMut(u8),
    ) -> Result<(), ImportError> {
        let (virtual_size, max_data) = (found.virtual_size, self.max_source);
        let conversion = Conversion { from, format, backing: None, to, virtual_size, max_data };
        self.qemu_img.convert(conversion, percent).await.map_err(ImportError::Convert)
    }

    /// Whether so much data may be in an image.
    pub fn check_data(&self, size: u64) -> Result<(), ImportError> {
        if size > self.max_source.bytes() {
            return Err(ImportError::Convert(QemuImgError::TooMuchData(self.max_source)));
        }
        Ok(())
    }

    /// Copies a disk of ours, a qcow2 file that no VM uses, with what it is a clone of, into the file `to`, which is there and
    /// empty: it becomes a qcow2 file that is complete in itself. (A guest may have written what it likes into the disk.)
    pub async fn copy_disk(
        &self,
        disk: &Path,
        backing: Option<&Path>,
        virtual_size: u64,
        to: &Path,
    ) -> Result<(), QemuImgError> {
        let (format, max_data) = (ImageFormat::Qcow2, self.max_source);
        let (from, to) = (Source::File(disk), Target::File(to, ImageFormat::Qcow2));
        let conversion = Conversion { from, format, backing, to, virtual_size, max_data };
        self.qemu_img.convert(conversion, |_| {}).await
    }

    /// A size that a disk may have, rounded up to what disks are made of; none if it is too large.
    pub fn whole_sectors(&self, size: u64) -> Result<u64, TooLarge> {
        if size > self.max_disk.bytes() {
            return Err(TooLarge(Quantity::from_bytes(size), self.max_disk));
        }
        Ok(size.next_multiple_of(512))
    }

    /// Fetches the source of an image into the empty file `path`, opened as `file`, and checks and inspects it.
    pub async fn fetch(
        &self,
        request: &ImageRequest,
        file: tokio::fs::File,
        path: &Path,
        progress: Progress<'_>,
    ) -> Result<Inspected, ImportError> {
        progress.report(0);
        let source = self.open_source(request).await?;
        let total = source.size;
        let uploaded = match &source.bytes {
            Origin::Upload(_, sha256) => Some((sha256.clone(), source.name.clone())),
            Origin::Web(_) | Origin::File(_) => None,
        };
        let fetched = source
            .store(file, request.compression, self.max_source, |received| {
                if let Some(total) = total.filter(|total| *total > 0) {
                    let part = received.min(total) * u64::from(FETCHED_PERCENT) / total;
                    progress.report(u8::try_from(part).unwrap_or(FETCHED_PERCENT));
                }
            })
            .await?;
        if let Some((sha256, name)) = uploaded
            && sha256 != fetched.sha256
        {
            // It may have been deleted meanwhile: of what is gone, Ceph gives zeros
            let source = io::Error::other("other bytes came than were uploaded");
            return Err(FetchError::UploadBroke { name, source }.into());
        }
        check_sum(request, &fetched.sha256)?;
        let virtual_size = inspect(path, claim(request), self.max_disk, &self.qemu_img).await?;
        progress.report(FETCHED_PERCENT);
        Ok(Inspected { sha256: fetched.sha256, virtual_size })
    }

    /// Where a source is that need not be fetched, because it is a File of this host: a raw one, or a qcow2 file in a pool. What else
    /// is in files is read in a sandbox, whose user has the file meanwhile, and so gets a file of its own.
    pub async fn kept(&self, request: &ImageRequest) -> Result<Option<Kept>, ImportError> {
        let (Some(uploads), Some(upload)) = (&self.uploads, &request.source.upload) else { return Ok(None) };
        if request.compression.is_some() || !matches!(request.format, ImageFormat::Raw | ImageFormat::Qcow2) {
            return Ok(None);
        }
        let kept = uploads.kept(&request.namespace, &upload.file).await.map_err(FetchError::Upload)?;
        Ok(kept.filter(|kept| request.format == ImageFormat::Raw || matches!(kept, Kept::InPool(_))))
    }

    /// Checks and inspects a raw source that is in a file which nobody writes to.
    pub async fn inspect_here(
        &self,
        request: &ImageRequest,
        file: File,
        progress: Progress<'_>,
    ) -> Result<(File, Inspected), ImportError> {
        let unread = |error| StoreError::new("read the source", error);
        let summed = spawn_blocking(move || -> io::Result<_> {
            // What others will take for the bytes of this checksum must have it
            let sha256 = sum(&file)?;
            let ends = Ends::of(&file)?;
            Ok((file, sha256, ends))
        });
        let (file, sha256, ends) = summed.await.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(unread)?;
        let found = self.inspect_raw(request, sha256, &ends)?;
        progress.report(FETCHED_PERCENT);
        Ok((file, found))
    }

    /// Checks and inspects a raw source with this checksum and these ends: in the rest of it nothing is read.
    pub fn inspect_raw(&self, request: &ImageRequest, sha256: Sha256, ends: &Ends) -> Result<Inspected, ImportError> {
        self.look(request, sha256, ends, look_raw)
    }

    /// Our own look at a qcow2 source with this checksum and these ends. What [`Self::confirm`] and [`Self::check_tables`] do
    /// comes next.
    pub fn look_qcow2(&self, request: &ImageRequest, sha256: Sha256, ends: &Ends) -> Result<Inspected, ImportError> {
        self.look(request, sha256, ends, look_qcow2)
    }

    fn look(
        &self,
        request: &ImageRequest,
        sha256: Sha256,
        ends: &Ends,
        look: impl FnOnce(&Ends, Claim, Quantity) -> Result<u64, InspectError>,
    ) -> Result<Inspected, ImportError> {
        if ends.size > self.max_source.bytes() {
            return Err(FetchError::TooLarge(self.max_source).into());
        }
        let virtual_size = look(ends, claim(request), self.max_disk)?;
        check_sum(request, &sha256)?;
        Ok(Inspected { sha256, virtual_size })
    }

    /// Whether qemu-img sees in a source what we have seen.
    pub async fn confirm(&self, format: ImageFormat, found: &Inspected, source: OwnedFd) -> Result<(), ImportError> {
        Ok(confirm(Source::Socket(source), format, found.virtual_size, &self.qemu_img).await?)
    }

    /// Whether the tables of a source are sound.
    pub async fn check_tables(&self, format: ImageFormat, source: OwnedFd) -> Result<(), ImportError> {
        Ok(check_tables(Source::Socket(source), format, &self.qemu_img).await?)
    }

    async fn open_source(&self, request: &ImageRequest) -> Result<fetch::Source, ImportError> {
        let source = &request.source;
        match (&source.http, &source.file, &source.upload) {
            (Some(http), None, None) => Ok(self.web.open(&http.url).await?),
            (None, None, Some(upload)) => {
                let Some(uploads) = &self.uploads else { return Err(ImportError::NoSource) };
                let opened = uploads.open(&request.namespace, &upload.file).await.map_err(FetchError::Upload)?;
                let name = format!("{}/{}", request.namespace, upload.file);
                Ok(fetch::Source { size: Some(opened.size), name, bytes: Origin::Upload(opened.bytes, opened.sha256) })
            }
            (None, Some(file), None) => {
                let (import_dir, namespace, name) =
                    (self.import_dir.clone(), request.namespace.clone(), file.name.clone());
                let opened = spawn_blocking(move || fetch::file::open(&import_dir, &namespace, &name)).await;
                let opened = opened.map_err(|error| StoreError::new("open the source", io::Error::other(error)))?;
                Ok(opened?)
            }
            _ => Err(ImportError::NoSource),
        }
    }
}

/// The checksum of a file.
fn sum(mut file: &File) -> io::Result<Sha256> {
    let mut hashed = Hashed::default();
    file.rewind()?;
    let mut reader = BufReader::with_capacity(BUFFER, file);
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        hashed.update(bytes);
        let count = bytes.len();
        reader.consume(count);
    }
    Ok(hashed.finish())
}

fn check_sum(request: &ImageRequest, found: &Sha256) -> Result<(), ImportError> {
    match request.checksum.clone().filter(|claimed| claimed != found) {
        Some(claimed) => Err(ImportError::Checksum { claimed, found: found.clone() }),
        None => Ok(()),
    }
}

fn claim(request: &ImageRequest) -> Claim {
    Claim { format: request.format, compression: request.compression }
}

/// A disk is larger than disks may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its size {0} is more than {1}, the most that a disk may have")]
pub struct TooLarge(pub Quantity, pub Quantity);

/// The result of work on another thread.
pub fn finished<T>(
    doing: &'static str,
    joined: Result<Result<T, StoreError>, tokio::task::JoinError>,
) -> Result<T, StoreError> {
    joined.unwrap_or_else(|error| Err(StoreError::new(doing, io::Error::other(error))))
}
