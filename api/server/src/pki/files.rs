//! Reading and writing the files: whole or not at all, and keys for their owner alone.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use super::PkiError;

/// Who may read a file.
#[derive(Clone, Copy)]
pub enum Mode {
    /// Everybody: a certificate.
    Public = 0o644,
    /// Its owner: a key, or what holds one.
    Secret = 0o600,
}

/// The file's text; `None` where there is no such file.
pub fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

/// Makes a folder that nobody but its owner can look into, where there is none.
pub fn make_private_folder(path: &Path) -> Result<(), PkiError> {
    let attempt = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            // what an operator has made stays as it is
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    };
    attempt().map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

/// Writes the file by renaming a complete one over it, and makes its folder where there is none.
pub fn write(path: &Path, text: &str, mode: Mode) -> Result<(), PkiError> {
    let attempt = || -> io::Result<()> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder)?;
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .permissions(fs::Permissions::from_mode(mode as u32))
            .tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(|source| PkiError::Write { path: path.to_owned(), source })
}
