use super::*;
use crate::header::file_of;

const MAX: u64 = 1 << 40;
const ITEMS: usize = (2 << 20) + (64 << 10);

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

fn region(image: &mut [u8], at: usize, guid: Guid, offset: u64, length: u32) {
    put(image, at, &guid);
    put(image, at + 16, &offset.to_le_bytes());
    put(image, at + 24, &length.to_le_bytes());
    put(image, at + 28, &1_u32.to_le_bytes());
}

/// A disk of 3 MiB: a table of blocks at 1 MiB, metadata at 2 MiB.
fn image() -> Vec<u8> {
    let mut image = vec![0; 3 << 20];
    put(&mut image, 0, &MAGIC);
    for (at, number) in [(64 << 10, 7_u64), (128 << 10, 8)] {
        put(&mut image, at, b"head");
        put(&mut image, at + 8, &number.to_le_bytes());
        put(&mut image, at + 66, &1_u16.to_le_bytes());
    }
    for at in [192 << 10, 256 << 10] {
        put(&mut image, at, b"regi");
        put(&mut image, at + 8, &2_u32.to_le_bytes());
        region(&mut image, at + 16, BLOCKS, MIB, 1 << 20);
        region(&mut image, at + 48, METADATA, 2 * MIB, 1 << 20);
    }
    let metadata = 2 << 20;
    put(&mut image, metadata, b"metadata");
    put(&mut image, metadata + 10, &3_u16.to_le_bytes());
    for (index, guid) in [PARAMETERS, DISK_SIZE, SECTOR_SIZE].into_iter().enumerate() {
        let at = metadata + 32 + 32 * index;
        put(&mut image, at, &guid);
        put(&mut image, at + 16, &u32::try_from((64 << 10) + 16 * index).unwrap().to_le_bytes());
    }
    put(&mut image, ITEMS, &(1_u32 << 20).to_le_bytes());
    put(&mut image, ITEMS + 16, &(3_u64 << 20).to_le_bytes());
    put(&mut image, ITEMS + 32, &512_u32.to_le_bytes());
    image
}

fn look(image: &[u8]) -> Result<u64, Refused> {
    match check(&file_of(image), image.len() as u64, MAX) {
        Ok(size) => Ok(size),
        Err(LookError::Refused(refused)) => Err(refused),
        Err(error) => panic!("{error}"),
    }
}

fn changed(at: usize, bytes: &[u8]) -> Result<u64, Refused> {
    let mut image = image();
    put(&mut image, at, bytes);
    look(&image)
}

/// Both tables of regions are changed.
fn regions(at: usize, bytes: &[u8]) -> Result<u64, Refused> {
    let mut image = image();
    put(&mut image, (192 << 10) + at, bytes);
    put(&mut image, (256 << 10) + at, bytes);
    look(&image)
}

#[test]
fn a_whole_file_is_accepted() {
    assert_eq!(look(&image()), Ok(3 * MIB));
    assert_eq!(BLOCKS[..6], [0x66, 0x77, 0xc2, 0x2d, 0x23, 0xf6]);
    // a region that nobody needs to know
    assert_eq!(regions(8, &3_u32.to_le_bytes()), Ok(3 * MIB));
    // the header before this one was of an open file
    assert_eq!(changed((64 << 10) + 48, &[1]), Ok(3 * MIB));
    assert_eq!(changed(64 << 10, b"gone"), Ok(3 * MIB));
}

#[test]
fn what_needs_another_file_is_refused() {
    assert_eq!(changed(ITEMS + 4, &[2]), Err(Refused::NotAlone("it holds the differences to another file")));
    let mut image = image();
    put(&mut image, (2 << 20) + 10, &4_u16.to_le_bytes());
    put(&mut image, (2 << 20) + 128, &PARENT);
    assert_eq!(look(&image), Err(Refused::NotAlone("it names a parent")));
}

#[test]
fn what_was_not_closed_is_refused() {
    assert_eq!(changed((128 << 10) + 48, &[1]), Err(Refused::Unclean));
    assert_eq!(changed((128 << 10) + 66, &[2]), Err(Refused::Version { format: "vhdx", version: 2 }));
    let mut image = image();
    put(&mut image, 64 << 10, b"gone");
    put(&mut image, 128 << 10, b"gone");
    assert_eq!(look(&image), Err(Refused::Broken("its header's mark")));
}

#[test]
fn regions_are_known_and_lie_within_the_file() {
    assert_eq!(changed(256 << 10, b"gone"), Err(Refused::Broken("the mark of its table of regions")));
    let differ = changed((192 << 10) + 32, &(2 * MIB).to_le_bytes());
    assert_eq!(differ, Err(Refused::Broken("its two tables of regions differ")));
    assert_eq!(regions(8, &u32::MAX.to_le_bytes()), Err(Refused::Broken("the number of its regions")));
    assert_eq!(regions(8, &1_u32.to_le_bytes()), Err(Refused::Broken("a region is missing")));
    assert_eq!(regions(16, &METADATA), Err(Refused::Broken("a region is there twice")));
    assert_eq!(regions(16, &[7; 16]), Err(Refused::Broken("it needs a region that is not known here")));
    for offset in [0, 64 * KIB, 3 * MIB, MIB + 1, u64::MAX - MIB + 1] {
        assert_eq!(regions(32, &offset.to_le_bytes()), Err(Refused::OutsideOfFile("regions")), "{offset}");
    }
    assert_eq!(regions(40, &u32::MAX.to_le_bytes()), Err(Refused::OutsideOfFile("regions")));
}

#[test]
fn bombs_and_stumps_are_refused() {
    let size = |size: u64| changed(ITEMS + 16, &size.to_le_bytes());
    assert_eq!(size(0), Err(Refused::Size { size: 0, limit: MAX }));
    assert_eq!(size(1 << 63), Err(Refused::Size { size: 1 << 63, limit: MAX }));
    assert_eq!(size(MAX), Err(Refused::Broken("the size of its block table")));
    assert_eq!(size(3 * MIB + 1), Err(Refused::Broken("the size of its sectors")));
    for block in [0, 1, 3 << 20, 512 << 10, 1 << 31] {
        let found = changed(ITEMS, &u32::to_le_bytes(block));
        assert_eq!(found, Err(Refused::Broken("the size of its blocks")), "{block}");
    }
    assert_eq!(changed(2 << 20, b"gone"), Err(Refused::Broken("the mark of its metadata")));
    assert_eq!(changed((2 << 20) + 10, &[255; 2]), Err(Refused::Broken("the number of its metadata")));
    assert_eq!(changed((2 << 20) + 64, &PARAMETERS), Err(Refused::Broken("its metadata say a thing twice")));
    assert_eq!(changed((2 << 20) + 64, &[9; 16]), Err(Refused::Broken("its metadata lack a thing")));
    assert_eq!(changed((2 << 20) + 48, &[255; 4]), Err(Refused::Truncated));
    let whole = image();
    for length in (0..whole.len()).step_by(32 << 10).chain([(128 << 10) + 79, (192 << 10) + 100]) {
        assert!(look(&whole[..length]).is_err(), "{length}");
    }
}

#[test]
fn the_block_table_has_room_for_bitmaps_too() {
    let entries = |size: u64| Disk { block: 32 * MIB, size, sector: 512 }.entries();
    assert_eq!((entries(1), entries(32 * MIB), entries(32 * MIB + 1)), (1, 1, 2));
    // one bitmap for 128 blocks of 32 MiB, needed once there is a block behind it
    assert_eq!((entries(128 * 32 * MIB), entries(129 * 32 * MIB)), (128, 130));
}
