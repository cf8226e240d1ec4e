//! VHDX files, as far as it decides whether one may be opened at all (format: Microsoft's [MS-VHDX]). Checksums of the
//! headers, and whether all blocks lie within the file, are found by QEMU later.

use std::fs::File;

use crate::header::{Fields, LookError, Refused, check_size, lies_within, read_at};

/// The first bytes of every VHDX file.
pub const MAGIC: [u8; 8] = *b"vhdxfile";

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Two headers, of which the one with the higher number counts.
const HEADERS: [u64; 2] = [64 * KIB, 128 * KIB];
/// Two copies of the table of regions, of which QEMU reads the first.
const REGIONS: [u64; 2] = [192 * KIB, 256 * KIB];
const TABLE: usize = 64 << 10;
const HEADER: usize = 80;
/// Of entries in a table of regions, and of items in the metadata.
const MAX_ENTRIES: u32 = 2047;
const MAX_BLOCK: u64 = 256 * MIB;

const BLOCKS: Guid = guid(0x2dc2_7766, 0xf623, 0x4200, 0x9d64_115e_9bfd_4a08);
const METADATA: Guid = guid(0x8b7c_a206, 0x4790, 0x4b9a, 0xb8fe_575f_050f_886e);
const PARAMETERS: Guid = guid(0xcaa1_6737, 0xfa36, 0x4d43, 0xb3b6_33f0_aa44_e76b);
const DISK_SIZE: Guid = guid(0x2fa5_4224, 0xcd1b, 0x4876, 0xb211_5dbe_d83b_f4b8);
const SECTOR_SIZE: Guid = guid(0x8141_bf1d, 0xa96f, 0x4709, 0xba47_f233_a8fa_ab5f);
const PARENT: Guid = guid(0xa8d3_5f2d, 0xb30b, 0x454d, 0xabf7_d3d8_4834_ab0c);
const HAS_PARENT: u32 = 1 << 1;

type Guid = [u8; 16];

/// A GUID as it lies in the file: its first three parts are little-endian.
const fn guid(a: u32, b: u16, c: u16, d: u64) -> Guid {
    let (a, b, c, d) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes(), d.to_be_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

/// The size in bytes of the disk in a file of `file_size` bytes, if the file is whole and needs no other.
pub fn check(file: &File, file_size: u64, max_disk: u64) -> Result<u64, LookError> {
    let [first, second] = HEADERS.map(|at| read_at(file, at, HEADER));
    check_log(&first?, &second?)?;
    let [first, second] = REGIONS.map(|at| read_at(file, at, TABLE));
    let regions = Regions::parse(&first?, file_size)?;
    // Who reads the other copy must not see another disk.
    if Regions::parse(&second?, file_size)? != regions {
        return Err(Refused::Broken("its two tables of regions differ").into());
    }
    let Region { offset, length } = regions.metadata;
    let metadata = read_at(file, offset, usize::try_from(length.min(MIB)).unwrap_or_default())?;
    let disk = Disk::parse(&metadata)?;
    let size = disk.check(max_disk)?;
    if regions.blocks.length < disk.entries() * 8 {
        return Err(Refused::Broken("the size of its block table").into());
    }
    Ok(size)
}

/// Whether the file was closed: else its log would have to be replayed, and nobody changes what was fetched.
fn check_log(first: &[u8], second: &[u8]) -> Result<(), Refused> {
    let known = |header: &&[u8]| header.starts_with(b"head") && header.len() == HEADER;
    let numbered = |header: &[u8]| Fields(header).u64(8);
    let headers: Vec<&[u8]> = [first, second].into_iter().filter(known).collect();
    let current = match headers.as_slice() {
        [] => {
            return Err(if second.len() < HEADER { Refused::Truncated } else { Refused::Broken("its header's mark") });
        }
        [only] => *only,
        [first, second, ..] if numbered(first)? >= numbered(second)? => *first,
        [_, second, ..] => *second,
    };
    let fields = Fields(current);
    let version = u32::from(fields.u16(66)?);
    if version != 1 {
        return Err(Refused::Version { format: "vhdx", version });
    }
    if fields.bytes(48)? == [0; 16] { Ok(()) } else { Err(Refused::Unclean) }
}

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Region {
    offset: u64,
    length: u64,
}

/// The regions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Regions {
    blocks: Region,
    metadata: Region,
}

impl Regions {
    fn parse(table: &[u8], file_size: u64) -> Result<Self, Refused> {
        let fields = Fields(table);
        if fields.bytes(0)? != *b"regi" {
            return Err(Refused::Broken("the mark of its table of regions"));
        }
        let count = fields.u32(8)?;
        if count > MAX_ENTRIES {
            return Err(Refused::Broken("the number of its regions"));
        }
        let (mut blocks, mut metadata) = (None, None);
        for at in (16..).step_by(32).take(count as usize) {
            let region = Region { offset: fields.u64(at + 16)?, length: u64::from(fields.u32(at + 24)?) };
            let place = match fields.bytes(at)? {
                BLOCKS => &mut blocks,
                METADATA => &mut metadata,
                _ if fields.u32(at + 28)? & 1 == 0 => continue,
                _ => return Err(Refused::Broken("it needs a region that is not known here")),
            };
            if place.replace(region).is_some() {
                return Err(Refused::Broken("a region is there twice"));
            }
            let whole = region.offset.is_multiple_of(MIB) && region.offset >= MIB && region.length >= MIB;
            if !whole || !lies_within(file_size, region.offset, region.length) {
                return Err(Refused::OutsideOfFile("regions"));
            }
        }
        match (blocks, metadata) {
            (Some(blocks), Some(metadata)) => Ok(Self { blocks, metadata }),
            _ => Err(Refused::Broken("a region is missing")),
        }
    }
}

/// What the metadata say.
struct Disk {
    block: u64,
    size: u64,
    sector: u64,
}

impl Disk {
    fn parse(metadata: &[u8]) -> Result<Self, Refused> {
        let fields = Fields(metadata);
        if fields.bytes(0)? != *b"metadata" {
            return Err(Refused::Broken("the mark of its metadata"));
        }
        let count = fields.u16(10)?;
        if u32::from(count) > MAX_ENTRIES {
            return Err(Refused::Broken("the number of its metadata"));
        }
        let (mut parameters, mut size, mut sector) = (None, None, None);
        for at in (32..).step_by(32).take(count.into()) {
            let item = fields.u32(at + 16)? as usize;
            let twice = match fields.bytes(at)? {
                PARENT => return Err(Refused::NotAlone("it names a parent")),
                PARAMETERS => parameters.replace((fields.u32(item)?, fields.u32(item + 4)?)).is_some(),
                DISK_SIZE => size.replace(fields.u64(item)?).is_some(),
                SECTOR_SIZE => sector.replace(fields.u32(item)?).is_some(),
                _ => false,
            };
            if twice {
                return Err(Refused::Broken("its metadata say a thing twice"));
            }
        }
        let missing = Refused::Broken("its metadata lack a thing");
        let (block, bits) = parameters.ok_or(missing.clone())?;
        if bits & HAS_PARENT != 0 {
            return Err(Refused::NotAlone("it holds the differences to another file"));
        }
        let (size, sector) = (size.ok_or(missing.clone())?, u64::from(sector.ok_or(missing)?));
        Ok(Self { block: block.into(), size, sector })
    }

    fn check(&self, max_disk: u64) -> Result<u64, Refused> {
        if !self.block.is_power_of_two() || !(MIB..=MAX_BLOCK).contains(&self.block) {
            return Err(Refused::Broken("the size of its blocks"));
        }
        let size = check_size(self.size, max_disk)?;
        if !matches!(self.sector, 512 | 4096) || !size.is_multiple_of(self.sector) {
            return Err(Refused::Broken("the size of its sectors"));
        }
        Ok(size)
    }

    /// How many entries the block table has: one for each block, and one for a bitmap after so many of them.
    fn entries(&self) -> u64 {
        let blocks = self.size.div_ceil(self.block);
        let blocks_per_bitmap = (self.sector << 23) / self.block;
        blocks + blocks.saturating_sub(1) / blocks_per_bitmap
    }
}

#[cfg(test)]
mod tests;
