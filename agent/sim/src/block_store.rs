//! The simulated block store.

use std::{hash::Hasher as _, ops::Range, path::PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use fnv::FnvHasher;
use tokio::sync::{mpsc, watch};
use ucloud_agent_core::{
    BlockStore, HostError,
    block_store::{
        Content, CopyTarget, Disk, DiskId, DiskRequest, ImageRequest, Pool, PoolBackend, PoolUsage, RbdPool, Readable,
        SnapshotRequest, StoredImage, pieces,
    },
    hypervisor::{DiskSource, Domain, DomainDisk, DomainState},
};
use ucloud_types::{Quantity, image::Sha256};

use crate::{Method, SimHost, State};

const GIB: u64 = 1 << 30;

/// An import's progress is told in so many parts.
const PARTS: u8 = 4;

impl SimHost {
    /// The checksum of what an import of this request finds.
    fn fetch(&self, request: &ImageRequest) -> Sha256 {
        let file = request.source.file.as_ref().map(|file| file.name.clone());
        let url = request.source.http.as_ref().map(|http| http.url.clone());
        let upload = request.source.upload.as_ref().map(|upload| upload.file.clone());
        let name = file.or(url).or(upload).unwrap_or_default();
        let mut hasher = FnvHasher::default();
        hasher.write(name.as_bytes());
        hasher.write_u8(self.state().sources.get(&name).copied().unwrap_or(0));
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&hasher.finish().to_be_bytes());
        Sha256::from(bytes)
    }
}

/// Where a disk is.
fn source(pool: &Pool, DiskId { owner_uid, name }: &DiskId, backing: Option<PathBuf>) -> DiskSource {
    let name = format!("{owner_uid}.{name}");
    match &pool.backend {
        PoolBackend::Directory { path } => DiskSource::Overlay { path: path.join(name), backing },
        PoolBackend::Rbd(RbdPool { pool, user, conf }) => {
            DiskSource::Rbd { pool: pool.clone(), image: name, user: user.clone(), conf: conf.clone() }
        }
    }
}

impl State {
    /// Whether a domain that is up may have the disk open.
    fn is_up(&self, disk: &DiskId) -> bool {
        let uses = |domain: &&Domain| {
            let is_volume = |used: &DomainDisk| used.volume.as_ref() == Some(&disk.owner_uid);
            domain.spec.uid == disk.owner_uid || domain.spec.disks.iter().any(is_volume)
        };
        self.domains.values().filter(uses).any(|domain| !matches!(domain.state, DomainState::Off(_)))
    }
}

#[async_trait]
impl BlockStore for SimHost {
    async fn usage(&self, _: &Pool) -> Result<PoolUsage, HostError> {
        self.call(Method::Usage, async || {
            Ok(PoolUsage { capacity: Quantity::from_bytes(1024 * GIB), available: Quantity::from_bytes(1000 * GIB) })
        })
        .await
    }

    async fn import_image(
        &self,
        request: &ImageRequest,
        percent: &watch::Sender<u8>,
    ) -> Result<StoredImage, HostError> {
        self.call(Method::ImportImage, async || {
            let key = (request.pool.name.clone(), request.uid.clone());
            if let Some(stored) = self.state().images.get(&key) {
                return Ok(stored.clone());
            }
            let pause = self.state().import_pause;
            for part in 0..PARTS {
                percent.send_replace(part * (100 / PARTS));
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => tokio::task::yield_now().await,
                }
            }
            let found = self.fetch(request);
            if let Some(claimed) = request.checksum.as_ref().filter(|claimed| **claimed != found) {
                let message = format!("the source has {found} instead of {claimed}: see to the source or the checksum");
                return Err(HostError::terminal("ChecksumMismatch", message));
            }
            let stored = StoredImage { sha256: found, virtual_size: Quantity::from_bytes(GIB) };
            let mut state = self.state();
            state.images.insert(key, stored.clone());
            state.count("import");
            Ok(stored)
        })
        .await
    }

    async fn image(&self, pool: &Pool, image_uid: &str) -> Result<Option<StoredImage>, HostError> {
        self.call(Method::Image, async || {
            Ok(self.state().images.get(&(pool.name.clone(), image_uid.to_owned())).cloned())
        })
        .await
    }

    async fn images(&self, pool: &Pool) -> Result<Vec<String>, HostError> {
        self.call(Method::Images, async || {
            let state = self.state();
            Ok(state.images.keys().filter(|(name, _)| *name == pool.name).map(|(_, uid)| uid.clone()).collect())
        })
        .await
    }

    async fn remove_image(&self, pool: &Pool, image_uid: &str) -> Result<(), HostError> {
        self.call(Method::RemoveImage, async || {
            let mut state = self.state();
            if state.images.remove(&(pool.name.clone(), image_uid.to_owned())).is_some() {
                state.count("remove image");
            }
            Ok(())
        })
        .await
    }

    async fn snapshot(&self, request: &SnapshotRequest) -> Result<StoredImage, HostError> {
        self.call(Method::Snapshot, async || {
            let mut state = self.state();
            if let Some(stored) = state.images.get(&(request.pool.name.clone(), request.image_uid.clone())) {
                return Ok(stored.clone());
            }
            let (moment, open) = state.moment(&request.disk);
            if open && !request.pool.backend.is_shared() {
                return Err(HostError::retryable("DiskInUse", "a VM runs on it"));
            }
            state.keep(request, moment)
        })
        .await
    }

    async fn copy_target(&self, request: &SnapshotRequest) -> Result<Option<CopyTarget>, HostError> {
        self.call(Method::CopyTarget, async || {
            let PoolBackend::Directory { path } = &request.pool.backend else { return Ok(None) };
            Ok(Some(CopyTarget { path: path.join(&request.image_uid), keeper: Box::new(()) }))
        })
        .await
    }

    async fn keep_copy(&self, request: &SnapshotRequest, _: CopyTarget) -> Result<StoredImage, HostError> {
        self.call(Method::KeepCopy, async || {
            let mut state = self.state();
            let has = |domain: &&Domain| {
                domain.spec.uid == request.disk.owner_uid
                    || domain.spec.disks.iter().any(|disk| disk.volume.as_ref() == Some(&request.disk.owner_uid))
            };
            let owner = state.domains.values().find(has).map(|domain| domain.spec.uid.clone());
            match owner.and_then(|uid| state.copying.get(&uid).copied()) {
                Some((_, moment)) => state.keep(request, moment),
                None => Err(HostError::retryable("DiskFailed", "nothing was copied")),
            }
        })
        .await
    }

    async fn ensure_disk(&self, request: &DiskRequest) -> Result<Disk, HostError> {
        self.call(Method::EnsureDisk, async || {
            let mut state = self.state();
            let key = (request.pool.name.clone(), request.id.clone());
            let image = match &request.content {
                Content::Empty | Content::Kept => None,
                Content::Image(uid) => state.images.get(&(request.pool.name.clone(), uid.clone())).cloned(),
            };
            let wanted = image.as_ref().map(|image| image.sha256.clone());
            let is_known = request.content == Content::Empty || wanted.is_some();
            if is_known && state.made_of.get(&request.id).is_some_and(|made| *made != wanted) {
                return Err(HostError::terminal("DiskMismatch", "the disk is there already, made of something else"));
            }
            if let Some(disk) = state.disks.get_mut(&key) {
                disk.size = request.size.unwrap_or(disk.size).max(disk.size);
                return Ok(disk.clone());
            }
            if request.content == Content::Kept {
                return Err(HostError::retryable("DiskMissing", "the disk is not in the pool"));
            }
            if !is_known {
                return Err(HostError::retryable("ImageMissing", "the image is not in the pool"));
            }
            let least = image.map(|image| image.virtual_size).unwrap_or_default();
            if request.size.is_some_and(|size| size < least) {
                return Err(HostError::terminal("DiskTooSmall", "the disk is smaller than its image: make it larger"));
            }
            let size = request.size.unwrap_or(least);
            let backing = match (&request.pool.backend, &request.content) {
                (PoolBackend::Directory { path }, Content::Image(uid)) => Some(path.join(uid)),
                _ => None,
            };
            let source = source(&request.pool, &request.id, backing);
            let disk = Disk { source, size };
            state.disks.insert(key, disk.clone());
            state.made_of.insert(request.id.clone(), wanted);
            state.count("make disk");
            Ok(disk)
        })
        .await
    }

    async fn disks(&self, pool: &Pool) -> Result<Vec<DiskId>, HostError> {
        self.call(Method::Disks, async || {
            let state = self.state();
            Ok(state.disks.keys().filter(|(name, _)| *name == pool.name).map(|(_, id)| id.clone()).collect())
        })
        .await
    }

    async fn disk_size(&self, pool: &Pool, disk: &DiskId) -> Result<Option<Quantity>, HostError> {
        self.call(Method::DiskSize, async || {
            Ok(self.state().disks.get(&(pool.name.clone(), disk.clone())).map(|disk| disk.size))
        })
        .await
    }

    async fn rename_disk(&self, pool: &Pool, from: &DiskId, to: &DiskId) -> Result<Quantity, HostError> {
        self.call(Method::RenameDisk, async || {
            let mut state = self.state();
            let (from_key, to_key) = ((pool.name.clone(), from.clone()), (pool.name.clone(), to.clone()));
            let there = state.disks.get(&to_key).map(|disk| disk.size);
            match (state.disks.remove(&from_key), there) {
                (None, Some(size)) => Ok(size),
                (None, None) => Err(HostError::retryable("DiskMissing", "the disk is not in the pool")),
                (Some(disk), None) => {
                    let backing = match &disk.source {
                        DiskSource::Overlay { backing, .. } => backing.clone(),
                        DiskSource::Rbd { .. } => None,
                    };
                    if state.is_up(from) {
                        state
                            .violations
                            .push(format!("disk {} of {} was renamed while it was up", from.name, from.owner_uid));
                    }
                    let size = disk.size;
                    state.disks.insert(to_key, Disk { source: source(pool, to, backing), size });
                    if let Some(made_of) = state.made_of.remove(from) {
                        state.made_of.insert(to.clone(), made_of);
                    }
                    state.count("rename disk");
                    Ok(size)
                }
                (Some(disk), Some(_)) => {
                    state.disks.insert(from_key, disk);
                    Err(HostError::terminal("DiskMismatch", "there is another disk of that name"))
                }
            }
        })
        .await
    }

    async fn remove_disk(&self, pool: &Pool, disk: &DiskId) -> Result<(), HostError> {
        self.call(Method::RemoveDisk, async || {
            let mut state = self.state();
            if state.is_up(disk) {
                state.violations.push(format!("disk {} was taken from {} while it was up", disk.name, disk.owner_uid));
            }
            state.made_of.remove(disk);
            if state.disks.remove(&(pool.name.clone(), disk.clone())).is_some() {
                state.count("remove disk");
            }
            Ok(())
        })
        .await
    }

    async fn size(&self, pool: &Pool, what: &Readable) -> Result<Option<u64>, HostError> {
        self.call(Method::Size, async || {
            let state = self.state();
            Ok(match what {
                Readable::Image(uid) => {
                    state.images.get(&(pool.name.clone(), uid.clone())).map(|image| image.virtual_size.bytes())
                }
                Readable::Disk(id) => state.disks.get(&(pool.name.clone(), id.clone())).map(|disk| disk.size.bytes()),
            })
        })
        .await
    }

    async fn read(
        &self,
        _: &Pool,
        what: &Readable,
        range: Range<u64>,
        into: mpsc::Sender<Bytes>,
    ) -> Result<(), HostError> {
        self.call(Method::Read, async || {
            for (at, length) in pieces(range) {
                if into.send(bytes_of(what, at, length)).await.is_err() {
                    break;
                }
            }
            self.state().count("read");
            Ok(())
        })
        .await
    }
}

/// The bytes of an image or a disk on any simulated host: in each KiB the same ones, by what it is and where.
pub fn bytes_of(what: &Readable, at: u64, length: usize) -> Bytes {
    let mut hasher = FnvHasher::default();
    hasher.write(
        match what {
            Readable::Image(uid) => uid,
            Readable::Disk(disk) => &disk.owner_uid,
        }
        .as_bytes(),
    );
    let seed = hasher.finish();
    (at..at + length as u64).map(|at| u8::try_from(seed.wrapping_add(at >> 10) % 251).unwrap_or_default()).collect()
}
