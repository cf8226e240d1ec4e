//! What the bytes of an image are, told by their magic numbers. No format is ever guessed by QEMU: a guest, or
//! whoever made an image, could make it guess wrong.

use std::fmt;

use ucloud_types::image::ImageFormat;

/// Bytes from the beginning of a source that [`detect`] looks at.
pub const HEAD: usize = 512;
/// Bytes from the end of a source that [`detect`] looks at.
pub const TAIL: usize = 512;

/// What a source was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// A format that can be imported. Raw is what bears no other format's mark.
    Image(ImageFormat),
    /// Something else, by its name.
    Other(&'static str),
}

impl fmt::Display for Detected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image(format) => format.as_str(),
            Self::Other(name) => name,
        })
    }
}

/// Marks at the beginning: where, what, whose.
const MARKS: [(usize, &[u8], &str); 21] = [
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vhd"),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], "vdi"),
    (0, b"QED\0", "qed"),
    (0, b"OOOM", "cow"),
    (0, b"LUKS\xba\xbe", "LUKS (encrypted)"),
    (0, b"WithoutFreeSpace", "parallels"),
    (0, b"WithouFreSpacExt", "parallels"),
    (0, b"Bochs Virtual HD Image", "bochs"),
    (0, &[0x1f, 0x8b], "gzip (unpack it first)"),
    (0, b"\xfd7zXZ\0", "xz (unpack it first)"),
    (0, &[0x28, 0xb5, 0x2f, 0xfd], "zstd (unpack it first)"),
    (0, b"BZh", "bzip2 (unpack it first)"),
    (0, b"PK\x03\x04", "zip (unpack it first)"),
    (257, b"ustar", "tar (an OVA is one; unpack it first)"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<!doctype", "a web page"),
    (0, b"<html", "a web page"),
];

/// What a source is: `head` are its first [`HEAD`] bytes, `tail` its last [`TAIL`], or all of a smaller one.
pub fn detect(head: &[u8], tail: &[u8]) -> Detected {
    if head.starts_with(&crate::qcow2::MAGIC) {
        return Detected::Image(ImageFormat::Qcow2);
    }
    let found = MARKS.iter().find(|(at, mark, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    if let Some((_, _, name)) = found {
        return Detected::Other(name);
    }
    if tail.len() == TAIL && tail.starts_with(b"conectix") {
        return Detected::Other("vhd");
    }
    if tail.len() == TAIL && tail.starts_with(b"koly") {
        return Detected::Other("dmg");
    }
    Detected::Image(ImageFormat::Raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_apart() {
        let head = |at: usize, mark: &[u8]| {
            let mut head = [0; HEAD];
            head[at..at + mark.len()].copy_from_slice(mark);
            detect(&head, &[0; TAIL])
        };
        assert_eq!(head(0, b"QFI\xfb"), Detected::Image(ImageFormat::Qcow2));
        assert_eq!(head(510, &[0x55, 0xaa]), Detected::Image(ImageFormat::Raw));
        for (at, mark, name) in MARKS {
            assert_eq!(head(at, mark), Detected::Other(name));
        }
        let mut footer = [0; TAIL];
        footer[..8].copy_from_slice(b"conectix");
        assert_eq!(detect(&[0; HEAD], &footer), Detected::Other("vhd"));
        assert_eq!(detect(b"", b""), Detected::Image(ImageFormat::Raw));
    }
}
