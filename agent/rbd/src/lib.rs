//! Disks and images in a pool of Ceph: [`Rbd`] implements [`BlockStore`]. The bytes of Files: [`Uploads`] implements
//! [`FileStore`](ucloud_agent_core::FileStore).
//!
//! A pool of Ceph is seen by every host, so that an image is imported once, by whichever host comes first; see
//! `content` for how images are kept, and how what a dead host has left half made is found. Everything bears a name that
//! says what it is (`names`), and nothing else in the pool is ever touched.
//!
//! librbd and librados are called directly, by the small layers in `cluster` and `image`; all the unsafe code is there.

mod check;
mod cluster;
mod content;
mod convert;
mod disk;
mod error;
mod file;
mod image;
mod import;
mod key;
mod names;
mod pools;
mod read;
mod snapshot;
mod upload;
mod usage;

use std::{
    collections::HashSet,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
};
use ucloud_agent_core::{
    BlockStore, HostError,
    block_store::{
        Content, CopyTarget, Disk, DiskId, DiskRequest, ImageRequest, Pool, PoolUsage, RbdPool, Readable,
        SnapshotRequest, StoredImage,
    },
};
use ucloud_agent_import::{ImportError, Importer, act as import_act, names as safe, snapshot_act};
use ucloud_types::Quantity;

use error::RbdError;
use pools::settings;

pub use cluster::{Cluster, IoCtx};
pub use error::CephError;
pub use pools::Pools;
pub use upload::Uploads;

/// The pools in Ceph clusters that this host uses.
pub struct Rbd {
    pools: Arc<Pools>,
    importer: Arc<Importer>,
    scratch: PathBuf,
    /// Pools in which this host may do what it must.
    checked: Mutex<HashSet<Pool>>,
}

impl Rbd {
    /// The block store of this host. Images are fetched to the folder `scratch` before they are written to a pool; it belongs
    /// to this agent alone.
    pub fn new(pools: Arc<Pools>, importer: Arc<Importer>, scratch: PathBuf) -> io::Result<Self> {
        // What an earlier agent was fetching is of no use.
        match std::fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&scratch)?,
        }
        Ok(Self { pools, importer, scratch, checked: Mutex::default() })
    }

    /// The key of a user, for QEMU. Blocks.
    pub fn key(user: &str, conf: &Path) -> Result<Vec<u8>, HostError> {
        let pool = RbdPool { pool: String::new(), user: user.to_owned(), conf: conf.to_owned() };
        key::read(user, conf).map_err(|error| error.reported(&format!("read the key of client.{user}"), &pool))
    }

    /// Does once, in small, all that will have to be done in this pool, and finds out thereby whether the user may:
    /// make, write, snapshot, clone and remove images, and fence other hosts.
    async fn check(&self, pool: &Pool) -> Result<(), HostError> {
        if self.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(pool) {
            return Ok(());
        }
        let act = format!("use pool {}", pool.name);
        let settings = settings(pool, &act)?.clone();
        // Ceph's own answer to a client without a key does not say what is missing.
        let key = spawn_blocking(move || Self::key(&settings.user, &settings.conf).map(drop));
        key.await
            .map_err(|error| HostError::retryable("InternalError", format!("cannot {act}")).caused_by(error))??;
        self.pools.with_pool(pool, &act, |pool, _| check::check(pool)).await?;
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(pool.clone());
        Ok(())
    }
}

fn stored(clone: content::Clone) -> StoredImage {
    StoredImage { sha256: clone.content, virtual_size: Quantity::from_bytes(clone.size) }
}

#[async_trait]
impl BlockStore for Rbd {
    async fn usage(&self, pool: &Pool) -> Result<PoolUsage, HostError> {
        self.check(pool).await?;
        let act = format!("measure pool {}", pool.name);
        self.pools
            .with_pool(pool, &act, |pool, _| {
                content::sweep(pool)?;
                usage::usage(pool)
            })
            .await
    }

    async fn import_image(
        &self,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
    ) -> Result<StoredImage, HostError> {
        safe::check_uid(&request.uid)?;
        let turn = self.pools.turn(&request.pool, &request.uid).lock_owned().await;
        if let Some(image) = self.image(&request.pool, &request.uid).await? {
            if let Some(claimed) = request.checksum.clone().filter(|claimed| *claimed != image.sha256) {
                return Err(ImportError::Checksum { claimed, found: image.sha256 }.reported(&import_act(request)));
            }
            percent.send_replace(100);
            return Ok(image);
        }
        self.import(request, percent, turn).await
    }

    async fn image(&self, pool: &Pool, image_uid: &str) -> Result<Option<StoredImage>, HostError> {
        safe::check_uid(image_uid)?;
        let (act, name) = (format!("look up image {image_uid} in pool {}", pool.name), names::image(image_uid));
        self.pools.with_pool(pool, &act, move |pool, _| Ok(content::find_clone(pool, &name)?.map(stored))).await
    }

    async fn images(&self, pool: &Pool) -> Result<Vec<String>, HostError> {
        let act = format!("list the images in pool {}", pool.name);
        self.pools
            .with_pool(pool, &act, |pool, _| {
                let mut uids = Vec::new();
                for name in pool.images()? {
                    if let Some(uid) = names::image_uid(&name)
                        && content::find_clone(pool, &name)?.is_some()
                    {
                        uids.push(uid.to_owned());
                    }
                }
                Ok(uids)
            })
            .await
    }

    async fn remove_image(&self, pool: &Pool, image_uid: &str) -> Result<(), HostError> {
        safe::check_uid(image_uid)?;
        let (act, name) = (format!("remove image {image_uid} from pool {}", pool.name), names::image(image_uid));
        let turn = self.pools.turn(pool, image_uid).lock_owned().await;
        self.pools
            .with_pool(pool, &act, move |pool, _| {
                let _turn = turn;
                content::remove(pool, &name)?;
                content::sweep(pool)
            })
            .await
    }

    async fn snapshot(&self, request: &SnapshotRequest) -> Result<StoredImage, HostError> {
        safe::check_snapshot(request)?;
        let turn = self.pools.turn(&request.pool, &request.image_uid).lock_owned().await;
        let (disk, uid) = (request.disk.clone(), request.image_uid.clone());
        self.pools
            .with_pool(&request.pool, &snapshot_act(request), move |pool, _| {
                let _turn = turn;
                snapshot::keep(pool, &disk, &uid).map(stored)
            })
            .await
    }

    async fn copy_target(&self, _: &SnapshotRequest) -> Result<Option<CopyTarget>, HostError> {
        Ok(None)
    }

    async fn keep_copy(&self, request: &SnapshotRequest, _: CopyTarget) -> Result<StoredImage, HostError> {
        let message = format!("cannot {}: a disk in Ceph is kept without a copy", snapshot_act(request));
        Err(HostError::terminal("PoolMismatch", message))
    }

    async fn ensure_disk(&self, request: &DiskRequest) -> Result<Disk, HostError> {
        safe::check_disk(&request.id)?;
        if let Content::Image(uid) = &request.content {
            safe::check_uid(uid)?;
        }
        let DiskId { owner_uid, name } = &request.id;
        let act = format!("make disk {name} of {owner_uid} in pool {}", request.pool.name);
        let (importer, wanted) = (Arc::clone(&self.importer), request.clone());
        self.pools
            .with_pool(&request.pool, &act, move |pool, settings| disk::ensure_disk(pool, settings, &wanted, &importer))
            .await
    }

    async fn disks(&self, pool: &Pool) -> Result<Vec<DiskId>, HostError> {
        let act = format!("list the disks in pool {}", pool.name);
        self.pools
            .with_pool(pool, &act, |pool, _| {
                Ok(pool.images()?.iter().filter_map(|name| names::parse_disk(name)).collect())
            })
            .await
    }

    async fn disk_size(&self, pool: &Pool, disk: &DiskId) -> Result<Option<Quantity>, HostError> {
        safe::check_disk(disk)?;
        let act = format!("measure disk {} of {} in pool {}", disk.name, disk.owner_uid, pool.name);
        let name = names::disk(disk);
        let size = self.pools.with_pool(pool, &act, move |pool, _| Ok(content::whole_size(pool, &name)?)).await?;
        Ok(size.map(Quantity::from_bytes))
    }

    async fn rename_disk(&self, pool: &Pool, from: &DiskId, to: &DiskId) -> Result<Quantity, HostError> {
        safe::check_disk(from)?;
        safe::check_disk(to)?;
        let act = format!("rename disk {} of {} in pool {}", from.name, from.owner_uid, pool.name);
        let (from, to) = (names::disk(from), names::disk(to));
        let size = self.pools.with_pool(pool, &act, move |pool, _| disk::rename(pool, &from, &to)).await?;
        Ok(Quantity::from_bytes(size))
    }

    async fn remove_disk(&self, pool: &Pool, disk: &DiskId) -> Result<(), HostError> {
        safe::check_disk(disk)?;
        let act = format!("remove disk {} of {} from pool {}", disk.name, disk.owner_uid, pool.name);
        let name = names::disk(disk);
        self.pools
            .with_pool(pool, &act, move |pool, _| {
                content::remove_disk(pool, &name)?;
                content::sweep(pool)
            })
            .await
    }

    async fn size(&self, pool: &Pool, what: &Readable) -> Result<Option<u64>, HostError> {
        safe::check_readable(what)?;
        let wanted = what.clone();
        self.pools
            .with_pool(pool, &what.act("measure", pool), move |pool, _| {
                Ok(content::whole_size(pool, &read::name(&wanted))?)
            })
            .await
    }

    async fn read(
        &self,
        pool: &Pool,
        what: &Readable,
        range: Range<u64>,
        into: mpsc::Sender<Bytes>,
    ) -> Result<(), HostError> {
        safe::check_readable(what)?;
        let wanted = what.clone();
        let act = what.act("read", pool);
        self.pools
            .with_pool(pool, &act, move |pool, _| {
                let image = content::open_whole(pool, &read::name(&wanted))?.ok_or(RbdError::NoDisk)?;
                read::read(&image, range, &into)
            })
            .await
    }
}
