//! Files in a pool: those that are on their way, and those that are complete.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use ucloud_agent_core::file_store::Stored;
use ucloud_types::image::Sha256;

use super::{Store, StoreError, doing, names, remove, sync};

/// What the name of a file says that is not complete.
const PART: &str = "part";

impl Store {
    pub(super) fn uploads(&self) -> PathBuf {
        self.root.join("files")
    }

    /// The bytes of a File that is not complete.
    pub fn part(&self, uid: &str) -> PathBuf {
        self.uploads().join(format!("{uid}.{PART}"))
    }

    /// The bytes of a File that is complete.
    pub fn complete(&self, uid: &str, sha256: &Sha256) -> PathBuf {
        self.uploads().join(format!("{uid}.{}", sha256.hex()))
    }

    /// What there is of all Files, by UID.
    pub fn files(&self) -> Result<BTreeMap<String, Stored>, StoreError> {
        let mut files = BTreeMap::new();
        for name in names(&self.uploads())? {
            match name.split_once('.') {
                Some((uid, PART)) => {
                    let size = self.part_size(uid)?;
                    files.entry(uid.to_owned()).or_insert(Stored::Partial(size));
                }
                Some((uid, hex)) => {
                    if let Ok(sha256) = Sha256::try_from(format!("sha256:{hex}")) {
                        files.insert(uid.to_owned(), Stored::Complete(sha256));
                    }
                }
                None => {}
            }
        }
        Ok(files)
    }

    /// What there is of one.
    pub fn file(&self, uid: &str) -> Result<Stored, StoreError> {
        Ok(self.files()?.remove(uid).unwrap_or(Stored::Partial(0)))
    }

    /// How many bytes there are of one.
    pub fn file_size(&self, uid: &str) -> Result<Option<u64>, StoreError> {
        match self.files()?.remove(uid) {
            None => Ok(None),
            Some(Stored::Partial(size)) => Ok(Some(size)),
            Some(Stored::Complete(sha256)) => {
                let path = self.complete(uid, &sha256);
                Ok(Some(doing("look at a file", fs::metadata(path))?.len()))
            }
        }
    }

    fn part_size(&self, uid: &str) -> Result<u64, StoreError> {
        match fs::metadata(self.part(uid)) {
            // it has become complete, or was removed
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            metadata => Ok(doing("look at a file", metadata)?.len()),
        }
    }

    /// Makes a file complete of which every byte is on the disk.
    pub fn complete_file(&self, uid: &str, sha256: &Sha256) -> Result<(), StoreError> {
        doing("name a file", fs::rename(self.part(uid), self.complete(uid, sha256)))?;
        sync(&self.uploads())
    }

    /// Removes whatever there is of a File.
    pub fn remove_file(&self, uid: &str) -> Result<(), StoreError> {
        for name in names(&self.uploads())? {
            if name.split_once('.').is_some_and(|(owner, _)| owner == uid) {
                remove(&self.uploads().join(name))?;
            }
        }
        sync(&self.uploads())
    }
}
