//! Disks and images in a pool of Ceph: [`Rbd`] implements [`BlockStore`].
//!
//! A pool of Ceph is seen by every host, so that an image is imported once, by whichever host comes first; see
//! `content` for how images are kept, and how what a dead host has left half made is found. Everything bears a name that
//! says what it is (`names`), and nothing else in the pool is ever touched.
//!
//! librbd and librados are called directly, by the small layers in `cluster` and `image`; all the unsafe code is there.

mod check;
mod cluster;
mod content;
mod disk;
mod error;
mod image;
mod key;
mod names;
mod read;
mod snapshot;
mod usage;

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::errno::Errno;
use tempfile::NamedTempFile;
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc, watch},
    task::spawn_blocking,
};
use ucloud_agent_core::{
    BlockStore, HostError,
    block_store::{
        Content, CopyTarget, Disk, DiskId, DiskRequest, ImageRequest, Pool, PoolBackend, PoolUsage, RbdPool, Readable,
        SnapshotRequest, StoredImage,
    },
};
use ucloud_agent_import::{
    ImportError, Importer, Inspected, Progress, StoreError, act as import_act, names as safe, snapshot_act,
};
use ucloud_types::{Quantity, image::ImageFormat};

use error::RbdError;

pub use cluster::{Cluster, IoCtx};
pub use error::CephError;

/// What [`Rbd`] needs to know of the host.
#[derive(Clone, Debug)]
pub struct RbdConfig {
    /// The folder that images are fetched to before they are written to a pool. It belongs to this agent alone.
    pub scratch: PathBuf,
    /// How long a cluster may take to answer.
    pub timeout: Duration,
}

/// A connection to a cluster.
#[derive(Default)]
struct Connection {
    /// None before the first was made. Locked while that is being made.
    current: Mutex<Option<Arc<Cluster>>>,
    /// Locked while another is being made in its place.
    renewing: Mutex<()>,
}

type Turns = HashMap<(String, String), Weak<AsyncMutex<()>>>;

/// The pools in Ceph clusters that this host uses.
pub struct Rbd {
    importer: Arc<Importer>,
    config: RbdConfig,
    /// By user and configuration.
    connections: Mutex<HashMap<(String, PathBuf), Arc<Connection>>>,
    /// Pools in which this host may do what it must.
    checked: Mutex<HashSet<Pool>>,
    /// What is being imported, by pool and by UID or checksum: whoever comes second waits for the first.
    turns: Mutex<Turns>,
}

impl Rbd {
    /// The block store of this host. Clusters are connected to when they are first used.
    pub fn new(importer: Arc<Importer>, config: RbdConfig) -> io::Result<Self> {
        // What an earlier agent was fetching is of no use.
        match std::fs::remove_dir_all(&config.scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => std::fs::create_dir_all(&config.scratch)?,
        }
        Ok(Self { importer, config, connections: Mutex::default(), checked: Mutex::default(), turns: Mutex::default() })
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
        self.with_pool(pool, &act, |pool, _| check::check(pool)).await?;
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(pool.clone());
        Ok(())
    }

    fn connection(&self, pool: &RbdPool) -> Arc<Connection> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(connections.entry((pool.user.clone(), pool.conf.clone())).or_default())
    }

    fn turn(&self, pool: &Pool, of: &str) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        let key = (pool.name.clone(), of.to_owned());
        if let Some(turn) = turns.get(&key).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(key, Arc::downgrade(&turn));
        turn
    }

    /// Opens the pool, and does `work` with it on a thread that may block. Once begun, it is carried to its end. `act`
    /// is for the message.
    async fn with_pool<T: Send + 'static>(
        &self,
        pool: &Pool,
        act: &str,
        work: impl FnOnce(&IoCtx, &RbdPool) -> Result<T, RbdError> + Send + 'static,
    ) -> Result<T, HostError> {
        let settings = settings(pool, act)?.clone();
        let (connection, timeout) = (self.connection(&settings), self.config.timeout);
        let reported = (act.to_owned(), settings.clone());
        let done = spawn_blocking(move || {
            let cluster = connection.cluster(&settings, timeout)?;
            let done = cluster.pool(&settings.pool).map_err(RbdError::from).and_then(|pool| {
                let done = work(&pool, &settings);
                done.map_err(|error| explain(&pool, error))
            });
            if let Err(error) = &done {
                connection.renew_after(error, &cluster, &settings, timeout);
            }
            done
        });
        let done = done
            .await
            .unwrap_or_else(|error| Err(RbdError::Scratch(StoreError::new("use the pool", io::Error::other(error)))));
        done.map_err(|error| error.reported(&reported.0, &reported.1))
    }

    /// The disk that an image holds, raw, in a file without a name.
    async fn fetch(&self, request: &ImageRequest, progress: Progress<'_>) -> Result<(File, Inspected), ImportError> {
        let fetched = self.scratch("source-")?;
        let file = fetched.reopen().map_err(unmade)?;
        let found = self.importer.fetch(request, file.into(), fetched.path(), progress).await?;
        if request.format == ImageFormat::Raw {
            // Whatever it holds, it is never opened as anything but raw.
            return Ok((fetched.into_file(), found));
        }
        let raw = self.scratch("raw-")?;
        let (from, to) = (fetched.path(), raw.path());
        let report = |part| progress.report_rest(part / 2);
        self.importer.convert(request, &found, from, to, ImageFormat::Raw, report).await?;
        Ok((raw.into_file(), found))
    }

    fn scratch(&self, prefix: &str) -> Result<NamedTempFile, StoreError> {
        tempfile::Builder::new().prefix(prefix).tempfile_in(&self.config.scratch).map_err(unmade)
    }

    /// `turn` is held until nothing is done any more, though nobody may wait for that.
    async fn import(
        &self,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<StoredImage, HostError> {
        let act = import_act(request);
        let progress = Progress(percent);
        let kept = self.importer.kept(request, progress).await.map_err(|error| error.reported(request))?;
        let (raw, found) = match kept {
            Some(kept) => kept,
            None => self.fetch(request, progress).await.map_err(|error| error.reported(request))?,
        };
        let content_turn = self.turn(&request.pool, found.sha256.hex()).lock_owned().await;
        let (sha256, size, uid) = (found.sha256.clone(), found.virtual_size, request.uid.clone());
        let told = percent.clone();
        self.with_pool(&request.pool, &act, move |pool, _| {
            let _turns = (turn, content_turn);
            let report = |part| {
                Progress(&told).report_rest(50 + part / 2);
                if told.is_closed() { Err(RbdError::Abandoned) } else { Ok(()) }
            };
            // Open until the Image is made, so that nobody takes it for left over.
            let _content = content::ensure_content(pool, &sha256, size, raw, report)?;
            content::make_clone(pool, &sha256, &names::image(&uid), |_| Ok(())).map(drop)
        })
        .await?;
        progress.report(100);
        Ok(StoredImage { sha256: found.sha256, virtual_size: Quantity::from_bytes(found.virtual_size) })
    }
}

fn unmade(error: io::Error) -> StoreError {
    StoreError::new("make a file to fetch to", error)
}

fn settings<'a>(pool: &'a Pool, act: &str) -> Result<&'a RbdPool, HostError> {
    match &pool.backend {
        PoolBackend::Rbd(settings) => Ok(settings),
        PoolBackend::Directory { .. } => {
            Err(HostError::terminal("PoolMismatch", format!("cannot {act}: pool {} is not in Ceph", pool.name)))
        }
    }
}

impl Connection {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Cluster>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, made if there is none. Blocks; whoever comes meanwhile waits for the same one.
    fn cluster(&self, pool: &RbdPool, timeout: Duration) -> Result<Arc<Cluster>, RbdError> {
        let mut current = self.current();
        if let Some(cluster) = &*current {
            return Ok(Arc::clone(cluster));
        }
        let cluster = Arc::new(Cluster::connect(&pool.user, &pool.conf, timeout)?);
        *current = Some(Arc::clone(&cluster));
        Ok(cluster)
    }

    /// Gives up a connection that may be lost. A client that was put on the blocklist stays there; the next one may be let in. One
    /// that is not answered may ask a cluster that is no more, or have missed the answer: if another connection can be made, it comes
    /// in its place. Others use the old one meanwhile.
    fn renew_after(&self, error: &RbdError, lost: &Arc<Cluster>, pool: &RbdPool, timeout: Duration) {
        let is_lost = |current: &Option<Arc<Cluster>>| current.as_ref().is_some_and(|is| Arc::ptr_eq(is, lost));
        let next = match error.errno() {
            Some(Errno::ESHUTDOWN) => None,
            Some(Errno::ETIMEDOUT) => {
                let Ok(_turn) = self.renewing.try_lock() else { return };
                if !is_lost(&self.current()) {
                    return;
                }
                let Ok(next) = Cluster::connect(&pool.user, &pool.conf, timeout) else { return };
                Some(Arc::new(next))
            }
            _ => return,
        };
        let mut current = self.current();
        if is_lost(&current) {
            *current = next;
        }
    }
}

/// What is behind an error that Ceph gives.
fn explain(pool: &IoCtx, error: RbdError) -> RbdError {
    match error.errno() {
        // Writes to a pool that is full wait for room, and nothing but the pool's flags tells.
        Some(Errno::ETIMEDOUT) if usage::is_full(pool).unwrap_or(false) => RbdError::Full,
        _ => error,
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
        self.with_pool(pool, &act, |pool, _| {
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
        let turn = self.turn(&request.pool, &request.uid).lock_owned().await;
        if let Some(image) = self.image(&request.pool, &request.uid).await? {
            if let Some(claimed) = request.checksum.clone().filter(|claimed| *claimed != image.sha256) {
                return Err(ImportError::Checksum { claimed, found: image.sha256 }.reported(request));
            }
            percent.send_replace(100);
            return Ok(image);
        }
        self.import(request, percent, turn).await
    }

    async fn image(&self, pool: &Pool, image_uid: &str) -> Result<Option<StoredImage>, HostError> {
        safe::check_uid(image_uid)?;
        let (act, name) = (format!("look up image {image_uid} in pool {}", pool.name), names::image(image_uid));
        self.with_pool(pool, &act, move |pool, _| Ok(content::find_clone(pool, &name)?.map(stored))).await
    }

    async fn images(&self, pool: &Pool) -> Result<Vec<String>, HostError> {
        let act = format!("list the images in pool {}", pool.name);
        self.with_pool(pool, &act, |pool, _| {
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
        let turn = self.turn(pool, image_uid).lock_owned().await;
        self.with_pool(pool, &act, move |pool, _| {
            let _turn = turn;
            content::remove(pool, &name)?;
            content::sweep(pool)
        })
        .await
    }

    async fn snapshot(&self, request: &SnapshotRequest) -> Result<StoredImage, HostError> {
        safe::check_snapshot(request)?;
        let turn = self.turn(&request.pool, &request.image_uid).lock_owned().await;
        let (disk, uid) = (request.disk.clone(), request.image_uid.clone());
        self.with_pool(&request.pool, &snapshot_act(request), move |pool, _| {
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
        self.with_pool(&request.pool, &act, move |pool, settings| disk::ensure_disk(pool, settings, &wanted, &importer))
            .await
    }

    async fn disks(&self, pool: &Pool) -> Result<Vec<DiskId>, HostError> {
        let act = format!("list the disks in pool {}", pool.name);
        self.with_pool(pool, &act, |pool, _| {
            Ok(pool.images()?.iter().filter_map(|name| names::parse_disk(name)).collect())
        })
        .await
    }

    async fn disk_size(&self, pool: &Pool, disk: &DiskId) -> Result<Option<Quantity>, HostError> {
        safe::check_disk(disk)?;
        let act = format!("measure disk {} of {} in pool {}", disk.name, disk.owner_uid, pool.name);
        let name = names::disk(disk);
        let size = self.with_pool(pool, &act, move |pool, _| Ok(content::whole_size(pool, &name)?)).await?;
        Ok(size.map(Quantity::from_bytes))
    }

    async fn rename_disk(&self, pool: &Pool, from: &DiskId, to: &DiskId) -> Result<Quantity, HostError> {
        safe::check_disk(from)?;
        safe::check_disk(to)?;
        let act = format!("rename disk {} of {} in pool {}", from.name, from.owner_uid, pool.name);
        let (from, to) = (names::disk(from), names::disk(to));
        let size = self.with_pool(pool, &act, move |pool, _| disk::rename(pool, &from, &to)).await?;
        Ok(Quantity::from_bytes(size))
    }

    async fn remove_disk(&self, pool: &Pool, disk: &DiskId) -> Result<(), HostError> {
        safe::check_disk(disk)?;
        let act = format!("remove disk {} of {} from pool {}", disk.name, disk.owner_uid, pool.name);
        let name = names::disk(disk);
        self.with_pool(pool, &act, move |pool, _| {
            content::remove_disk(pool, &name)?;
            content::sweep(pool)
        })
        .await
    }

    async fn size(&self, pool: &Pool, what: &Readable) -> Result<Option<u64>, HostError> {
        safe::check_readable(what)?;
        let wanted = what.clone();
        self.with_pool(pool, &what.act("measure", pool), move |pool, _| Ok(read::size(pool, &wanted)?)).await
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
        self.with_pool(pool, &act, move |pool, _| read::read(pool, &wanted, range, &into)).await
    }
}
