//! VDI files, as far as it decides whether one may be opened at all (format: VDICore.h in VirtualBox's sources, and
//! block/vdi.c in QEMU's). Whether the entries of the block map are used once, and lie within the file, is found by
//! qemu-img check later.

use std::fs::File;

use crate::header::{Fields, LookError, Refused, check_size, lies_within, read_at};

/// The mark of every VDI file.
pub const MAGIC: [u8; 4] = [0x7f, 0x10, 0xda, 0xbe];
/// Where it is; before it there is free text.
pub const MAGIC_AT: usize = 0x40;

const HEADER: usize = 512;
const VERSION: u32 = 0x0001_0001;
const DYNAMIC: u32 = 1;
const STATIC: u32 = 2;
/// The only size that VirtualBox and QEMU make, and QEMU opens.
const BLOCK: u64 = 1 << 20;

/// The size in bytes of the disk in a file of `file_size` bytes, if the file is whole and needs no other.
pub fn check(file: &File, file_size: u64, max_disk: u64) -> Result<u64, LookError> {
    Ok(parse(&read_at(file, 0, HEADER)?, file_size, max_disk)?)
}

fn parse(header: &[u8], file_size: u64, max_disk: u64) -> Result<u64, Refused> {
    let fields = Fields(header);
    if fields.bytes(MAGIC_AT)? != MAGIC {
        return Err(Refused::Broken("its mark"));
    }
    let version = fields.u32(0x44)?;
    if version != VERSION {
        return Err(Refused::Version { format: "vdi", version });
    }
    if !matches!(fields.u32(0x4c)?, DYNAMIC | STATIC) {
        return Err(Refused::NotAlone("it holds the differences to another file"));
    }
    let (link, parent) = (fields.bytes::<16>(0x1a8)?, fields.bytes::<16>(0x1b8)?);
    if link != [0; 16] || parent != [0; 16] {
        return Err(Refused::NotAlone("it names a parent"));
    }
    let size = check_size(fields.u64(0x170)?, max_disk)?;
    if fields.u32(0x168)? != 512 || u64::from(fields.u32(0x178)?) != BLOCK || fields.u32(0x17c)? != 0 {
        return Err(Refused::Broken("the size of its sectors or blocks"));
    }
    let (blocks, allocated) = (u64::from(fields.u32(0x180)?), u64::from(fields.u32(0x184)?));
    if blocks != size.div_ceil(BLOCK) || allocated > blocks {
        return Err(Refused::Broken("the number of its blocks"));
    }
    let (map, data) = (u64::from(fields.u32(0x154)?), u64::from(fields.u32(0x158)?));
    if map < HEADER as u64 || !map.is_multiple_of(512) || !data.is_multiple_of(512) || map + blocks * 4 > data {
        return Err(Refused::Broken("where its block map and its data are"));
    }
    if !lies_within(file_size, map, blocks * 4) {
        return Err(Refused::OutsideOfFile("block map"));
    }
    if !lies_within(file_size, data, allocated * BLOCK) {
        return Err(Refused::OutsideOfFile("data"));
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const FILE_SIZE: u64 = 1024 + 2 * MIB;
    const MAX: u64 = 1 << 40;

    /// A disk of 3 MiB of which 2 are there.
    fn header() -> Vec<u8> {
        let mut header = vec![0; HEADER];
        header[MAGIC_AT..MAGIC_AT + 4].copy_from_slice(&MAGIC);
        for (at, value) in [
            (0x44, VERSION),
            (0x48, 0x180),
            (0x4c, DYNAMIC),
            (0x154, 512),
            (0x158, 1024),
            (0x168, 512),
            (0x170, 3 << 20),
            (0x178, 1 << 20),
            (0x180, 3),
            (0x184, 2),
        ] {
            put(&mut header, at, value);
        }
        header
    }

    fn put(header: &mut [u8], at: usize, value: u32) {
        header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn changed(at: usize, value: u32) -> Result<u64, Refused> {
        let mut header = header();
        put(&mut header, at, value);
        parse(&header, FILE_SIZE, MAX)
    }

    #[test]
    fn a_whole_file_is_accepted() {
        assert_eq!(parse(&header(), FILE_SIZE, MAX), Ok(3 * MIB));
        assert_eq!(changed(0x4c, STATIC), Ok(3 * MIB));
        assert_eq!(changed(0x198, 7), Ok(3 * MIB), "the UUID of its last snapshot is no link");
        assert_eq!(changed(0x170, (3 << 20) - 5), Ok(3 * MIB - 5));
    }

    #[test]
    fn what_needs_another_file_is_refused() {
        for kind in [0, 3, 4, u32::MAX] {
            assert_eq!(changed(0x4c, kind), Err(Refused::NotAlone("it holds the differences to another file")));
        }
        for at in [0x1a8, 0x1b4, 0x1b8, 0x1c4] {
            assert_eq!(changed(at, 1), Err(Refused::NotAlone("it names a parent")));
        }
    }

    #[test]
    fn bombs_and_stumps_are_refused() {
        assert_eq!(changed(0x170, 0), Err(Refused::Size { size: 0, limit: MAX }));
        assert_eq!(changed(0x174, u32::MAX).unwrap_err().to_string().split(';').count(), 2);
        assert_eq!(changed(0x44, 1), Err(Refused::Version { format: "vdi", version: 1 }));
        for (at, value) in [(0x168, 4096), (0x178, 1 << 16), (0x178, 0), (0x17c, 512)] {
            assert_eq!(changed(at, value), Err(Refused::Broken("the size of its sectors or blocks")), "{at:#x}");
        }
        for (at, value) in [(0x180, 2), (0x180, u32::MAX), (0x184, 4), (0x184, u32::MAX)] {
            assert_eq!(changed(at, value), Err(Refused::Broken("the number of its blocks")), "{at:#x}");
        }
        for (at, value) in [(0x154, 0), (0x154, 1024), (0x154, 600), (0x158, 512), (0x158, 1025)] {
            let found = changed(at, value);
            assert_eq!(found, Err(Refused::Broken("where its block map and its data are")), "{value} at {at:#x}");
        }
        assert_eq!(changed(0x158, 1 << 30), Err(Refused::OutsideOfFile("data")));
        assert_eq!(parse(&header(), FILE_SIZE - 1, MAX), Err(Refused::OutsideOfFile("data")));
        assert_eq!(parse(&header(), 520, MAX), Err(Refused::OutsideOfFile("block map")));
        assert_eq!(parse(&header(), FILE_SIZE, 3 * MIB - 1), Err(Refused::Size { size: 3 * MIB, limit: 3 * MIB - 1 }));
        for length in [0, MAGIC_AT + 3, 0x180, 0x1c7] {
            assert_eq!(parse(&header()[..length], FILE_SIZE, MAX), Err(Refused::Truncated), "{length}");
        }
    }
}
