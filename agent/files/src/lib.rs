//! Disks, images and uploads as files in a directory: [`Files`] implements [`BlockStore`], [`Uploads`] implements
//! [`FileStore`](ucloud_agent_core::FileStore).
//!
//! An image is fetched, inspected and converted into a read-only qcow2 file that is named after the checksum of
//! its source; a disk is a qcow2 file that has such a one as its backing file. Nothing that comes from outside
//! is opened by QEMU before ucloud-agent-import has looked at it; see `store` for the layout.

mod disk;
mod import;
mod read;
mod snapshot;
mod store;
mod upload;

use std::{
    collections::HashMap,
    io,
    ops::Range,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc, watch},
    task::spawn_blocking,
};
use ucloud_agent_core::{
    BlockStore, HostError,
    block_store::{
        Content, CopyTarget, Disk, DiskId, DiskRequest, ImageRequest, Pool, PoolBackend, PoolUsage, Readable,
        SnapshotRequest, StoredImage,
    },
};
use ucloud_agent_import::{ImportError, Importer, act as import_act, finished, names, snapshot_act};
use ucloud_types::Quantity;

use read::ReadError;
use store::{Lock, NotRenamed, Store, StoreError, Turns};

pub use upload::Uploads;

/// Images that are being made, by pool and UID: whoever comes second waits for the first. Also disks that are lent to
/// qemu-img, by pool and identity: a file belongs to one user.
type Imports = HashMap<(String, String), Weak<AsyncMutex<()>>>;

/// The pools of this host.
pub struct Files {
    importer: Arc<Importer>,
    turns: Turns,
    imports: Mutex<Imports>,
}

impl Files {
    /// The block store of this host. Pools are made when they are first used.
    pub fn new(importer: Arc<Importer>) -> Self {
        Self { importer, turns: Turns::default(), imports: Mutex::default() }
    }

    /// What nobody else who makes this image, or lends this disk to qemu-img, holds at the same time.
    fn turn(&self, pool: &Pool, of: &str) -> Arc<AsyncMutex<()>> {
        let mut imports = self.imports.lock().unwrap_or_else(PoisonError::into_inner);
        imports.retain(|_, turn| turn.strong_count() > 0);
        let key = (pool.name.clone(), of.to_owned());
        if let Some(turn) = imports.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        imports.insert(key, Arc::downgrade(&turn));
        turn
    }

    fn disk_turn(&self, pool: &Pool, DiskId { owner_uid, name }: &DiskId) -> Arc<AsyncMutex<()>> {
        // No UID has a dot
        self.turn(pool, &format!("{owner_uid}.{name}"))
    }

    /// As [`with_store`], with the right to change the pool. Once begun, `work` is carried to its end.
    async fn change_store<T: Send + 'static>(
        &self,
        pool: &Pool,
        act: &str,
        work: impl FnOnce(&Store, &Lock) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, HostError> {
        let store = with_store(pool, act, |store| Ok(store.clone())).await?;
        let lock = self.turns.lock(&store).await.map_err(|error| error.reported(act))?;
        let done = spawn_blocking(move || work(&store, &lock)).await;
        finished("change the pool", done).map_err(|error| error.reported(act))
    }
}

/// As [`with_store`], for work that reads what is there.
async fn with_readable<T: Send + 'static>(
    pool: &Pool,
    what: &Readable,
    act: &str,
    work: impl FnOnce(&Store, &Readable) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, HostError> {
    names::check_readable(what)?;
    let store = with_store(pool, act, |store| Ok(store.clone())).await?;
    let what = what.clone();
    let done = spawn_blocking(move || work(&store, &what)).await;
    done.unwrap_or_else(|error| Err(StoreError::new("read a disk", io::Error::other(error)).into()))
        .map_err(|error| error.reported(act))
}

/// Opens the pool, and does `work` with it on a thread that may block. `act` is for the message.
async fn with_store<T: Send + 'static>(
    pool: &Pool,
    act: &str,
    work: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, HostError> {
    let PoolBackend::Directory { path } = &pool.backend else {
        let message = format!("cannot {act}: pool {} is no directory", pool.name);
        return Err(HostError::terminal("PoolMismatch", message));
    };
    let root = path.clone();
    let done = spawn_blocking(move || work(&Store::open(&root)?)).await;
    finished("use the pool", done).map_err(|error| error.reported(act))
}

fn stored(store: &Store, image_uid: &str) -> Result<Option<StoredImage>, StoreError> {
    let Some(sha256) = store.linked(image_uid)? else { return Ok(None) };
    let virtual_size = Quantity::from_bytes(import::virtual_size(&store.content(&sha256))?);
    Ok(Some(StoredImage { sha256, virtual_size }))
}

#[async_trait]
impl BlockStore for Files {
    async fn usage(&self, pool: &Pool) -> Result<PoolUsage, HostError> {
        let act = format!("measure pool {}", pool.name);
        self.change_store(pool, &act, |store, lock| {
            store.sweep_tmp(lock)?;
            store.usage()
        })
        .await
    }

    async fn import_image(
        &self,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
    ) -> Result<StoredImage, HostError> {
        names::check_uid(&request.uid)?;
        let turn = self.turn(&request.pool, &request.uid);
        let _turn = turn.lock().await;
        if let Some(image) = self.image(&request.pool, &request.uid).await? {
            if let Some(claimed) = request.checksum.clone().filter(|claimed| *claimed != image.sha256) {
                return Err(ImportError::Checksum { claimed, found: image.sha256 }.reported(&import_act(request)));
            }
            percent.send_replace(100);
            return Ok(image);
        }
        let act = import_act(request);
        let store = with_store(&request.pool, &act, |store| Ok(store.clone())).await?;
        self.import(&store, request, percent).await.map_err(|error| error.reported(&act))
    }

    async fn image(&self, pool: &Pool, image_uid: &str) -> Result<Option<StoredImage>, HostError> {
        names::check_uid(image_uid)?;
        let (act, uid) = (format!("look up image {image_uid} in pool {}", pool.name), image_uid.to_owned());
        with_store(pool, &act, move |store| stored(store, &uid)).await
    }

    async fn images(&self, pool: &Pool) -> Result<Vec<String>, HostError> {
        let act = format!("list the images in pool {}", pool.name);
        with_store(pool, &act, |store| {
            let mut uids = Vec::new();
            for uid in store.image_uids()? {
                if store.linked(&uid)?.is_some() {
                    uids.push(uid);
                }
            }
            Ok(uids)
        })
        .await
    }

    async fn remove_image(&self, pool: &Pool, image_uid: &str) -> Result<(), HostError> {
        names::check_uid(image_uid)?;
        let (act, uid) = (format!("remove image {image_uid} from pool {}", pool.name), image_uid.to_owned());
        self.change_store(pool, &act, move |store, lock| {
            store.unlink(&uid, lock)?;
            store.sweep_contents(lock)
        })
        .await
    }

    async fn snapshot(&self, request: &SnapshotRequest) -> Result<StoredImage, HostError> {
        names::check_snapshot(request)?;
        let turn = self.turn(&request.pool, &request.image_uid);
        let _turn = turn.lock().await;
        if let Some(image) = self.image(&request.pool, &request.image_uid).await? {
            return Ok(image);
        }
        let store = with_store(&request.pool, &snapshot_act(request), |store| Ok(store.clone())).await?;
        self.keep_disk(&store, request).await.map_err(|error| error.reported(request))
    }

    async fn copy_target(&self, request: &SnapshotRequest) -> Result<Option<CopyTarget>, HostError> {
        names::check_snapshot(request)?;
        let store = with_store(&request.pool, &snapshot_act(request), |store| Ok(store.clone())).await?;
        self.make_target(&store, request).await.map(Some).map_err(|error| error.reported(request))
    }

    async fn keep_copy(&self, request: &SnapshotRequest, copy: CopyTarget) -> Result<StoredImage, HostError> {
        names::check_snapshot(request)?;
        let turn = self.turn(&request.pool, &request.image_uid);
        let _turn = turn.lock().await;
        if let Some(image) = self.image(&request.pool, &request.image_uid).await? {
            return Ok(image);
        }
        let store = with_store(&request.pool, &snapshot_act(request), |store| Ok(store.clone())).await?;
        self.keep_target(&store, request, copy).await.map_err(|error| error.reported(request))
    }

    async fn ensure_disk(&self, request: &DiskRequest) -> Result<Disk, HostError> {
        names::check_disk(&request.id)?;
        if let Content::Image(uid) = &request.content {
            names::check_uid(uid)?;
        }
        let act = disk::act(request);
        let store = with_store(&request.pool, &act, |store| Ok(store.clone())).await?;
        self.make_disk(&store, request).await.map_err(|error| error.reported(request))
    }

    async fn disks(&self, pool: &Pool) -> Result<Vec<DiskId>, HostError> {
        with_store(pool, &format!("list the disks in pool {}", pool.name), Store::disk_ids).await
    }

    async fn disk_size(&self, pool: &Pool, disk: &DiskId) -> Result<Option<Quantity>, HostError> {
        names::check_disk(disk)?;
        let act = format!("measure disk {} of {} in pool {}", disk.name, disk.owner_uid, pool.name);
        let disk = disk.clone();
        let size = with_store(pool, &act, move |store| store.disk_size(&disk)).await?;
        Ok(size.map(Quantity::from_bytes))
    }

    async fn rename_disk(&self, pool: &Pool, from: &DiskId, to: &DiskId) -> Result<Quantity, HostError> {
        names::check_disk(from)?;
        names::check_disk(to)?;
        let act = format!("rename disk {} of {} in pool {}", from.name, from.owner_uid, pool.name);
        let (from, to) = (from.clone(), to.clone());
        let renamed = self.change_store(pool, &act, move |store, lock| store.rename_disk(&from, &to, lock)).await?;
        renamed.map(Quantity::from_bytes).map_err(|refused| {
            let message = format!("cannot {act}: {refused}");
            match refused {
                NotRenamed::Missing => HostError::retryable("DiskMissing", message),
                NotRenamed::Taken => HostError::terminal("DiskMismatch", message),
            }
        })
    }

    async fn remove_disk(&self, pool: &Pool, disk: &DiskId) -> Result<(), HostError> {
        names::check_disk(disk)?;
        let act = format!("remove disk {} of {} from pool {}", disk.name, disk.owner_uid, pool.name);
        let disk = disk.clone();
        self.change_store(pool, &act, move |store, lock| {
            store.remove_disk(&disk, lock)?;
            store.sweep_contents(lock)
        })
        .await
    }

    async fn size(&self, pool: &Pool, what: &Readable) -> Result<Option<u64>, HostError> {
        let act = what.act("measure", pool);
        with_readable(pool, what, &act, |store, what| Ok(read::open(store, what)?.map(|disk| disk.size()))).await
    }

    async fn read(
        &self,
        pool: &Pool,
        what: &Readable,
        range: Range<u64>,
        into: mpsc::Sender<Bytes>,
    ) -> Result<(), HostError> {
        let act = what.act("read", pool);
        with_readable(pool, what, &act, move |store, what| {
            let disk = read::open(store, what)?.ok_or(ReadError::Missing)?;
            read::read(&disk, range, &into)
        })
        .await
    }
}
