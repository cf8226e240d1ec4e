//! Names that become names of files: proven to be single, plain components of a path.

use sha2::{Digest as _, Sha256 as Hasher};
use ucloud_agent_core::{
    HostError,
    block_store::{DiskId, Readable, SnapshotRequest},
};
use ucloud_types::image::Sha256;

/// A UID that the API server has given: letters, digits and hyphens.
pub fn check_uid(uid: &str) -> Result<(), HostError> {
    let fits = uid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if fits && (1..=64).contains(&uid.len()) {
        Ok(())
    } else {
        Err(HostError::terminal("InvalidName", format!("{uid:?} is no UID: letters, digits and hyphens, at most 64")))
    }
}

/// A disk's identity: a UID, and a name of lower-case letters, digits and hyphens.
pub fn check_disk(disk: &DiskId) -> Result<(), HostError> {
    check_uid(&disk.owner_uid)?;
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if disk.name.bytes().all(fits) && (1..=63).contains(&disk.name.len()) {
        Ok(())
    } else {
        let message = format!("disk {:?}: a name has lower-case letters, digits and hyphens, at most 63", disk.name);
        Err(HostError::terminal("InvalidName", message))
    }
}

/// The names of a disk to keep, and of the image to make of it.
pub fn check_snapshot(request: &SnapshotRequest) -> Result<(), HostError> {
    check_disk(&request.disk)?;
    check_uid(&request.image_uid)
}

/// The names of what is to be read.
pub fn check_readable(what: &Readable) -> Result<(), HostError> {
    match what {
        Readable::Image(uid) => check_uid(uid),
        Readable::Disk(disk) => check_disk(disk),
    }
}

/// The content of the image with this UID that is the snapshot of a disk: nobody has summed its bytes. It is the checksum of a
/// text that no source of another image has, unless somebody wants it to, and he would have to know the UID before.
pub fn snapshot_content(image_uid: &str) -> Sha256 {
    Sha256::from(<[u8; 32]>::from(Hasher::digest(format!("snapshot {image_uid}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_snapshot_has_a_content_of_its_own() {
        // printf 'snapshot a' | sha256sum
        let expected = "sha256:11327036eab266ba1dfcc84f55d2a53cae0be010e05fde08df312f9367d8561e";
        assert_eq!(snapshot_content("a").to_string(), expected);
        assert_ne!(snapshot_content("b").to_string(), expected);
    }

    #[test]
    fn no_name_is_a_path() {
        let disk = |vm_uid: &str, name: &str| DiskId { owner_uid: vm_uid.into(), name: name.into() };
        check_disk(&disk("0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11", "root-1")).unwrap();
        for (uid, name) in [
            ("", "root"),
            ("..", "root"),
            ("a/b", "root"),
            ("a", ""),
            ("a", ".."),
            ("a", "b/c"),
            ("a", "b.c"),
            ("a", "B"),
        ] {
            assert!(check_disk(&disk(uid, name)).unwrap_err().terminal, "{uid} {name}");
        }
    }
}
