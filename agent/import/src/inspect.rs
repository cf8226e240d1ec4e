//! Whether a fetched source is what it is claimed to be, and complete in itself. Our own look comes first;
//! qemu-img sees only what has passed it.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use ucloud_agent_core::HostError;
use ucloud_types::{
    Quantity,
    image::{Compression, ImageFormat},
};

use crate::{
    error::StoreError,
    format::{self, Detected},
    header::{self, LookError},
    qcow2::{self, Header},
    qemu_img::{QemuImg, QemuImgError, Source},
    summary::summary,
    vdi, vhdx, vmdk,
};

/// Why a source is not made an image.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// It is of another format than it is claimed to be.
    #[error("it is claimed to be {claimed}, and is {found}; make a new image with the right spec.format")]
    Format {
        /// The claim.
        claimed: &'static str,
        /// The truth.
        found: Detected,
    },
    /// It is compressed, and is not claimed to be.
    #[error("it is compressed with {0}; make a new image with spec.compression: {0}")]
    Compressed(&'static str),
    /// It is compressed more often than it is claimed to be.
    #[error("what it unpacks to is compressed with {0} again; unpack it once before it is published")]
    CompressedAgain(&'static str),
    /// It holds nothing.
    #[error("it is empty")]
    Empty,
    /// A raw disk is larger than disks may be.
    #[error("its disk has {0}, and {1} is the most that is accepted")]
    TooLarge(Quantity, Quantity),
    /// Its header says that it is no whole image.
    #[error(transparent)]
    Qcow2(#[from] qcow2::Refused),
    /// The same, of a vmdk, vhdx or vdi.
    #[error(transparent)]
    Header(#[from] header::Refused),
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
            Self::Format { .. } | Self::Compressed(_) | Self::CompressedAgain(_) => {
                HostError::terminal("FormatMismatch", message).caused_by(self)
            }
            Self::Store(error) => error.reported(act),
            Self::Unrunnable(error) => HostError::retryable("ImportFailed", message).caused_by(error),
            _ => HostError::terminal("ImageRefused", message).caused_by(self),
        }
    }
}

impl From<LookError> for InspectError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Refused(refused) => Self::Header(refused),
            LookError::Store(error) => Self::Store(error),
        }
    }
}

/// What a source is claimed to be.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Its format.
    pub format: ImageFormat,
    /// How it was compressed before it was unpacked.
    pub compression: Option<Compression>,
}

/// The size in bytes of the disk that `source`, unpacked, holds, once all is found to be well.
pub async fn inspect(source: &Path, claim: Claim, max_disk: Quantity, qemu_img: &QemuImg) -> Result<u64, InspectError> {
    let path = source.to_owned();
    let looked = tokio::task::spawn_blocking(move || {
        let file = File::open(path).map_err(|error| StoreError::new("read the source", error))?;
        look(&file, claim, max_disk)
    })
    .await;
    let virtual_size = looked.map_err(|error| StoreError::new("read the source", io::Error::other(error)))??;
    confirm(Source::File(source), claim.format, virtual_size, qemu_img).await?;
    check_tables(Source::File(source), claim.format, qemu_img).await?;
    Ok(virtual_size)
}

/// Whether qemu-img sees what we have seen.
pub async fn confirm(
    source: Source<'_>,
    format: ImageFormat,
    virtual_size: u64,
    qemu_img: &QemuImg,
) -> Result<(), InspectError> {
    let served = matches!(source, Source::Socket(_));
    let info = qemu_img.info(source, format).await.map_err(|error| judged(error, served))?;
    if info.backing_filename.is_some() || info.virtual_size != virtual_size {
        return Err(InspectError::Ambiguous);
    }
    Ok(())
}

/// Whether the tables of the source are sound.
pub async fn check_tables(source: Source<'_>, format: ImageFormat, qemu_img: &QemuImg) -> Result<(), InspectError> {
    match format {
        ImageFormat::Qcow2 | ImageFormat::Vhdx | ImageFormat::Vdi => {
            let served = matches!(source, Source::Socket(_));
            qemu_img.check(source, format).await.map_err(|error| judged(error, served))
        }
        // Those of a vmdk were followed already, and raw files have none.
        ImageFormat::Vmdk | ImageFormat::Raw => Ok(()),
    }
}

/// Whether it is the image's fault. What is `served` by a pool may come slowly, through no fault of its own.
fn judged(error: QemuImgError, served: bool) -> InspectError {
    match error {
        QemuImgError::Unrunnable(_) | QemuImgError::Sandbox(_) | QemuImgError::Full => InspectError::Unrunnable(error),
        QemuImgError::TooSlow if served => InspectError::Unrunnable(error),
        _ => InspectError::QemuImg(error),
    }
}

/// The ends of a source, which say of what format it is.
#[derive(Debug)]
pub struct Ends {
    /// How many bytes it has.
    pub size: u64,
    /// The first of them: [`Ends::HEAD`], or all.
    pub head: Vec<u8>,
    /// The last of them: [`Ends::TAIL`], or all.
    pub tail: Vec<u8>,
}

impl Ends {
    /// So many of the first bytes are looked at.
    pub const HEAD: u64 = qcow2::HEADER_AREA;
    /// So many of the last.
    pub const TAIL: u64 = format::TAIL as u64;

    /// Those of a file.
    pub fn of(mut file: &File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        let mut ends = Self { size, head: Vec::new(), tail: Vec::new() };
        file.seek(SeekFrom::Start(0))?;
        file.take(Self::HEAD).read_to_end(&mut ends.head)?;
        file.seek(SeekFrom::Start(size.saturating_sub(Self::TAIL)))?;
        file.read_to_end(&mut ends.tail)?;
        Ok(ends)
    }

    /// Whether they are those of what is claimed.
    fn check(&self, claim: Claim) -> Result<(), InspectError> {
        if self.size == 0 {
            return Err(InspectError::Empty);
        }
        match format::detect(&self.head[..self.head.len().min(format::HEAD)], &self.tail) {
            Detected::Image(found) if found == claim.format => Ok(()),
            Detected::Compressed(found) => {
                let again = claim.compression.is_some();
                let error = if again { InspectError::CompressedAgain } else { InspectError::Compressed };
                Err(error(found.as_str()))
            }
            found => Err(InspectError::Format { claimed: claim.format.as_str(), found }),
        }
    }
}

/// Our own look.
fn look(file: &File, claim: Claim, max_disk: Quantity) -> Result<u64, InspectError> {
    let ends = Ends::of(file).map_err(|error| StoreError::new("read the source", error))?;
    ends.check(claim)?;
    let (size, max) = (ends.size, max_disk.bytes());
    let virtual_size = match claim.format {
        ImageFormat::Raw => return raw_size(size, max_disk),
        ImageFormat::Qcow2 => return qcow2_size(&ends, max_disk),
        ImageFormat::Vmdk => vmdk::check(file, size, max)?,
        ImageFormat::Vhdx => vhdx::check(file, size, max)?,
        ImageFormat::Vdi => vdi::check(file, size, max)?,
    };
    Ok(whole_sectors(virtual_size))
}

/// All that a raw disk needs, in which QEMU would read nothing.
pub fn look_raw(ends: &Ends, claim: Claim, max_disk: Quantity) -> Result<u64, InspectError> {
    ends.check(claim)?;
    raw_size(ends.size, max_disk)
}

/// Our own look at a qcow2 file, of which the header tells all that we want to know.
pub fn look_qcow2(ends: &Ends, claim: Claim, max_disk: Quantity) -> Result<u64, InspectError> {
    ends.check(claim)?;
    qcow2_size(ends, max_disk)
}

fn qcow2_size(ends: &Ends, max_disk: Quantity) -> Result<u64, InspectError> {
    let header = Header::parse(&ends.head)?;
    header.check_complete(ends.size, max_disk.bytes())?;
    Ok(whole_sectors(header.virtual_size))
}

/// Disks are made of sectors.
fn whole_sectors(size: u64) -> u64 {
    size.next_multiple_of(512)
}

fn raw_size(size: u64, max_disk: Quantity) -> Result<u64, InspectError> {
    if size > max_disk.bytes() {
        return Err(InspectError::TooLarge(Quantity::from_bytes(size), max_disk));
    }
    Ok(whole_sectors(size))
}
