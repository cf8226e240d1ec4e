use super::*;
use crate::header::file_of;

const MAX: u64 = 1 << 40;
const GRAIN: u64 = 8 * SECTOR;
const DIRECTORY: u64 = 21;
const TABLE: u32 = 22;
const DATA: u32 = 32;
/// Where they are.
const TABLE_AT: u64 = TABLE as u64 * SECTOR;
const DATA_AT: u64 = DATA as u64 * SECTOR;
const TEXT: &[u8] =
    b"# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 24 SPARSE \"a.vmdk\"\n";

fn put(image: &mut [u8], at: u64, bytes: &[u8]) {
    image[usize::try_from(at).unwrap()..][..bytes.len()].copy_from_slice(bytes);
}

fn put32(image: &mut [u8], at: u64, value: u32) {
    put(image, at, &value.to_le_bytes());
}

fn put64(image: &mut [u8], at: u64, value: u64) {
    put(image, at, &value.to_le_bytes());
}

/// A disk of three grains of 4 KiB, of which the second is there.
fn image() -> Vec<u8> {
    let mut image = vec![0; usize::try_from(DATA_AT + GRAIN).unwrap()];
    image[..4].copy_from_slice(&MAGIC);
    put32(&mut image, 4, 1);
    put32(&mut image, 8, 3);
    for (at, value) in [(12, 24), (20, 8), (28, 1), (36, 20), (48, DIRECTORY), (56, DIRECTORY), (64, DATA.into())] {
        put64(&mut image, at, value);
    }
    put32(&mut image, 44, 512);
    image[73..77].copy_from_slice(b"\n \r\n");
    put(&mut image, SECTOR, TEXT);
    put32(&mut image, DIRECTORY * SECTOR, TABLE);
    put32(&mut image, TABLE_AT + 4, DATA);
    image
}

/// The same with the directory in a footer.
fn stream() -> Vec<u8> {
    let mut image = image();
    let mut footer = vec![0; SECTOR_BYTES];
    footer[12] = 3;
    footer.extend_from_slice(&image[..SECTOR_BYTES]);
    footer.extend_from_slice(&[0; SECTOR_BYTES]);
    put64(&mut image, 56, AT_END);
    image.extend_from_slice(&footer);
    image
}

fn look(image: &[u8]) -> Result<u64, Refused> {
    match check(&file_of(image), image.len() as u64, MAX) {
        Ok(size) => Ok(size),
        Err(LookError::Refused(refused)) => Err(refused),
        Err(error) => panic!("{error}"),
    }
}

fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<u64, Refused> {
    let mut image = image();
    change(&mut image);
    look(&image)
}

#[test]
fn whole_files_are_accepted() {
    assert_eq!(look(&image()), Ok(3 * GRAIN));
    assert_eq!(look(&stream()), Ok(3 * GRAIN));
    // the last grain of a disk need not be a whole one
    assert_eq!(changed(|image| put64(image, 12, 23)), Ok(23 * SECTOR));
    // a grain of zeros
    assert_eq!(changed(|image| put32(image, TABLE_AT, 1)), Ok(3 * GRAIN));
}

#[test]
fn parts_of_a_disk_are_refused() {
    let several = Err(Refused::NotAlone("it is one of several extents of a disk"));
    assert_eq!(changed(|image| put64(image, 28, 0)), several);
    assert_eq!(changed(|image| put64(image, 36, 0)), several);
    assert_eq!(changed(|image| put64(image, 28, 2)), Err(Refused::Broken("where its descriptor is")));
    assert_eq!(changed(|image| put64(image, 36, 21)), Err(Refused::Broken("where its descriptor is")));
    // QEMU would open what the text names.
    assert_eq!(changed(|image| put64(image, 12, 0)), Err(Refused::Size { size: 0, limit: MAX }));
}

#[test]
fn broken_headers_and_bombs_are_refused() {
    assert_eq!(changed(|image| put32(image, 4, 4)), Err(Refused::Version { format: "vmdk", version: 4 }));
    assert_eq!(changed(|image| put32(image, 4, 0)), Err(Refused::Version { format: "vmdk", version: 0 }));
    assert_eq!(changed(|image| image[74] = b'\n'), Err(Refused::Broken("it was changed by a transfer as text")));
    let huge = Err(Refused::Size { size: u64::MAX, limit: MAX });
    assert_eq!(changed(|image| put64(image, 12, u64::MAX)), huge);
    assert_eq!(changed(|image| put64(image, 12, MAX)), Err(Refused::Size { size: MAX * SECTOR, limit: MAX }));
    for grain in [0, 4, 9, 8192, 1 << 32, u64::MAX] {
        assert_eq!(changed(|image| put64(image, 20, grain)), Err(Refused::Broken("the size of its grains")));
    }
    for entries in [0, 1, 511, 513, u32::MAX] {
        assert_eq!(changed(|image| put32(image, 44, entries)), Err(Refused::Broken("the size of its grain tables")));
    }
    assert_eq!(changed(|image| image[77] = 2), Err(Refused::Broken("its compression")));
    assert_eq!(changed(|image| put64(image, 64, 1 << 40)), Err(Refused::OutsideOfFile("data")));
    for directory in [0, 1 << 20, u64::MAX - 1, 1 << 55] {
        assert_eq!(changed(|image| put64(image, 56, directory)), Err(Refused::OutsideOfFile("grain directory")));
    }
    let second = Err(Refused::OutsideOfFile("second grain directory"));
    assert_eq!(changed(|image| put64(image, 48, 1 << 20)), second);
    // A directory of 8 MiB for a disk of 1 TiB.
    assert_eq!(changed(|image| put64(image, 12, MAX / SECTOR)), Err(Refused::OutsideOfFile("grain directory")));
}

#[test]
fn tables_are_followed_to_their_end() {
    let (directory, table) = (DIRECTORY * SECTOR, TABLE_AT);
    assert_eq!(changed(|image| put32(image, directory, 1 << 20)), Err(Refused::OutsideOfFile("grain table")));
    assert_eq!(changed(|image| put32(image, directory, u32::MAX)), Err(Refused::OutsideOfFile("grain table")));
    assert_eq!(changed(|image| put32(image, table, u32::MAX)), Err(Refused::OutsideOfFile("data")));
    assert_eq!(changed(|image| put32(image, table, DATA + 1)), Err(Refused::OutsideOfFile("data")));
    let twice = changed(|image| {
        put64(image, 12, 8 * 512 * 2);
        put32(image, directory + 4, TABLE);
    });
    assert_eq!(twice, Err(Refused::Broken("two entries of its grain directory are the same")));
}

#[test]
fn a_footer_is_of_the_same_disk() {
    let changed = |change: &dyn Fn(&mut Vec<u8>, u64)| {
        let mut image = stream();
        let footer = image.len() as u64 - 2 * SECTOR;
        change(&mut image, footer);
        look(&image)
    };
    let other = Err(Refused::Broken("its footer is of another disk"));
    assert_eq!(changed(&|image, footer| put64(image, footer + 12, 23)), other);
    assert_eq!(changed(&|image, footer| put64(image, footer + 20, 16)), other);
    let no_text = Err(Refused::NotAlone("it is one of several extents of a disk"));
    assert_eq!(changed(&|image, footer| put64(image, footer + 28, 0)), no_text);
    assert_eq!(changed(&|image, footer| put(image, footer, &[0])), Err(Refused::Broken("its mark")));
    assert_eq!(changed(&|image, footer| put(image, footer - 500, &[1])), Err(Refused::OutsideOfFile("footer")));
    assert_eq!(
        changed(&|image, footer| put64(image, footer + 56, AT_END)),
        Err(Refused::OutsideOfFile("grain directory"))
    );
    assert_eq!(changed(&|image, _| image.truncate(image.len() - 1)), Err(Refused::OutsideOfFile("footer")));
    assert_eq!(changed(&|image, _| image.extend_from_slice(&[0; 512])), Err(Refused::OutsideOfFile("footer")));
}

/// Wherever it was cut off, and whatever is left of it.
#[test]
fn a_part_of_a_file_is_refused() {
    for whole in [image(), stream()] {
        for length in (0..whole.len()).step_by(7) {
            assert!(look(&whole[..length]).is_err(), "{length} of {}", whole.len());
        }
    }
}
