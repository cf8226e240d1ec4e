//! What the bytes of an image are, told by their magic numbers. No format is ever guessed by QEMU: a guest, or
//! whoever made an image, could make it guess wrong.

use std::fmt;

use ucloud_types::image::{Compression, ImageFormat};

/// Bytes from the beginning of a source that [`detect`] looks at.
pub const HEAD: usize = 512;
/// Bytes from the end of a source that [`detect`] looks at.
pub const TAIL: usize = 512;
/// Bytes from the beginning of a source that [`compression`] looks at.
pub const COMPRESSION_HEAD: usize = 6;

/// What a source was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A format that can be imported. Raw is what bears no other format's mark.
    Image(ImageFormat),
    /// A format that can be imported once it is unpacked.
    Compressed(Compression),
    /// Something else, by its name.
    Other(&'static str),
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(format) => f.write_str(format.as_str()),
            Self::Compressed(compression) => write!(f, "compressed with {}", compression.as_str()),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// Marks at the beginning of what is not imported: where, what, whose.
const OTHERS: [(usize, &[u8], &str); 16] = [
    (0, b"COWD", "a part of a vmdk (COWD)"),
    (0, b"# Disk DescriptorFile", "a vmdk descriptor, whose data are in other files"),
    (0, b"conectix", "vhd"),
    (0, b"QED\0", "qed"),
    (0, b"OOOM", "cow"),
    (0, b"LUKS\xba\xbe", "LUKS (encrypted)"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, b"BZh", "bzip2 (unpack it first)"),
    (0, b"PK\x03\x04", "zip (unpack it first)"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z (unpack it first)"),
    (257, b"ustar", "tar (an OVA is one; unpack it first)"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<!doctype", "a web page"),
    (0, b"<html", "a web page"),
];

/// Marks at the beginning of what is imported.
const IMAGES: [(usize, &[u8], ImageFormat); 4] = [
    (0, &crate::qcow2::MAGIC, ImageFormat::Qcow2),
    (0, &crate::vmdk::MAGIC, ImageFormat::Vmdk),
    (0, &crate::vhdx::MAGIC, ImageFormat::Vhdx),
    (crate::vdi::MAGIC_AT, &crate::vdi::MAGIC, ImageFormat::Vdi),
];

fn has(head: &[u8], at: usize, mark: &[u8]) -> bool {
    head.get(at..).is_some_and(|rest| rest.starts_with(mark))
}

/// How a source is compressed, if it is; `head` are its first [`COMPRESSION_HEAD`] bytes or more.
pub fn compression(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, ..] => Some(Compression::Gz),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
        // a frame, or one that may be skipped (RFC 8878, 3.1)
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zst),
        _ => None,
    }
}

/// What a source is: `head` are its first [`HEAD`] bytes, `tail` its last [`TAIL`], or all of a smaller one.
///
/// There is one answer for any bytes, so that the same source never becomes two different images. What two formats
/// could claim is the one's whose mark comes first in the file.
pub fn detect(head: &[u8], tail: &[u8]) -> Detected {
    if let Some(compression) = compression(head) {
        return Detected::Compressed(compression);
    }
    if let Some((_, _, name)) = OTHERS.iter().find(|(at, mark, _)| *at == 0 && has(head, *at, mark)) {
        return Detected::Other(name);
    }
    if let Some((_, _, format)) = IMAGES.iter().find(|(at, mark, _)| has(head, *at, mark)) {
        return Detected::Image(*format);
    }
    if let Some((_, _, name)) = OTHERS.iter().find(|(at, mark, _)| has(head, *at, mark)) {
        return Detected::Other(name);
    }
    match tail.get(..8) {
        Some(b"conectix") if tail.len() == TAIL => Detected::Other("vhd"),
        Some([b'k', b'o', b'l', b'y', ..]) if tail.len() == TAIL => Detected::Other("dmg"),
        _ => Detected::Image(ImageFormat::Raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(marks: &[(usize, &[u8])]) -> Detected {
        let mut head = [0; HEAD];
        for (at, mark) in marks {
            head[*at..*at + mark.len()].copy_from_slice(mark);
        }
        detect(&head, &[0; TAIL])
    }

    #[test]
    fn formats_are_told_apart() {
        assert_eq!(head(&[(510, &[0x55, 0xaa])]), Detected::Image(ImageFormat::Raw));
        for (at, mark, format) in IMAGES {
            assert_eq!(head(&[(at, mark)]), Detected::Image(format));
        }
        for (at, mark, name) in OTHERS {
            assert_eq!(head(&[(at, mark)]), Detected::Other(name));
        }
        for (mark, compression) in [
            (&b"\x1f\x8b"[..], Compression::Gz),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x28\xb5\x2f\xfd", Compression::Zst),
            (b"\x5f\x2a\x4d\x18", Compression::Zst),
        ] {
            assert_eq!(head(&[(0, mark)]), Detected::Compressed(compression));
        }
        let mut footer = [0; TAIL];
        footer[..8].copy_from_slice(b"conectix");
        assert_eq!(detect(&[0; HEAD], &footer), Detected::Other("vhd"));
        footer[..8].copy_from_slice(b"koly\0\0\0\x04");
        assert_eq!(detect(&[0; HEAD], &footer), Detected::Other("dmg"));
        assert_eq!(detect(b"", b""), Detected::Image(ImageFormat::Raw));
    }

    /// The text before the mark of a VDI is free, and may be anything else's mark.
    #[test]
    fn what_two_formats_claim_is_one_of_them() {
        let vdi = (crate::vdi::MAGIC_AT, &crate::vdi::MAGIC[..]);
        assert_eq!(head(&[vdi, (0, b"\x1f\x8b")]), Detected::Compressed(Compression::Gz));
        assert_eq!(head(&[vdi, (0, b"QFI\xfb")]), Detected::Image(ImageFormat::Qcow2));
        assert_eq!(head(&[vdi, (0, b"COWD")]), Detected::Other("a part of a vmdk (COWD)"));
        assert_eq!(head(&[vdi, (257, b"ustar")]), Detected::Image(ImageFormat::Vdi));
    }
}
