//! The folder of the serial consoles: a socket and a log for each VM.
//!
//! libvirtd makes the sockets and hands them to QEMU open, virtlogd writes the logs; both run as root. So nobody
//! else needs to enter the folder, and neither another user nor a QEMU that a guest has taken over can reach
//! another VM's console or put a symlink in its place.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleDirectoryError {
    /// It is no absolute path.
    #[error("the folder for consoles, {0}, must be an absolute path")]
    Relative(PathBuf),
    /// It cannot be made or looked at.
    #[error("cannot make the folder for consoles, {path}")]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else could change what it holds.
    #[error("{0}, the folder for consoles, is a symlink, no folder, or another user's; remove it")]
    Foreign(PathBuf),
}

/// Makes the folder, or takes it as it is, with room for its owner alone.
pub fn ensure_directory(path: &Path) -> Result<(), ConsoleDirectoryError> {
    if !path.is_absolute() {
        return Err(ConsoleDirectoryError::Relative(path.to_owned()));
    }
    let unusable = |source| ConsoleDirectoryError::Unusable { path: path.to_owned(), source };
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(unusable)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unusable(error)),
        _ => {}
    }
    let found = path.symlink_metadata().map_err(unusable)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(ConsoleDirectoryError::Foreign(path.to_owned()));
    }
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(unusable)
}

/// Removes what belongs to a VM: the socket, the log, and the logs that virtlogd has rotated.
pub fn remove_files(directory: &Path, vm_uid: &str) -> io::Result<()> {
    let (socket, log, rotated) = (format!("{vm_uid}.sock"), format!("{vm_uid}.log"), format!("{vm_uid}.log."));
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == socket || name == log || name.starts_with(&rotated) {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_may_enter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/console");
        for _ in 0..2 {
            ensure_directory(&path).unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
            fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        }
    }

    #[test]
    fn what_others_could_redirect_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/tmp", &link).unwrap();
        assert!(matches!(ensure_directory(&link), Err(ConsoleDirectoryError::Foreign(_))));
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(ensure_directory(&file), Err(ConsoleDirectoryError::Foreign(_))));
        assert!(matches!(ensure_directory(Path::new("console")), Err(ConsoleDirectoryError::Relative(_))));
    }

    #[test]
    fn a_vms_files_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.sock", "a.log", "a.log.0", "a.log.1", "ab.log", "b.sock", "a.logs"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        remove_files(dir.path(), "a").unwrap();
        remove_files(dir.path(), "a").unwrap();
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["a.logs", "ab.log", "b.sock"]);
    }
}
