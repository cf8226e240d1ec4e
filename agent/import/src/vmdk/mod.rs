//! VMDK files, as far as it decides whether one may be opened at all (format: VMware's "Virtual Disk Format 5.0", and
//! block/vmdk.c in QEMU's sources).
//!
//! A VMDK may be many files, of which a text names the others by any path. What is accepted is one file that begins with
//! the header of a sparse extent and holds that text, which names no other file: monolithicSparse and streamOptimized. Its
//! tables are followed to the end: behind the end of a file QEMU reads zeros, and so would not find out that it was cut
//! off.

mod descriptor;
mod tables;

use std::fs::File;

use crate::header::{Fields, LookError, Refused, check_size, lies_within, read_at};
use tables::Tables;

/// The mark of every file that is accepted.
pub const MAGIC: [u8; 4] = *b"KDMV";

const SECTOR: u64 = 512;
/// The same, as a length of what was read.
const SECTOR_BYTES: usize = 512;
/// QEMU looks for the text here, whatever the header says; so does everybody who makes such files.
const DESCRIPTOR_SECTOR: u64 = 1;
/// What QEMU reads of the text.
const DESCRIPTOR_SECTORS: u64 = 20;
const DESCRIPTOR_BYTES: usize = 20 * SECTOR_BYTES;
/// The header has no directory; the footer, which is a header too, has.
const AT_END: u64 = u64::MAX;
const ENTRIES_PER_TABLE: u32 = 512;
const GRAIN_SECTORS: std::ops::RangeInclusive<u64> = 8..=4096;
const BACKUP_DIRECTORY: u32 = 1 << 1;
const DEFLATE: u16 = 1;
const MARKER_END_OF_STREAM: u32 = 0;
const MARKER_FOOTER: u32 = 3;

/// The size in bytes of the disk in a file of `file_size` bytes, if the file is whole and needs no other.
pub fn check(file: &File, file_size: u64, max_disk: u64) -> Result<u64, LookError> {
    let first = Header::parse(&read_at(file, 0, SECTOR_BYTES)?)?;
    let size = first.check(file_size, max_disk)?;
    let text = read_at(file, DESCRIPTOR_SECTOR * SECTOR, DESCRIPTOR_BYTES)?;
    descriptor::check(&text)?;
    let header = if first.directory == AT_END {
        let Some(at) = file_size.checked_sub(3 * SECTOR).filter(|at| at.is_multiple_of(SECTOR)) else {
            return Err(Refused::OutsideOfFile("footer").into());
        };
        let footer = parse_footer(&read_at(file, at, 3 * SECTOR_BYTES)?)?;
        // Programs that disagree about which of the two counts must not see two disks.
        if footer.check(file_size, max_disk)? != size || footer.grain_sectors != first.grain_sectors {
            return Err(Refused::Broken("its footer is of another disk").into());
        }
        footer
    } else {
        first
    };
    header.tables(file_size)?.check(file)?;
    Ok(size)
}

/// What a header says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    version: u32,
    flags: u32,
    capacity: u64,
    grain_sectors: u64,
    descriptor: u64,
    descriptor_sectors: u64,
    entries_per_table: u32,
    backup_directory: u64,
    directory: u64,
    data: u64,
    newlines: [u8; 4],
    compression: u16,
}

impl Header {
    fn parse(sector: &[u8]) -> Result<Self, Refused> {
        let fields = Fields(sector);
        if fields.bytes(0)? != MAGIC {
            return Err(Refused::Broken("its mark"));
        }
        Ok(Self {
            version: fields.u32(4)?,
            flags: fields.u32(8)?,
            capacity: fields.u64(12)?,
            grain_sectors: fields.u64(20)?,
            descriptor: fields.u64(28)?,
            descriptor_sectors: fields.u64(36)?,
            entries_per_table: fields.u32(44)?,
            backup_directory: fields.u64(48)?,
            directory: fields.u64(56)?,
            data: fields.u64(64)?,
            newlines: fields.bytes(73)?,
            compression: fields.u16(77)?,
        })
    }

    /// All that can be told without the text and the tables.
    fn check(&self, file_size: u64, max_disk: u64) -> Result<u64, Refused> {
        if !matches!(self.version, 1..=3) {
            return Err(Refused::Version { format: "vmdk", version: self.version });
        }
        if self.newlines != *b"\n \r\n" {
            return Err(Refused::Broken("it was changed by a transfer as text"));
        }
        if self.descriptor == 0 || self.descriptor_sectors == 0 {
            return Err(Refused::NotAlone("it is one of several extents of a disk"));
        }
        if self.descriptor != DESCRIPTOR_SECTOR || self.descriptor_sectors > DESCRIPTOR_SECTORS {
            return Err(Refused::Broken("where its descriptor is"));
        }
        // A header without a size makes QEMU open the files that the text names.
        let size = check_size(self.capacity.saturating_mul(SECTOR), max_disk)?;
        if !GRAIN_SECTORS.contains(&self.grain_sectors) || !self.grain_sectors.is_power_of_two() {
            return Err(Refused::Broken("the size of its grains"));
        }
        if self.entries_per_table != ENTRIES_PER_TABLE {
            return Err(Refused::Broken("the size of its grain tables"));
        }
        if self.compression > DEFLATE {
            return Err(Refused::Broken("its compression"));
        }
        if !lies_within(file_size, 0, self.data.saturating_mul(SECTOR)) {
            return Err(Refused::OutsideOfFile("data"));
        }
        if !lies_within(file_size, DESCRIPTOR_SECTOR * SECTOR, self.descriptor_sectors * SECTOR) {
            return Err(Refused::OutsideOfFile("descriptor"));
        }
        Ok(size)
    }

    fn tables(&self, file_size: u64) -> Result<Tables, Refused> {
        let entries = self.capacity.div_ceil(self.grain_sectors * u64::from(ENTRIES_PER_TABLE));
        let tables = Tables {
            directory: self.directory.saturating_mul(SECTOR),
            entries,
            grains: self.capacity.div_ceil(self.grain_sectors),
            grain_bytes: if self.compression == DEFLATE { SECTOR } else { self.grain_sectors * SECTOR },
            file_size,
        };
        let lies_within = |sector: u64| lies_within(file_size, sector.saturating_mul(SECTOR), entries * 4);
        if self.directory == 0 || !lies_within(self.directory) {
            return Err(Refused::OutsideOfFile("grain directory"));
        }
        if self.flags & BACKUP_DIRECTORY != 0 && !lies_within(self.backup_directory) {
            return Err(Refused::OutsideOfFile("second grain directory"));
        }
        Ok(tables)
    }
}

/// The last three sectors: a marker, the footer, and the end of the stream.
fn parse_footer(sectors: &[u8]) -> Result<Header, Refused> {
    let fields = Fields(sectors);
    let end = 2 * SECTOR_BYTES;
    let marked = fields.u32(8)? == 0 && fields.u32(12)? == MARKER_FOOTER;
    let ended = fields.u64(end)? == 0 && fields.u32(end + 8)? == 0 && fields.u32(end + 12)? == MARKER_END_OF_STREAM;
    if !marked || !ended {
        return Err(Refused::OutsideOfFile("footer"));
    }
    let footer = Header::parse(&sectors[SECTOR_BYTES..end])?;
    if footer.directory == AT_END { Err(Refused::OutsideOfFile("grain directory")) } else { Ok(footer) }
}

#[cfg(test)]
mod tests;
