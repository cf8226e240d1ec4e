//! Disks: copy-on-write clones of images, and empty ones.

use std::path::Path;

use tokio::task::spawn_blocking;
use ucloud_agent_core::{
    HostError,
    block_store::{Content, Disk, DiskRequest},
    hypervisor::DiskSource,
};
use ucloud_agent_import::{
    TooLarge, finished,
    qcow2::{self, Header, Refused},
    qemu_img::QemuImgError,
    summary::summary,
};
use ucloud_types::{Quantity, image::Sha256};

use crate::{
    Files,
    import::{staged, virtual_size},
    store::{Backing, DISK_MODE, Lock, Store, StoreError},
};

/// Why a disk is not there as it should be.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Its image is not there.
    #[error("its image is not on this host yet")]
    NoImage,
    /// It was to be there.
    #[error("it is not in the pool any more; delete the volume, or put its file back")]
    NoDisk,
    /// It would not hold its image.
    #[error("its size {size} is less than its image's, {image}; enlarge it")]
    TooSmall {
        /// What was asked for.
        size: Quantity,
        /// The image's.
        image: Quantity,
    },
    /// It would be larger than disks may be.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// There is one, of another image.
    #[error("it is there already, and is a clone of another image; delete the VM to be rid of it")]
    OtherImage,
    /// It is to be empty, and has no size.
    #[error("it has no size")]
    NoSize,
    /// There is one that we have not made, or that was changed.
    #[error("the disk that is there already is not sound")]
    Unsound(#[from] Refused),
    /// It runs, or is copied, so it cannot grow.
    #[error("it cannot grow while the VM runs or a snapshot is made of it; stop the VM first")]
    InUse,
    /// It cannot be made or grown.
    #[error(transparent)]
    QemuImg(QemuImgError),
    /// The pool fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<QemuImgError> for DiskError {
    fn from(error: QemuImgError) -> Self {
        match error {
            QemuImgError::Full => Self::Store(StoreError::Full),
            QemuImgError::InUse => Self::InUse,
            error => Self::QemuImg(error),
        }
    }
}

/// What is done for a disk, for messages.
pub fn act(request: &DiskRequest) -> String {
    format!("make disk {} of {} in pool {}", request.id.name, request.id.owner_uid, request.pool.name)
}

impl DiskError {
    /// As an answer to a caller.
    pub fn reported(self, request: &DiskRequest) -> HostError {
        let act = act(request);
        let message = format!("cannot {act}: {}", summary(&self));
        match self {
            Self::NoImage => HostError::retryable("ImageMissing", message),
            Self::NoDisk => HostError::retryable("DiskMissing", message),
            Self::TooSmall { .. } => HostError::terminal("SizeTooSmall", message),
            Self::TooLarge(_) => HostError::terminal("SizeTooLarge", message),
            Self::OtherImage => HostError::terminal("DiskMismatch", message),
            Self::NoSize => HostError::terminal("SizeMissing", message),
            Self::Unsound(refused) => HostError::terminal("DiskRefused", message).caused_by(refused),
            Self::InUse => HostError::retryable("DiskInUse", message),
            Self::QemuImg(error) => HostError::retryable("DiskFailed", message).caused_by(error),
            Self::Store(error) => error.reported(&act),
        }
    }
}

impl Files {
    /// Makes or grows a disk.
    pub(crate) async fn make_disk(&self, store: &Store, request: &DiskRequest) -> Result<Disk, DiskError> {
        // Held to the end: the image must not be removed between our look at it and the disk that needs it.
        let lock = self.turns.lock(store).await?;
        let path = store.disk(&request.id);
        let (looked_store, content, looked) = (store.clone(), request.content.clone(), path.clone());
        let look = spawn_blocking(move || {
            let backing = match content {
                Content::Empty => Some(Backing::None),
                Content::Kept => None,
                Content::Image(uid) => looked_store.linked(&uid)?.map(Backing::Content),
            };
            let exists = looked.try_exists().map_err(|error| StoreError::new("look at a disk", error))?;
            let header = exists.then(|| qcow2::read_header(&looked)).transpose();
            Ok((backing, header.map_err(|error| StoreError::new("read a disk's header", error))?))
        });
        match finished("look at a disk", look.await)? {
            (backing, Some(header)) => self.adopt(store, request, backing.as_ref(), &header?).await,
            (Some(backing), None) => self.create(store, request, backing, lock).await,
            (None, None) if request.content == Content::Kept => Err(DiskError::NoDisk),
            (None, None) => Err(DiskError::NoImage),
        }
    }

    /// A disk that is there, grown to its size. It is kept although its image may have been removed since.
    async fn adopt(
        &self,
        store: &Store,
        request: &DiskRequest,
        wanted: Option<&Backing>,
        header: &Header,
    ) -> Result<Disk, DiskError> {
        header.check_sound()?;
        let backing = Backing::of(header).ok_or(DiskError::OtherImage)?;
        if wanted.is_some_and(|wanted| *wanted != backing) {
            return Err(DiskError::OtherImage);
        }
        let path = store.disk(&request.id);
        let wanted = request.size.map_or(Ok(0), |size| self.importer.whole_sectors(size.bytes()))?;
        if wanted > header.virtual_size {
            let turn = self.disk_turn(&request.pool, &request.id);
            let _turn = turn.try_lock().map_err(|_| DiskError::InUse)?;
            self.importer.qemu_img().grow(&path, wanted).await?;
        }
        Ok(disk(store, &path, &backing, wanted.max(header.virtual_size)))
    }

    async fn create(
        &self,
        store: &Store,
        request: &DiskRequest,
        backing: Backing,
        lock: Lock,
    ) -> Result<Disk, DiskError> {
        let wanted = request.size.map(Quantity::bytes);
        let size = match &backing {
            Backing::None => self.importer.whole_sectors(wanted.ok_or(DiskError::NoSize)?)?,
            Backing::Content(image) => self.size_of_clone(store, image, wanted).await?,
        };
        let staged = staged(store, "disk").await?;
        let qemu_img = self.importer.qemu_img();
        match &backing {
            Backing::None => qemu_img.create(staged.path(), size).await?,
            Backing::Content(image) => {
                qemu_img.create_clone(staged.path(), &Store::backing_name(image), size).await?;
            }
        }
        let path = store.disk(&request.id);
        let published = path.clone();
        let publish = spawn_blocking(move || staged.publish(&published, DISK_MODE, &lock)).await;
        finished("publish a disk", publish)?;
        Ok(disk(store, &path, &backing, size))
    }

    /// The size of a clone of this image: what was asked for, or the image's own.
    async fn size_of_clone(&self, store: &Store, image: &Sha256, wanted: Option<u64>) -> Result<u64, DiskError> {
        let content = store.content(image);
        let measured = spawn_blocking(move || virtual_size(&content)).await;
        let image_size = finished("read an image's header", measured)?;
        let size = self.importer.whole_sectors(wanted.unwrap_or(image_size))?;
        if size < image_size {
            let (size, image) = (Quantity::from_bytes(size), Quantity::from_bytes(image_size));
            return Err(DiskError::TooSmall { size, image });
        }
        Ok(size)
    }
}

fn disk(store: &Store, path: &Path, backing: &Backing, size: u64) -> Disk {
    let backing = match backing {
        Backing::None => None,
        Backing::Content(sha256) => Some(store.content(sha256)),
    };
    let source = DiskSource::Overlay { path: path.to_owned(), backing };
    Disk { source, size: Quantity::from_bytes(size) }
}
