//! The stores of a host: for each pool that of its kind.

use std::{collections::BTreeMap, ops::Range};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use ucloud_agent_core::{
    BlockStore, FileStore, HostError,
    block_store::{
        CopyTarget, Disk, DiskId, DiskRequest, ImageRequest, Pool, PoolBackend, PoolUsage, Readable, SnapshotRequest,
        StoredImage,
    },
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_agent_files::Files;
use ucloud_agent_rbd::Rbd;
use ucloud_types::Quantity;

/// Directories and pools of Ceph.
pub struct Stores {
    pub files: Files,
    pub rbd: Rbd,
}

impl Stores {
    fn of(&self, pool: &Pool) -> &dyn BlockStore {
        match pool.backend {
            PoolBackend::Directory { .. } => &self.files,
            PoolBackend::Rbd(_) => &self.rbd,
        }
    }
}

#[async_trait]
impl BlockStore for Stores {
    async fn usage(&self, pool: &Pool) -> Result<PoolUsage, HostError> {
        self.of(pool).usage(pool).await
    }

    async fn import_image(
        &self,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
    ) -> Result<StoredImage, HostError> {
        self.of(&request.pool).import_image(request, percent).await
    }

    async fn image(&self, pool: &Pool, image_uid: &str) -> Result<Option<StoredImage>, HostError> {
        self.of(pool).image(pool, image_uid).await
    }

    async fn images(&self, pool: &Pool) -> Result<Vec<String>, HostError> {
        self.of(pool).images(pool).await
    }

    async fn remove_image(&self, pool: &Pool, image_uid: &str) -> Result<(), HostError> {
        self.of(pool).remove_image(pool, image_uid).await
    }

    async fn snapshot(&self, request: &SnapshotRequest) -> Result<StoredImage, HostError> {
        self.of(&request.pool).snapshot(request).await
    }

    async fn copy_target(&self, request: &SnapshotRequest) -> Result<Option<CopyTarget>, HostError> {
        self.of(&request.pool).copy_target(request).await
    }

    async fn keep_copy(&self, request: &SnapshotRequest, copy: CopyTarget) -> Result<StoredImage, HostError> {
        self.of(&request.pool).keep_copy(request, copy).await
    }

    async fn ensure_disk(&self, request: &DiskRequest) -> Result<Disk, HostError> {
        self.of(&request.pool).ensure_disk(request).await
    }

    async fn disks(&self, pool: &Pool) -> Result<Vec<DiskId>, HostError> {
        self.of(pool).disks(pool).await
    }

    async fn disk_size(&self, pool: &Pool, disk: &DiskId) -> Result<Option<Quantity>, HostError> {
        self.of(pool).disk_size(pool, disk).await
    }

    async fn rename_disk(&self, pool: &Pool, from: &DiskId, to: &DiskId) -> Result<Quantity, HostError> {
        self.of(pool).rename_disk(pool, from, to).await
    }

    async fn remove_disk(&self, pool: &Pool, disk: &DiskId) -> Result<(), HostError> {
        self.of(pool).remove_disk(pool, disk).await
    }

    async fn size(&self, pool: &Pool, what: &Readable) -> Result<Option<u64>, HostError> {
        self.of(pool).size(pool, what).await
    }

    async fn read(
        &self,
        pool: &Pool,
        what: &Readable,
        range: Range<u64>,
        into: mpsc::Sender<Bytes>,
    ) -> Result<(), HostError> {
        self.of(pool).read(pool, what, range, into).await
    }
}

/// Files in directories and in pools of Ceph.
pub struct FileStores {
    pub directories: ucloud_agent_files::Uploads,
    pub rbd: ucloud_agent_rbd::Uploads,
}

impl FileStores {
    fn of(&self, pool: &Pool) -> &dyn FileStore {
        match pool.backend {
            PoolBackend::Directory { .. } => &self.directories,
            PoolBackend::Rbd(_) => &self.rbd,
        }
    }
}

#[async_trait]
impl FileStore for FileStores {
    async fn files(&self, pool: &Pool) -> Result<BTreeMap<String, Stored>, HostError> {
        self.of(pool).files(pool).await
    }

    async fn stored(&self, file: &FileRequest) -> Result<Stored, HostError> {
        self.of(&file.pool).stored(file).await
    }

    async fn append(
        &self,
        file: &FileRequest,
        offset: u64,
        bytes: mpsc::Receiver<Bytes>,
    ) -> Result<Stored, AppendError> {
        self.of(&file.pool).append(file, offset, bytes).await
    }

    async fn open(&self, file: &FileRequest) -> Result<Option<std::fs::File>, HostError> {
        self.of(&file.pool).open(file).await
    }

    async fn read(&self, file: &FileRequest, range: Range<u64>, into: mpsc::Sender<Bytes>) -> Result<(), HostError> {
        self.of(&file.pool).read(file, range, into).await
    }

    async fn size(&self, pool: &Pool, uid: &str) -> Result<Option<Quantity>, HostError> {
        self.of(pool).size(pool, uid).await
    }

    async fn remove(&self, pool: &Pool, uid: &str) -> Result<(), HostError> {
        self.of(pool).remove(pool, uid).await
    }
}
