//! radvd's files: read, replaced and kept short.

use std::{
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

/// What the file holds; nothing where there is none. What is no text becomes text that nobody wrote.
pub(crate) fn read_file(path: &Path) -> io::Result<String> {
    match std::fs::read(path) {
        Ok(content) => Ok(String::from_utf8_lossy(&content).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error),
    }
}

/// Writes a file anew. radvd reads no configuration that its user could write.
pub(crate) fn write_file(path: &Path, text: &str) -> io::Result<()> {
    remove_file(path)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Removes a file; one that is gone already is no error.
pub(crate) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Empties a file that is larger than this many bytes.
pub(crate) fn limit_file(path: &Path, bytes: u64) -> io::Result<()> {
    match std::fs::OpenOptions::new().write(true).open(path) {
        Ok(file) if file.metadata()?.len() > bytes => file.set_len(0),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_over_its_limit_is_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        limit_file(&path, 3).unwrap();
        write_file(&path, "123").unwrap();
        limit_file(&path, 3).unwrap();
        assert_eq!(read_file(&path).unwrap(), "123");
        limit_file(&path, 2).unwrap();
        assert!(path.exists() && read_file(&path).unwrap().is_empty());
        remove_file(&path).unwrap();
        remove_file(&path).unwrap();
        assert!(!path.exists() && read_file(&path).unwrap().is_empty());
    }
}
