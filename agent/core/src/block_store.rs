//! The block store: images and the disks that are cloned from them.

use std::{any::Any, ops::Range, path::PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use ucloud_types::{
    Quantity,
    image::{Compression, ImageFormat, ImageSource, Sha256},
};

use crate::{HostError, hypervisor::DiskSource};

/// Keeps images and disks in pools.
#[async_trait]
pub trait BlockStore: Send + Sync + 'static {
    /// Size and room of a pool, after making what the pool needs on this host.
    async fn usage(&self, pool: &Pool) -> Result<PoolUsage, HostError>;

    /// Fetches, checks and converts an image, unless that was done already. Runs until it is done; `percent`
    /// is told how far it is; an import to which nobody listens any more may be broken off. Two calls for one image do
    /// the work once.
    ///
    /// Nothing that was fetched is trusted before it was inspected: it must be of the claimed format, complete
    /// in itself (no backing file, no data file), and have the claimed checksum.
    async fn import_image(&self, request: &ImageRequest, percent: &watch::Sender<u8>)
    -> Result<StoredImage, HostError>;

    /// The image with this UID, if it is there, complete.
    async fn image(&self, pool: &Pool, image_uid: &str) -> Result<Option<StoredImage>, HostError>;

    /// The UIDs of all images that are there, complete.
    async fn images(&self, pool: &Pool) -> Result<Vec<String>, HostError>;

    /// Removes the image with this UID, after an import of it that was broken off has ended. Its bytes stay as long as
    /// another image or a disk needs them.
    async fn remove_image(&self, pool: &Pool, image_uid: &str) -> Result<(), HostError>;

    /// Keeps what a disk holds now as the image with this UID, whole, unless that is there already. In a pool that all hosts
    /// share this takes a moment, also while a VM runs on the disk. In a directory the disk is copied, and must be nobody's
    /// meanwhile (DiskInUse): where a VM runs on it, the hypervisor copies it to [`BlockStore::copy_target`].
    async fn snapshot(&self, request: &SnapshotRequest) -> Result<StoredImage, HostError>;

    /// A file that the hypervisor can copy the disk to, which runs. None in a pool where [`BlockStore::snapshot`] needs no
    /// copy.
    async fn copy_target(&self, request: &SnapshotRequest) -> Result<Option<CopyTarget>, HostError>;

    /// The copy, which is complete, becomes the image.
    async fn keep_copy(&self, request: &SnapshotRequest, copy: CopyTarget) -> Result<StoredImage, HostError>;

    /// Makes a disk, empty or as a copy-on-write clone of an image, unless it is there already, and grows it to its size.
    async fn ensure_disk(&self, request: &DiskRequest) -> Result<Disk, HostError>;

    /// All disks that are there.
    async fn disks(&self, pool: &Pool) -> Result<Vec<DiskId>, HostError>;

    /// The size of a disk that guests see; none if it is not there, whole.
    async fn disk_size(&self, pool: &Pool, disk: &DiskId) -> Result<Option<Quantity>, HostError>;

    /// Gives a disk that nobody has open another owner and name, and tells its size. One that has them already is left alone, so
    /// that whoever does not know whether it was done may do it again.
    async fn rename_disk(&self, pool: &Pool, from: &DiskId, to: &DiskId) -> Result<Quantity, HostError>;

    /// Removes a disk, and whatever was left of its making.
    async fn remove_disk(&self, pool: &Pool, disk: &DiskId) -> Result<(), HostError>;

    /// How many bytes a guest sees of it, if it is there, complete.
    async fn size(&self, pool: &Pool, what: &Readable) -> Result<Option<u64>, HostError>;

    /// Hands on these of the bytes that a guest sees of it, in order, in pieces of at most [`PIECE`], until there are no more or
    /// nobody takes them. Nobody is kept from writing to it, or from removing it: what was read is worth something to whoever
    /// knows that nobody did.
    async fn read(
        &self,
        pool: &Pool,
        what: &Readable,
        range: Range<u64>,
        into: mpsc::Sender<Bytes>,
    ) -> Result<(), HostError>;
}

/// The most bytes that are read at once.
pub const PIECE: usize = 1 << 20;

/// What can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readable {
    /// The image with this UID.
    Image(String),
    /// A disk.
    Disk(DiskId),
}

impl Readable {
    /// What is done to it, for messages.
    pub fn act(&self, what: &str, pool: &Pool) -> String {
        match self {
            Self::Image(uid) => format!("{what} image {uid} in pool {}", pool.name),
            Self::Disk(disk) => format!("{what} disk {} of {} in pool {}", disk.name, disk.owner_uid, pool.name),
        }
    }
}

/// The pieces in which a range is read.
pub fn pieces(range: Range<u64>) -> impl Iterator<Item = (u64, usize)> {
    let end = range.end;
    let length = move |at: u64| usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
    range.step_by(PIECE).map(move |at| (at, length(at)))
}

/// A pool, as a host needs to know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// The StoragePool's name.
    pub name: String,
    /// Where its images and disks are.
    pub backend: PoolBackend,
}

/// Where a pool's images and disks are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PoolBackend {
    /// In a directory of the host, which no other host sees.
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// In a Ceph cluster, which all hosts see.
    Rbd(RbdPool),
}

impl PoolBackend {
    /// Whether all hosts see the same images and disks in it.
    pub const fn is_shared(&self) -> bool {
        matches!(self, Self::Rbd(_))
    }
}

/// A pool of a Ceph cluster, and how to get at it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RbdPool {
    /// The name of Ceph's pool.
    pub pool: String,
    /// The name of Ceph's user, without `client.`. Its key is where the configuration says.
    pub user: String,
    /// The path of the cluster's configuration on the host (ceph.conf).
    pub conf: PathBuf,
}

/// Size and room of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolUsage {
    /// Its size.
    pub capacity: Quantity,
    /// What is free of it.
    pub available: Quantity,
}

/// An image to import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// The Image's UID.
    pub uid: String,
    /// The Image's namespace.
    pub namespace: String,
    /// The Image's name.
    pub name: String,
    /// The pool to keep it in.
    pub pool: Pool,
    /// Where its bytes come from.
    pub source: ImageSource,
    /// The format that they are claimed to have once they are unpacked.
    pub format: ImageFormat,
    /// How they are claimed to be compressed.
    pub compression: Option<Compression>,
    /// The checksum that they, not unpacked, are claimed to have, or were found to have when they were first imported.
    pub checksum: Option<Sha256>,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// The checksum of the source, as it was found to be. Of a snapshot, whose bytes nobody has summed, it is that of a text
    /// with the image's UID, and so its own alone.
    pub sha256: Sha256,
    /// The size of the disk that it holds.
    pub virtual_size: Quantity,
}

/// A disk to keep as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRequest {
    /// The pool that has the disk, and is to keep the image.
    pub pool: Pool,
    /// The disk.
    pub disk: DiskId,
    /// The UID of the image to make of it.
    pub image_uid: String,
}

/// A file, empty and in qcow2, of the disk's size, that a disk is to be copied to. Dropped, it is removed.
pub struct CopyTarget {
    /// Where it is.
    pub path: PathBuf,
    /// Whatever keeps it there.
    pub keeper: Box<dyn Any + Send + Sync>,
}

/// The identity of a disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskId {
    /// The UID of the VM, or of the Volume, that it belongs to.
    pub owner_uid: String,
    /// The disk's name in the VM's spec; [`VOLUME`] for the disk that is a Volume.
    pub name: String,
}

/// The name of the one disk of a Volume.
pub const VOLUME: &str = "volume";

impl DiskId {
    /// The disk that is the Volume with this UID.
    pub fn of_volume(uid: impl Into<String>) -> Self {
        Self { owner_uid: uid.into(), name: VOLUME.to_owned() }
    }
}

/// A disk to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskRequest {
    /// Whose it is.
    pub id: DiskId,
    /// The pool to keep it in, where its image is too.
    pub pool: Pool,
    /// What it holds in the beginning.
    pub content: Content,
    /// The size that the guest sees; the image's own where there is none. Less than that is refused.
    pub size: Option<Quantity>,
}

/// What a disk holds in the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing. It has a size then.
    Empty,
    /// What the image with this UID holds.
    Image(String),
    /// What it holds already: it is there, and is not made.
    Kept,
}

/// A disk that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Where its bytes are.
    pub source: DiskSource,
    /// The size that the guest sees.
    pub size: Quantity,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_read_in_pieces() {
        let all = |range: Range<u64>| pieces(range).collect::<Vec<_>>();
        let piece = PIECE as u64;
        assert_eq!(all(5..5), []);
        assert_eq!(all(5..8), [(5, 3)]);
        assert_eq!(all(1..piece + 1), [(1, PIECE)]);
        assert_eq!(all(1..piece + 2), [(1, PIECE), (piece + 1, 1)]);
    }
}
