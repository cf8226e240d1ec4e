//! Whether a fetched source is what it is claimed to be, and complete in itself. Our own look comes first;
//! qemu-img sees only what has passed it.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use ucloud_agent_core::HostError;
use ucloud_types::{Quantity, image::ImageFormat};

use crate::{
    error::StoreError,
    format::{self, Detected},
    qcow2::{self, Header},
    qemu_img::{QemuImg, QemuImgError},
    summary::summary,
};

/// Why a source is not made an image.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is of another format than it is claimed to be.
    #[error("it is claimed to be {claimed}, and is {found}")]
    Format {
        /// The claim.
        claimed: &'static str,
        /// The truth.
        found: Detected,
    },
    /// It holds nothing.
    #[error("it is empty")]
    Empty,
    /// A raw disk is larger than disks may be.
    #[error("its disk has {0}, and {1} is the most that is accepted")]
    TooLarge(Quantity, Quantity),
    /// Its header says that it is no whole image.
    #[error(transparent)]
    Header(#[from] qcow2::Refused),
    /// QEMU sees it otherwise than we do.
    #[error("its header is ambiguous")]
    Ambiguous,
    /// qemu-img refuses it.
    #[error("it is broken or cut off")]
    QemuImg(#[source] QemuImgError),
    /// qemu-img cannot be run.
    #[error(transparent)]
    Unrunnable(QemuImgError),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl InspectError {
    /// As an answer to a caller; `act` is what could not be done.
    pub fn reported(self, act: &str) -> HostError {
        let message = format!("cannot {act}: {}", summary(&self));
        match self {
            Self::Format { .. } => HostError::terminal("FormatMismatch", message).caused_by(self),
            Self::Store(error) => error.reported(act),
            Self::Unrunnable(error) => HostError::retryable("ImportFailed", message).caused_by(error),
            _ => HostError::terminal("ImageRefused", message).caused_by(self),
        }
    }
}

/// The size in bytes of the disk that `source` holds, once all is found to be well.
pub async fn inspect(
    source: &Path,
    claimed: ImageFormat,
    max_disk: Quantity,
    qemu_img: &QemuImg,
) -> Result<u64, InspectError> {
    let path = source.to_owned();
    let looked = tokio::task::spawn_blocking(move || look(&path, claimed, max_disk)).await;
    let virtual_size = looked.map_err(|error| StoreError::new("read the source", io::Error::other(error)))??;
    let info = qemu_img.info(source, claimed).await.map_err(judged)?;
    if info.backing_filename.is_some() || info.virtual_size != virtual_size {
        return Err(InspectError::Ambiguous);
    }
    if claimed == ImageFormat::Qcow2 {
        qemu_img.check(source).await.map_err(judged)?;
    }
    Ok(virtual_size)
}

fn judged(error: QemuImgError) -> InspectError {
    match error {
        QemuImgError::Unrunnable(_) | QemuImgError::Full => InspectError::Unrunnable(error),
        _ => InspectError::QemuImg(error),
    }
}

fn look(source: &Path, claimed: ImageFormat, max_disk: Quantity) -> Result<u64, InspectError> {
    let read = |error| StoreError::new("read the source", error);
    let mut file = File::open(source).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let mut head = Vec::new();
    (&mut file).take(qcow2::HEADER_AREA).read_to_end(&mut head).map_err(read)?;
    let mut tail = Vec::new();
    file.seek(SeekFrom::Start(size.saturating_sub(format::TAIL as u64))).map_err(read)?;
    file.read_to_end(&mut tail).map_err(read)?;

    if size == 0 {
        return Err(InspectError::Empty);
    }
    let found = format::detect(&head[..head.len().min(format::HEAD)], &tail);
    if found != Detected::Image(claimed) {
        return Err(InspectError::Format { claimed: claimed.as_str(), found });
    }
    match claimed {
        ImageFormat::Qcow2 => {
            let header = Header::parse(&head)?;
            header.check_complete(size, max_disk.bytes())?;
            // Disks are made of sectors.
            Ok(header.virtual_size.next_multiple_of(512))
        }
        ImageFormat::Raw if size > max_disk.bytes() => {
            Err(InspectError::TooLarge(Quantity::from_bytes(size), max_disk))
        }
        ImageFormat::Raw => Ok(size.next_multiple_of(512)),
    }
}
