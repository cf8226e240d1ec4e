//! The names of images in a pool, which say what they are. Whatever bears no such name is not ours.

use ucloud_agent_core::block_store::DiskId;
use ucloud_types::image::Sha256;

const CONTENT: &str = "ucloud.content.";
const IMAGE: &str = "ucloud.image.";
const DISK: &str = "ucloud.disk.";
const FILE: &str = "ucloud.file.";
const SNAPSHOT: &str = "ucloud.snapshot.";

/// What was imported from a source with this checksum.
pub fn content(sha256: &Sha256) -> String {
    format!("{CONTENT}{}", sha256.hex())
}

/// What was the File with this UID, while there are clones of it.
pub fn former_file(uid: &str) -> String {
    format!("{CONTENT}{uid}")
}

/// Whether this is the name of a content.
pub fn is_content(name: &str) -> bool {
    name.starts_with(CONTENT)
}

/// What a host makes to see whether it may.
pub fn check(host: &str) -> String {
    format!("ucloud.check.{host}")
}

/// What tells that a disk is being kept as the Image with this UID; also the name of the disk's snapshot meanwhile.
pub fn snapshot(image_uid: &str) -> String {
    format!("{SNAPSHOT}{image_uid}")
}

/// Whether this is the name of what tells of a snapshot.
pub fn is_snapshot(name: &str) -> bool {
    name.starts_with(SNAPSHOT)
}

/// The Image with this UID.
pub fn image(uid: &str) -> String {
    format!("{IMAGE}{uid}")
}

/// The UID of the Image with this name.
pub fn image_uid(name: &str) -> Option<&str> {
    name.strip_prefix(IMAGE)
}

/// The File with this UID.
pub fn file(uid: &str) -> String {
    format!("{FILE}{uid}")
}

/// The UID of the File with this name.
pub fn file_uid(name: &str) -> Option<&str> {
    name.strip_prefix(FILE)
}

/// A disk. UIDs have no dots, and neither have the names of disks.
pub fn disk(disk: &DiskId) -> String {
    format!("{DISK}{}.{}", disk.owner_uid, disk.name)
}

/// The disk with this name.
pub fn parse_disk(name: &str) -> Option<DiskId> {
    let (owner_uid, name) = name.strip_prefix(DISK)?.split_once('.')?;
    let disk = DiskId { owner_uid: owner_uid.to_owned(), name: name.to_owned() };
    ucloud_agent_import::names::check_disk(&disk).is_ok().then_some(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_are() {
        let id = DiskId { owner_uid: "0b4ae8d6-6d2e".into(), name: "root".into() };
        assert_eq!(disk(&id), "ucloud.disk.0b4ae8d6-6d2e.root");
        assert_eq!(parse_disk(&disk(&id)), Some(id));
        for name in ["vm-1", "ucloud.disk.a", "ucloud.disk..root", "ucloud.disk.a.b.c", "ucloud.image.a"] {
            assert_eq!(parse_disk(name), None, "{name}");
        }
        assert_eq!(image_uid(&image("a")), Some("a"));
        assert_eq!(image_uid("other"), None);
        assert_eq!((file_uid(&file("a")), file_uid(&image("a"))), (Some("a"), None));
        assert!(is_snapshot(&snapshot("a")) && !is_snapshot(&image("a")));
        let sha256 = Sha256::from([7; 32]);
        assert!(is_content(&content(&sha256)) && is_content(&former_file("a")));
        assert!(content(&sha256).ends_with(&"07".repeat(32)));
    }
}
