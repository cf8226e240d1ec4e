//! A pool's directory: where everything is, how it becomes visible, and who may change it when.
//!
//! ```text
//!   POOL/lock                      held while links, contents or disks change
//!   POOL/images/sha256/HEX.qcow2   content, by the checksum of its source (a snapshot's: of its Image's UID); read-only
//!   POOL/images/by-uid/UID         symlink to the content of the Image with this UID
//!   POOL/disks/UID.NAME.qcow2      disk NAME of the VM, or Volume, with this UID; its backing file, if any, is a content
//!   POOL/files/UID.part            the bytes of the File with this UID that have come so far
//!   POOL/files/UID.HEX             all of them, with their checksum
//!   POOL/tmp/                      what is in the making
//! ```
//! Nothing is ever made in place (but Files, which come piece by piece and resume): what is whole and on the disk is
//! renamed to where it belongs. There is no database: images are found by their links, disks by their names, and what a
//! disk needs by its own header.

mod files;
mod lock;
mod staged;

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::sys::statvfs::statvfs;
use ucloud_agent_core::block_store::{DiskId, PoolUsage};
pub use ucloud_agent_import::StoreError;
use ucloud_agent_import::{error::doing, qcow2};
use ucloud_types::{Quantity, image::Sha256};

pub use lock::{Lock, Turns};
pub use staged::Staged;

/// The paths in a pool. Names must have been checked by [`ucloud_agent_import::names`].
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// The folders must be passed by QEMU, which is no friend of ours: it may look up what it knows the name of.
const FOLDER_MODE: u32 = 0o711;
/// A content: read by everybody's QEMU, written by nobody.
pub const CONTENT_MODE: u32 = 0o444;
/// A disk: libvirt gives it to its QEMU when it starts.
pub const DISK_MODE: u32 = 0o600;

impl Store {
    /// The pool in this directory, with all the folders that it needs.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        let folders = [root.to_owned(), store.contents(), store.links(), store.disks(), store.uploads(), store.tmp()];
        for folder in &folders {
            doing("make the pool's folders", DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder))?;
        }
        let metadata = doing("look at the pool", root.metadata())?;
        let mode = metadata.permissions().mode();
        if mode & 0o111 != 0o111 {
            doing("open the pool to QEMU", fs::set_permissions(root, Permissions::from_mode(mode | 0o111)))?;
        }
        Ok(store)
    }

    fn contents(&self) -> PathBuf {
        self.root.join("images/sha256")
    }

    fn links(&self) -> PathBuf {
        self.root.join("images/by-uid")
    }

    fn disks(&self) -> PathBuf {
        self.root.join("disks")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The file of a content.
    pub fn content(&self, sha256: &Sha256) -> PathBuf {
        self.contents().join(content_name(sha256))
    }

    /// The file of a disk.
    pub fn disk(&self, disk: &DiskId) -> PathBuf {
        self.disks().join(format!("{}.{}.qcow2", disk.owner_uid, disk.name))
    }

    /// The name of a content as a disk's header holds it: relative, so that a pool can be moved. It holds for
    /// a disk that is still in tmp, too.
    pub fn backing_name(sha256: &Sha256) -> String {
        format!("../images/sha256/{}", content_name(sha256))
    }

    /// Size and room of the file system.
    pub fn usage(&self) -> Result<PoolUsage, StoreError> {
        let stat = doing("look at the file system", statvfs(&self.root).map_err(io::Error::from))?;
        let bytes = |blocks: u64| Quantity::from_bytes(blocks.saturating_mul(stat.fragment_size()));
        Ok(PoolUsage { capacity: bytes(stat.blocks()), available: bytes(stat.blocks_available()) })
    }

    /// The content that an image is linked to, if it is there.
    pub fn linked(&self, image_uid: &str) -> Result<Option<Sha256>, StoreError> {
        let target = match fs::read_link(self.links().join(image_uid)) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                return Ok(None);
            }
            target => doing("read an image's link", target)?,
        };
        let sha256 = target.file_name().and_then(parse_content);
        let exists = |sha256: &Sha256| doing("look at an image", self.content(sha256).try_exists());
        match sha256 {
            Some(sha256) if exists(&sha256)? => Ok(Some(sha256)),
            _ => Ok(None),
        }
    }

    /// The UIDs of all links.
    pub fn image_uids(&self) -> Result<Vec<String>, StoreError> {
        let mut uids = names(&self.links())?;
        uids.sort();
        Ok(uids)
    }

    /// All disks.
    pub fn disk_ids(&self) -> Result<Vec<DiskId>, StoreError> {
        let mut disks: Vec<_> = names(&self.disks())?.iter().filter_map(|name| parse_disk(name)).collect();
        disks.sort();
        Ok(disks)
    }

    /// Links an image to a content.
    pub fn link(&self, image_uid: &str, sha256: &Sha256, _: &Lock) -> Result<(), StoreError> {
        let new = self.tmp().join(format!("link-{}", uuid::Uuid::new_v4()));
        let target = Path::new("../sha256").join(content_name(sha256));
        doing("link an image", std::os::unix::fs::symlink(target, &new))?;
        doing("link an image", fs::rename(&new, self.links().join(image_uid)))?;
        sync(&self.links())
    }

    /// Removes an image's link.
    pub fn unlink(&self, image_uid: &str, _: &Lock) -> Result<(), StoreError> {
        remove(&self.links().join(image_uid))?;
        sync(&self.links())
    }

    /// The size of a disk that guests see; none if there is none, or nobody can read it.
    pub fn disk_size(&self, disk: &DiskId) -> Result<Option<u64>, StoreError> {
        match qcow2::read_header(&self.disk(disk)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            header => Ok(doing("read a disk's header", header)?.ok().map(|header| header.virtual_size)),
        }
    }

    /// Gives a disk another owner and name, unless it has them already, and tells its size.
    pub fn rename_disk(&self, from: &DiskId, to: &DiskId, _: &Lock) -> Result<Result<u64, NotRenamed>, StoreError> {
        let (old, new) = (self.disk(from), self.disk(to));
        let exists = |path: &Path| doing("look at a disk", path.try_exists());
        match (exists(&old)?, exists(&new)?) {
            (false, false) => return Ok(Err(NotRenamed::Missing)),
            (true, true) => return Ok(Err(NotRenamed::Taken)),
            (true, false) => {
                doing("rename a disk", fs::rename(&old, &new))?;
                sync(&self.disks())?;
            }
            (false, true) => {}
        }
        Ok(self.disk_size(to)?.ok_or(NotRenamed::Missing))
    }

    /// Removes a disk.
    pub fn remove_disk(&self, disk: &DiskId, _: &Lock) -> Result<(), StoreError> {
        remove(&self.disk(disk))?;
        sync(&self.disks())
    }

    /// Removes the contents that no image is linked to and no disk needs. When a disk cannot be read, nobody
    /// knows what it needs, and everything stays.
    pub fn sweep_contents(&self, _: &Lock) -> Result<(), StoreError> {
        let mut needed = HashSet::new();
        for uid in names(&self.links())? {
            needed.extend(self.linked(&uid)?);
        }
        for name in names(&self.disks())? {
            let path = self.disks().join(&name);
            let header = doing("read a disk's header", qcow2::read_header(&path))?;
            match header.ok().and_then(|header| Backing::of(&header)) {
                Some(Backing::None) => {}
                Some(Backing::Content(sha256)) => drop(needed.insert(sha256)),
                None => {
                    tracing::warn!(disk = %path.display(), "nobody knows what this disk needs: no image is removed");
                    return Ok(());
                }
            }
        }
        for name in names(&self.contents())? {
            if parse_content(OsStr::new(&name)).is_some_and(|sha256| !needed.contains(&sha256)) {
                tracing::info!(content = %name, "removing an image that nothing needs any more");
                remove(&self.contents().join(&name))?;
            }
        }
        sync(&self.contents())
    }
}

/// Why a disk was not renamed.
#[derive(Debug, thiserror::Error)]
pub enum NotRenamed {
    /// It is not there.
    #[error("it is not there, or is no sound disk")]
    Missing,
    /// Another one has the name.
    #[error("there is another disk of the new name")]
    Taken,
}

/// What a disk of ours needs besides itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Nothing: it was empty in the beginning.
    None,
    /// The content that it is a clone of.
    Content(Sha256),
}

impl Backing {
    /// From the disk's header. None: it names what is no content.
    pub fn of(header: &qcow2::Header) -> Option<Self> {
        let Some(name) = header.backing.as_deref() else { return Some(Self::None) };
        let name = std::str::from_utf8(name).ok()?;
        parse_content(OsStr::new(name.strip_prefix("../images/sha256/")?)).map(Self::Content)
    }
}

fn content_name(sha256: &Sha256) -> String {
    format!("{}.qcow2", sha256.hex())
}

fn parse_content(name: &OsStr) -> Option<Sha256> {
    Sha256::try_from(format!("sha256:{}", name.to_str()?.strip_suffix(".qcow2")?)).ok()
}

fn parse_disk(name: &str) -> Option<DiskId> {
    let (owner_uid, name) = name.strip_suffix(".qcow2")?.split_once('.')?;
    Some(DiskId { owner_uid: owner_uid.to_owned(), name: name.to_owned() })
}

fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    doing("list a folder of the pool", read())
}

fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => doing("remove a file of the pool", result),
    }
}

fn sync(folder: &Path) -> Result<(), StoreError> {
    doing("write out a folder of the pool", File::open(folder).and_then(|folder| folder.sync_all()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sha256(byte: u8) -> Sha256 {
        Sha256::from([byte; 32])
    }

    #[test]
    fn names_of_files_say_what_they_are() {
        let store = Store { root: "/pool".into() };
        let disk = DiskId { owner_uid: "0b4a-11".into(), name: "root".into() };
        let path = store.disk(&disk);
        assert_eq!(path, Path::new("/pool/disks/0b4a-11.root.qcow2"));
        assert_eq!(parse_disk(path.file_name().unwrap().to_str().unwrap()), Some(disk));
        let content = store.content(&sha256(7));
        assert_eq!(parse_content(content.file_name().unwrap()), Some(sha256(7)));
        for name in ["a", "a.qcow2", "a.raw", ".qcow2.."] {
            assert_eq!(parse_content(OsStr::new(name)), None);
            assert_eq!(parse_disk(name), None);
        }
    }

    #[tokio::test]
    async fn what_is_in_the_making_is_swept_only_when_nobody_makes_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let living = Staged::new(&store, "living").unwrap();
        fs::write(store.tmp().join("left-over"), "bytes").unwrap();
        std::os::unix::fs::symlink("nowhere", store.tmp().join("link-left-over")).unwrap();
        let lock = Turns::default().lock(&store).await.unwrap();
        store.sweep_tmp(&lock).unwrap();
        assert_eq!(names(&store.tmp()).unwrap(), [living.path().file_name().unwrap().to_str().unwrap()]);
        drop(living);
        assert_eq!(names(&store.tmp()).unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn a_file_appears_whole_and_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = Turns::default().lock(&store).await.unwrap();
        let staged = Staged::new(&store, "content").unwrap();
        fs::write(staged.path(), "bytes").unwrap();
        staged.publish(&store.content(&sha256(1)), CONTENT_MODE, &lock).unwrap();
        assert_eq!(store.content(&sha256(1)).metadata().unwrap().permissions().mode() & 0o777, CONTENT_MODE);
        assert_eq!(names(&store.tmp()).unwrap(), [""; 0]);

        store.link("a", &sha256(1), &lock).unwrap();
        store.link("a", &sha256(1), &lock).unwrap();
        store.link("dangling", &sha256(2), &lock).unwrap();
        assert_eq!(store.linked("a").unwrap(), Some(sha256(1)));
        assert_eq!(store.linked("dangling").unwrap(), None);
        assert_eq!(store.linked("absent").unwrap(), None);
        store.unlink("a", &lock).unwrap();
        store.unlink("a", &lock).unwrap();
        store.sweep_contents(&lock).unwrap();
        assert!(!store.content(&sha256(1)).exists());
    }

    #[tokio::test]
    async fn a_disk_that_nobody_understands_keeps_every_image() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lock = Turns::default().lock(&store).await.unwrap();
        fs::write(store.content(&sha256(1)), "bytes").unwrap();
        let disk = store.disk(&DiskId { owner_uid: "a".into(), name: "root".into() });
        fs::write(&disk, "not a qcow2 file").unwrap();
        store.sweep_contents(&lock).unwrap();
        assert!(store.content(&sha256(1)).exists());
        fs::remove_file(&disk).unwrap();
        store.sweep_contents(&lock).unwrap();
        assert!(!store.content(&sha256(1)).exists());
    }
}
