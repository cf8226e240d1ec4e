//! What a disk image is, when nobody says it. The host that imports it looks closely, and refuses what is something else.

use std::path::Path;

use anyhow::bail;
use ucloud_types::image::{Compression, ImageFormat};

/// How many of the first bytes are looked at.
pub const HEAD: usize = 512;

/// Where a format's mark is, and what it is.
const MARKS: [(usize, &[u8], ImageFormat); 4] = [
    (0, b"QFI\xfb", ImageFormat::Qcow2),
    (0, b"KDMV", ImageFormat::Vmdk),
    (0, b"vhdxfile", ImageFormat::Vhdx),
    (0x40, &[0x7f, 0x10, 0xda, 0xbe], ImageFormat::Vdi),
];

/// How the bytes are compressed.
pub fn compression(head: &[u8]) -> Option<Compression> {
    match head {
        [0x1f, 0x8b, ..] => Some(Compression::Gz),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zst),
        _ => None,
    }
}

/// The format of the bytes, or of what they unpack to, of which the file's name must tell.
pub fn format(head: &[u8], compression: Option<Compression>, path: &Path) -> anyhow::Result<ImageFormat> {
    if compression.is_some() {
        return by_name(path);
    }
    let found = MARKS.iter().find(|(at, mark, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(mark)));
    Ok(found.map_or(ImageFormat::Raw, |(_, _, format)| *format))
}

fn by_name(path: &Path) -> anyhow::Result<ImageFormat> {
    let name = path.file_stem().map(Path::new).and_then(Path::extension).unwrap_or_default().to_string_lossy();
    Ok(match name.to_ascii_lowercase().as_str() {
        "qcow2" => ImageFormat::Qcow2,
        "raw" => ImageFormat::Raw,
        "vmdk" => ImageFormat::Vmdk,
        "vhdx" => ImageFormat::Vhdx,
        "vdi" => ImageFormat::Vdi,
        // .img is the name of all of them
        _ => bail!(
            "{} is compressed, and its name does not tell what it unpacks to: say it with --format",
            path.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_tell_what_they_are() {
        let path = Path::new("disk.img");
        for (at, mark, expected) in MARKS {
            let head = [&vec![0; at], mark, &[0; 100]].concat();
            assert_eq!((compression(&head), format(&head, None, path).unwrap()), (None, expected));
        }
        assert_eq!(format(b"", None, path).unwrap(), ImageFormat::Raw);
        assert_eq!(compression(b"\x1f\x8b\x08"), Some(Compression::Gz));
        assert_eq!(compression(b"\xfd7zXZ\0\0"), Some(Compression::Xz));
        assert_eq!(compression(b"\x28\xb5\x2f\xfd"), Some(Compression::Zst));
    }

    #[test]
    fn of_compressed_bytes_the_name_tells() {
        let named = |name: &str| format(b"\x1f\x8b", Some(Compression::Gz), Path::new(name));
        assert_eq!(named("/a/disk.qcow2.xz").unwrap(), ImageFormat::Qcow2);
        assert_eq!(named("disk.RAW.zst").unwrap(), ImageFormat::Raw);
        assert_eq!(named("a.b.vmdk.gz").unwrap(), ImageFormat::Vmdk);
        for name in ["disk.img.xz", "disk.xz", "disk", ".xz"] {
            assert!(named(name).unwrap_err().to_string().contains("--format"), "{name}");
        }
    }
}
