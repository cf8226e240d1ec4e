//! The header of a qcow2 file, as far as it decides whether the file may be opened at all: read by ourselves,
//! before any QEMU program sees the file (format: docs/interop/qcow2.txt in QEMU's sources).

mod disk;

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

pub use disk::{Disk, DiskError};

/// The first bytes of every qcow2 file.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// How much of the file [`Header::parse`] wants to see.
pub const HEADER_AREA: u64 = 64 * 1024;

const V3_LENGTH: usize = 104;
/// QEMU's own limit (QCOW_MAX_L1_SIZE).
const MAX_L1_BYTES: u64 = 32 << 20;
/// QEMU's own limit (QCOW_MAX_REFTABLE_SIZE).
const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
const MAX_SNAPSHOTS: u32 = 65536;

const CORRUPT: u64 = 1 << 1;
const DATA_FILE: u64 = 1 << 2;
const EXTENDED_L2: u64 = 1 << 4;
/// Dirty, compression type and extended L2 entries: what QEMU copes with on its own.
const HARMLESS: u64 = 1 | 1 << 3 | EXTENDED_L2;

const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

/// What a header says.
#[allow(clippy::struct_excessive_bools, reason = "the format has as many flags, each for itself")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The size of the disk, in bytes.
    pub virtual_size: u64,
    /// The name of the backing file, as it is written there.
    pub backing: Option<Vec<u8>>,
    cluster_size: u64,
    encrypted: bool,
    corrupt: bool,
    data_file: bool,
    unknown_features: u64,
    extended_l2: bool,
    l1_offset: u64,
    l1_bytes: u64,
    refcount_offset: u64,
    refcount_bytes: u64,
    snapshots: u32,
}

/// Why a file is not taken for an image that is complete in itself.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    /// It ends before its header does.
    #[error("it is cut off within its header")]
    Truncated,
    /// It does not begin as a qcow2 file does.
    #[error("it is not a qcow2 file")]
    NoQcow2,
    /// Not 2 or 3.
    #[error("it is of qcow2 version {0}; 2 and 3 are known")]
    Version(u32),
    /// A field of the header has a value that no writer gives it.
    #[error("its header is broken: {0}")]
    Broken(&'static str),
    /// It is a clone of another file.
    #[error("it needs a backing file; flatten it with qemu-img convert")]
    BackingFile,
    /// Its data are in another file.
    #[error("its data are in an external file; put them into one with qemu-img convert")]
    DataFile,
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// It is marked as corrupt.
    #[error("it is marked as corrupt; repair it with qemu-img check -r all")]
    Corrupt,
    /// It needs what is not known here.
    #[error("it needs features that are not known here (bits {0:#x})")]
    UnknownFeatures(u64),
    /// The disk that it holds is too large, or has no size.
    #[error("its disk has {size} bytes; 1 to {limit} are accepted")]
    Size {
        /// Its size.
        size: u64,
        /// The largest.
        limit: u64,
    },
    /// It has what qemu-img gives no disk that it makes for us.
    #[error("it has {0}, which no disk of ours has")]
    NotOurs(&'static str),
    /// A table lies outside of the file: it was cut off, or is a bomb.
    #[error("its {0} does not lie within the file: it is cut off or broken")]
    OutsideOfFile(&'static str),
}

/// Reads the header of the file at `path`.
pub fn read_header(path: &Path) -> io::Result<Result<Header, Refused>> {
    parse_header(&File::open(path)?)
}

fn parse_header(file: &File) -> io::Result<Result<Header, Refused>> {
    let mut area = Vec::new();
    file.take(HEADER_AREA).read_to_end(&mut area)?;
    Ok(Header::parse(&area))
}

/// Big-endian fields at offsets.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> Result<u32, Refused> {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).ok_or(Refused::Truncated)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn u64(&self, at: usize) -> Result<u64, Refused> {
        Ok(u64::from(self.u32(at)?) << 32 | u64::from(self.u32(at + 4)?))
    }
}

impl Header {
    /// Reads the header from the first [`HEADER_AREA`] bytes of a file, or all of a smaller one.
    pub fn parse(area: &[u8]) -> Result<Self, Refused> {
        if !area.starts_with(&MAGIC) {
            return Err(Refused::NoQcow2);
        }
        let fields = Fields(area);
        let version = fields.u32(4)?;
        let cluster_bits = fields.u32(20)?;
        if !matches!(version, 2 | 3) {
            return Err(Refused::Version(version));
        }
        if !(9..=21).contains(&cluster_bits) {
            return Err(Refused::Broken("the size of its clusters"));
        }
        let cluster_size = 1 << cluster_bits;
        let (incompatible, length) = match version {
            2 => (0, 72),
            _ => (fields.u64(72)?, fields.u32(100)? as usize),
        };
        if version == 3 && (length < V3_LENGTH || !length.is_multiple_of(8) || length as u64 > cluster_size) {
            return Err(Refused::Broken("its length"));
        }
        let extensions = extensions(&fields, length)?;
        Ok(Self {
            virtual_size: fields.u64(24)?,
            backing: backing(&fields)?,
            cluster_size,
            encrypted: fields.u32(32)? != 0 || extensions.contains(&EXTENSION_ENCRYPTION),
            corrupt: incompatible & CORRUPT != 0,
            data_file: incompatible & DATA_FILE != 0 || extensions.contains(&EXTENSION_DATA_FILE),
            unknown_features: incompatible & !(CORRUPT | DATA_FILE | HARMLESS),
            extended_l2: incompatible & EXTENDED_L2 != 0,
            l1_offset: fields.u64(40)?,
            l1_bytes: u64::from(fields.u32(36)?) * 8,
            refcount_offset: fields.u64(48)?,
            refcount_bytes: u64::from(fields.u32(56)?) * cluster_size,
            snapshots: fields.u32(60)?,
        })
    }

    /// Whether a file of `file_size` bytes with this header is whole, needs no other file, and holds a disk of
    /// at most `max_disk` bytes.
    pub fn check_complete(&self, file_size: u64, max_disk: u64) -> Result<(), Refused> {
        self.check_sound()?;
        if self.backing.is_some() {
            return Err(Refused::BackingFile);
        }
        if self.virtual_size == 0 || self.virtual_size > max_disk {
            return Err(Refused::Size { size: self.virtual_size, limit: max_disk });
        }
        let lies_within = |offset: u64, bytes: u64| offset.checked_add(bytes).is_some_and(|end| end <= file_size);
        // Each entry stands for one cluster of entries of eight bytes (sixteen with extended L2 entries).
        let needed = self.virtual_size.div_ceil(self.cluster_size * (self.cluster_size / 8)) * 8;
        if self.l1_bytes < needed || self.l1_bytes > MAX_L1_BYTES {
            return Err(Refused::Broken("the size of its L1 table"));
        }
        if !self.l1_offset.is_multiple_of(self.cluster_size) || !lies_within(self.l1_offset, self.l1_bytes) {
            return Err(Refused::OutsideOfFile("L1 table"));
        }
        if self.refcount_bytes == 0 || self.refcount_bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(Refused::Broken("the size of its refcount table"));
        }
        if !self.refcount_offset.is_multiple_of(self.cluster_size)
            || !lies_within(self.refcount_offset, self.refcount_bytes)
        {
            return Err(Refused::OutsideOfFile("refcount table"));
        }
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(Refused::Broken("the number of its snapshots"));
        }
        Ok(())
    }

    /// Whether the file may be opened at all: all that matters of a file of our own making that others have
    /// written to.
    pub fn check_sound(&self) -> Result<(), Refused> {
        match self {
            Self { data_file: true, .. } => Err(Refused::DataFile),
            Self { encrypted: true, .. } => Err(Refused::Encrypted),
            Self { corrupt: true, .. } => Err(Refused::Corrupt),
            Self { unknown_features: 1.., .. } => Err(Refused::UnknownFeatures(self.unknown_features)),
            _ => Ok(()),
        }
    }
}

fn backing(fields: &Fields<'_>) -> Result<Option<Vec<u8>>, Refused> {
    let (offset, length) = (fields.u64(8)?, fields.u32(16)?);
    if offset == 0 && length == 0 {
        return Ok(None);
    }
    let start = usize::try_from(offset).ok();
    let end = start.and_then(|start| start.checked_add(length as usize));
    match start.zip(end).and_then(|(start, end)| fields.0.get(start..end)) {
        Some(name) if length <= 1023 => Ok(Some(name.to_owned())),
        _ => Err(Refused::Broken("the name of its backing file")),
    }
}

/// The types of the header extensions, which follow the header and end with one of type 0.
fn extensions(fields: &Fields<'_>, header_length: usize) -> Result<Vec<u32>, Refused> {
    let broken = Refused::Broken("its header extensions");
    let mut types = Vec::new();
    let mut at = header_length;
    loop {
        match fields.u32(at)? {
            0 => return Ok(types),
            kind => types.push(kind),
        }
        let length = fields.u32(at + 4)? as usize;
        at = length
            .checked_next_multiple_of(8)
            .and_then(|length| at.checked_add(8)?.checked_add(length))
            .ok_or(broken.clone())?;
        if at >= fields.0.len() {
            return Err(broken);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_SIZE: u64 = 4 * 65536;
    const MAX: u64 = 1 << 40;

    /// A whole version 3 file of four clusters that holds a disk of 1 MiB.
    fn area() -> Vec<u8> {
        let mut area = vec![0; 65536];
        area[..4].copy_from_slice(&MAGIC);
        put32(&mut area, 4, 3);
        put32(&mut area, 20, 16);
        put64(&mut area, 24, 1 << 20);
        put32(&mut area, 36, 1);
        put64(&mut area, 40, 3 * 65536);
        put64(&mut area, 48, 65536);
        put32(&mut area, 56, 1);
        put32(&mut area, 96, 4);
        put32(&mut area, 100, 104);
        area
    }

    fn put32(area: &mut [u8], at: usize, value: u32) {
        area[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    fn put64(area: &mut [u8], at: usize, value: u64) {
        area[at..at + 8].copy_from_slice(&value.to_be_bytes());
    }

    fn check(change: impl FnOnce(&mut Vec<u8>)) -> Result<(), Refused> {
        let mut area = area();
        change(&mut area);
        Header::parse(&area)?.check_complete(FILE_SIZE, MAX)
    }

    #[test]
    fn a_whole_file_is_accepted() {
        assert_eq!(check(|_| {}), Ok(()));
        // Dirty, zstd and extended L2 entries.
        assert_eq!(check(|a| put64(a, 72, 0b11001)), Ok(()));
        // Extensions that are known to be harmless, such as the feature names.
        assert_eq!(
            check(|a| {
                put32(a, 104, 0x6803_f857);
                put32(a, 108, 49);
            }),
            Ok(())
        );
        // Version 2 has none of the later fields.
        assert_eq!(check(|a| put32(a, 4, 2)), Ok(()));
    }

    #[test]
    fn what_names_another_file_is_refused() {
        let backing = |a: &mut Vec<u8>| {
            put64(a, 8, 1024);
            put32(a, 16, 11);
            a[1024..1035].copy_from_slice(b"/etc/shadow");
        };
        assert_eq!(check(backing), Err(Refused::BackingFile));
        let mut with_backing = area();
        backing(&mut with_backing);
        assert_eq!(Header::parse(&with_backing).unwrap().backing.unwrap(), b"/etc/shadow");
        // Neither half of the reference is enough to be taken for none.
        assert_eq!(check(|a| put64(a, 8, 1024)), Err(Refused::BackingFile));
        assert_eq!(check(|a| put32(a, 16, 11)), Err(Refused::BackingFile));
        assert_eq!(check(|a| put64(a, 72, 1 << 2)), Err(Refused::DataFile));
        let extension = |a: &mut Vec<u8>| {
            put32(a, 104, EXTENSION_DATA_FILE);
            put32(a, 108, 11);
        };
        assert_eq!(check(extension), Err(Refused::DataFile));
        // Behind another extension it is found too.
        let second = |a: &mut Vec<u8>| {
            put32(a, 104, 0x6803_f857);
            put32(a, 108, 5);
            put32(a, 120, EXTENSION_DATA_FILE);
        };
        assert_eq!(check(second), Err(Refused::DataFile));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert_eq!(check(|a| a[0] = 0), Err(Refused::NoQcow2));
        assert_eq!(check(|a| put32(a, 4, 1)), Err(Refused::Version(1)));
        assert_eq!(check(|a| put32(a, 4, 4)), Err(Refused::Version(4)));
        assert_eq!(check(|a| put64(a, 72, 1 << 1)), Err(Refused::Corrupt));
        assert_eq!(check(|a| put64(a, 72, 1 << 5)), Err(Refused::UnknownFeatures(1 << 5)));
        assert_eq!(check(|a| put64(a, 72, 1 << 63)), Err(Refused::UnknownFeatures(1 << 63)));
        assert_eq!(check(|a| put32(a, 32, 2)), Err(Refused::Encrypted));
        for (at, value) in [(20, 8), (20, 22), (100, 96), (100, 105), (100, u32::MAX), (16, 1024), (108, u32::MAX)] {
            let result = check(|a| {
                put32(a, 104, 0x6803_f857);
                put32(a, at, value);
            });
            assert!(result.is_err(), "{value} at {at}: {result:?}");
        }
    }

    #[test]
    fn bombs_and_stumps_are_refused() {
        let size = |size| Err(Refused::Size { size, limit: MAX });
        assert_eq!(check(|a| put64(a, 24, 0)), size(0));
        assert_eq!(check(|a| put64(a, 24, MAX + 1)), size(MAX + 1));
        assert_eq!(check(|a| put64(a, 24, u64::MAX)), size(u64::MAX));
        assert_eq!(check(|a| put32(a, 36, 0)), Err(Refused::Broken("the size of its L1 table")));
        assert_eq!(check(|a| put32(a, 36, u32::MAX)), Err(Refused::Broken("the size of its L1 table")));
        assert_eq!(check(|a| put32(a, 36, 8193)), Err(Refused::OutsideOfFile("L1 table")));
        assert_eq!(check(|a| put64(a, 40, FILE_SIZE)), Err(Refused::OutsideOfFile("L1 table")));
        assert_eq!(check(|a| put64(a, 40, u64::MAX - 65535)), Err(Refused::OutsideOfFile("L1 table")));
        assert_eq!(check(|a| put32(a, 56, u32::MAX)), Err(Refused::Broken("the size of its refcount table")));
        assert_eq!(check(|a| put64(a, 48, FILE_SIZE)), Err(Refused::OutsideOfFile("refcount table")));
        assert_eq!(check(|a| put32(a, 60, u32::MAX)), Err(Refused::Broken("the number of its snapshots")));
        let whole = area();
        for length in [4, 8, 71, 80, 103, 107] {
            assert_eq!(Header::parse(&whole[..length]), Err(Refused::Truncated), "{length}");
        }
    }
}
