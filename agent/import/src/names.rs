//! Names that become names of files: proven to be single, plain components of a path.

use ucloud_agent_core::{HostError, block_store::DiskId};

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

#[cfg(test)]
mod tests {
    use super::*;

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
