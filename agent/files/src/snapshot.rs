//! Keeping a disk as an image: a copy of it, complete in itself, becomes a content. qemu-img makes the copy where no VM uses the
//! disk; where one does, the hypervisor makes it, into a file in the making.

use std::path::PathBuf;

use tokio::task::spawn_blocking;
use ucloud_agent_core::{
    HostError,
    block_store::{CopyTarget, SnapshotRequest, StoredImage},
};
use ucloud_agent_import::{
    TooLarge, finished, names,
    qcow2::{self, Header, Refused},
    qemu_img::{QemuImgError, Source},
    snapshot_act,
    summary::summary,
};
use ucloud_types::image::ImageFormat;

use crate::{
    Files,
    import::staged,
    store::{Backing, CONTENT_MODE, Staged, Store, StoreError},
    stored,
};

/// Why a disk was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not there.
    #[error("it is not on this host")]
    NoDisk,
    /// A VM runs on it.
    #[error("a VM runs on it; stop the VM, or let the hypervisor copy it")]
    InUse,
    /// Its header is not one of a disk of ours.
    #[error("the disk is not sound")]
    Unsound(#[from] Refused),
    /// Its header names a file that is no image.
    #[error("the disk is not sound: it needs a file that is no image of the pool")]
    OtherBacking,
    /// It is larger than disks may be.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// What the hypervisor was to copy it to is not its copy.
    #[error("its copy is not sound")]
    Copy(#[source] Refused),
    /// The copy is of another size, or no file of this pool.
    #[error("its copy is another disk's")]
    OtherCopy,
    /// It cannot be copied, or the copy cannot be read.
    #[error(transparent)]
    QemuImg(QemuImgError),
    /// The pool fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<QemuImgError> for SnapshotError {
    fn from(error: QemuImgError) -> Self {
        match error {
            QemuImgError::Full => Self::Store(StoreError::Full),
            QemuImgError::InUse => Self::InUse,
            error => Self::QemuImg(error),
        }
    }
}

impl SnapshotError {
    /// As an answer to a caller.
    pub fn reported(self, request: &SnapshotRequest) -> HostError {
        let act = snapshot_act(request);
        let message = format!("cannot {act}: {}", summary(&self));
        match self {
            Self::NoDisk => HostError::retryable("DiskMissing", message),
            Self::InUse => HostError::retryable("DiskInUse", message),
            Self::TooLarge(_) => HostError::terminal("SizeTooLarge", message),
            Self::Unsound(_) | Self::OtherBacking | Self::QemuImg(QemuImgError::Unreadable(_)) => {
                HostError::terminal("DiskRefused", message).caused_by(self)
            }
            Self::QemuImg(QemuImgError::TooMuchData(_)) => HostError::terminal("ImageTooLarge", message),
            Self::Copy(_) | Self::OtherCopy => HostError::retryable("CopyRefused", message).caused_by(self),
            Self::QemuImg(error) => HostError::retryable("SnapshotFailed", message).caused_by(error),
            Self::Store(error) => error.reported(&act),
        }
    }
}

/// What keeps the file that a disk is copied to.
struct Target {
    staged: Staged,
    /// The size of the disk, in bytes.
    size: u64,
}

impl Files {
    /// Copies a disk that no VM uses, and keeps the copy.
    pub(crate) async fn keep_disk(
        &self,
        store: &Store,
        request: &SnapshotRequest,
    ) -> Result<StoredImage, SnapshotError> {
        let (path, header) = look(store, request).await?;
        // Its guest may have written anything into the header, had it got hold of QEMU
        header.check_sound()?;
        let backing = match Backing::of(&header).ok_or(SnapshotError::OtherBacking)? {
            Backing::None => None,
            Backing::Content(sha256) => Some(store.content(&sha256)),
        };
        self.importer.whole_sectors(header.virtual_size)?;
        let turn = self.disk_turn(&request.pool, &request.disk);
        let _turn = turn.lock().await;
        let copy = staged(store, "snapshot").await?;
        self.importer.copy_disk(&path, backing.as_deref(), header.virtual_size, copy.path()).await?;
        self.publish(store, request, copy).await
    }

    /// A file that the disk can be copied to.
    pub(crate) async fn make_target(
        &self,
        store: &Store,
        request: &SnapshotRequest,
    ) -> Result<CopyTarget, SnapshotError> {
        let (_, header) = look(store, request).await?;
        let size = self.importer.whole_sectors(header.virtual_size)?;
        let staged = staged(store, "copy").await?;
        self.importer.qemu_img().create(staged.path(), size).await?;
        Ok(CopyTarget { path: staged.path().to_owned(), keeper: Box::new(Target { staged, size }) })
    }

    /// Keeps the file that the disk was copied to.
    pub(crate) async fn keep_target(
        &self,
        store: &Store,
        request: &SnapshotRequest,
        copy: CopyTarget,
    ) -> Result<StoredImage, SnapshotError> {
        let target = copy.keeper.downcast::<Target>().map_err(|_| SnapshotError::OtherCopy)?;
        let Target { staged, size } = *target;
        let look = spawn_blocking(move || {
            staged.own()?;
            let length = staged.path().metadata().map_err(|error| StoreError::new("look at a copy", error))?.len();
            let header = qcow2::read_header(staged.path());
            Ok((staged, length, header.map_err(|error| StoreError::new("read a copy's header", error))?))
        });
        let (staged, length, header) = finished("look at a copy", look.await)?;
        let header = header.map_err(SnapshotError::Copy)?;
        header.check_complete(length, size).map_err(SnapshotError::Copy)?;
        if header.virtual_size != size {
            return Err(SnapshotError::OtherCopy);
        }
        self.importer.qemu_img().check(Source::File(staged.path()), ImageFormat::Qcow2).await?;
        self.publish(store, request, staged).await
    }

    async fn publish(
        &self,
        store: &Store,
        request: &SnapshotRequest,
        copy: Staged,
    ) -> Result<StoredImage, SnapshotError> {
        // Held until the image is linked: what nothing needs is swept
        let lock = self.turns.lock(store).await?;
        let (store, uid) = (store.clone(), request.image_uid.clone());
        let publish = spawn_blocking(move || {
            let sha256 = names::snapshot_content(&uid);
            let content = store.content(&sha256);
            if content.exists() {
                // Left over from an earlier attempt, it is of another moment. What a disk is a clone of stays
                store.sweep_contents(&lock)?;
            }
            if !content.exists() {
                copy.publish(&content, CONTENT_MODE, &lock)?;
            }
            store.link(&uid, &sha256, &lock)?;
            stored(&store, &uid)
        });
        finished("publish a snapshot", publish.await)?.ok_or(SnapshotError::NoDisk)
    }
}

/// Where the disk is, and its header.
async fn look(store: &Store, request: &SnapshotRequest) -> Result<(PathBuf, Header), SnapshotError> {
    let path = store.disk(&request.disk);
    let looked = path.clone();
    let look = spawn_blocking(move || match qcow2::read_header(&looked) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        header => Ok(Some(header.map_err(|error| StoreError::new("read a disk's header", error))?)),
    });
    let header = finished("look at a disk", look.await)?.ok_or(SnapshotError::NoDisk)?;
    Ok((path, header?))
}
