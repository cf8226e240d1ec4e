//! What the headers of vmdk, vhdx and vdi files have in common: little-endian fields, tables that must lie within the
//! file, and the reasons for which a file is refused. As with [`crate::qcow2`], they are read by ourselves, before any
//! QEMU program sees the file.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use crate::error::StoreError;

/// Why a file is not taken for an image that is complete in itself.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// It ends before its header does.
    #[error("it is cut off within its header")]
    Truncated,
    /// It is of another version.
    #[error("it is of {format} version {version}, which is not known here; convert it with qemu-img convert")]
    Version {
        /// Its format.
        format: &'static str,
        /// The version.
        version: u32,
    },
    /// A field of the header has a value that no writer gives it.
    #[error("its header is broken: {0}")]
    Broken(&'static str),
    /// It is of a kind that is in several files, or needs others.
    #[error("{0}; make one file of them with qemu-img convert -O qcow2")]
    NotAlone(&'static str),
    /// It was not closed.
    #[error("it was not closed properly; repair it with qemu-img check -r all")]
    Unclean,
    /// The disk that it holds is too large, or has no size.
    #[error("its disk has {size} bytes; 1 to {limit} are accepted")]
    Size {
        /// Its size.
        size: u64,
        /// The largest.
        limit: u64,
    },
    /// A table or a part of the data lies outside of the file: it was cut off, or is a bomb.
    #[error("its {0} does not lie within the file: it is cut off or broken")]
    OutsideOfFile(&'static str),
}

/// Why a file could not be looked at, or was refused.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Little-endian fields at offsets.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// So many bytes from `at` on.
    pub fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], Refused> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes.copied().ok_or(Refused::Truncated)
    }

    /// A number of two bytes.
    pub fn u16(&self, at: usize) -> Result<u16, Refused> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    /// A number of four bytes.
    pub fn u32(&self, at: usize) -> Result<u32, Refused> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    /// A number of eight bytes.
    pub fn u64(&self, at: usize) -> Result<u64, Refused> {
        self.bytes(at).map(u64::from_le_bytes)
    }

    /// All numbers of four bytes.
    pub fn all_u32(self) -> impl Iterator<Item = u32> + 'a {
        self.0.as_chunks().0.iter().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

/// The size of a disk, if disks may have it.
pub fn check_size(size: u64, limit: u64) -> Result<u64, Refused> {
    if size == 0 || size > limit { Err(Refused::Size { size, limit }) } else { Ok(size) }
}

/// Whether all `bytes` from `offset` on lie within a file of `file_size`.
pub fn lies_within(file_size: u64, offset: u64, bytes: u64) -> bool {
    offset.checked_add(bytes).is_some_and(|end| end <= file_size)
}

/// Bytes of the file: all of them that there are, at most so many.
pub fn read_at(file: &File, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::new("read the source", error)),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// A file of tests that holds these bytes.
#[cfg(test)]
pub fn file_of(bytes: &[u8]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file
}
