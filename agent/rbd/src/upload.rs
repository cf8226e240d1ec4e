//! The bytes of Files in pools of Ceph: [`Uploads`] implements [`FileStore`]. See `file` for how they are kept.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use ucloud_agent_core::{
    FileStore, HostError,
    block_store::Pool,
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_agent_import::{hashed::Hashers, names as safe};
use ucloud_types::{Quantity, image::Sha256};

use crate::{Pools, content, error::RbdError, file, names, read};

/// The Files in the pools that this host uses.
pub struct Uploads {
    pools: Arc<Pools>,
    hashers: Hashers,
    complete: Arc<Mutex<Complete>>,
}

/// Files that were found to be complete, by pool and UID: such a one stays as it is until it goes.
type Complete = HashMap<(String, String), Sha256>;

fn lock(complete: &Mutex<Complete>) -> MutexGuard<'_, Complete> {
    complete.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uploads {
    /// Those in these pools.
    pub fn new(pools: Arc<Pools>) -> Self {
        Self { pools, hashers: Hashers::default(), complete: Arc::default() }
    }
}

#[async_trait]
impl FileStore for Uploads {
    async fn files(&self, pool: &Pool) -> Result<BTreeMap<String, Stored>, HostError> {
        let (complete, of) = (Arc::clone(&self.complete), pool.name.clone());
        let act = format!("list the files in pool {of}");
        self.pools
            .with_pool(pool, &act, move |pool, _| {
                let mut files = BTreeMap::new();
                for name in pool.images()? {
                    let Some(uid) = names::file_uid(&name) else { continue };
                    let key = (of.clone(), uid.to_owned());
                    let known = lock(&complete).get(&key).cloned();
                    let stored = match known {
                        Some(sha256) => Some(Stored::Complete(sha256)),
                        None => file::stored(pool, &name)?,
                    };
                    if let Some(Stored::Complete(sha256)) = &stored {
                        lock(&complete).insert(key, sha256.clone());
                    }
                    files.extend(stored.map(|stored| (uid.to_owned(), stored)));
                }
                lock(&complete).retain(|(pool, uid), _| *pool != of || files.contains_key(uid));
                Ok(files)
            })
            .await
    }

    async fn stored(&self, file: &FileRequest) -> Result<Stored, HostError> {
        safe::check_uid(&file.uid)?;
        let (act, name) = (file.act("look up"), names::file(&file.uid));
        let found = self.pools.with_pool(&file.pool, &act, move |pool, _| Ok(file::stored(pool, &name)?)).await?;
        Ok(found.unwrap_or(Stored::Partial(0)))
    }

    async fn append(
        &self,
        file: &FileRequest,
        offset: u64,
        bytes: mpsc::Receiver<Bytes>,
    ) -> Result<Stored, AppendError> {
        safe::check_uid(&file.uid)?;
        let Ok(turn) = self.pools.turn(&file.pool, &file.uid).try_lock_owned() else { return Err(AppendError::Busy) };
        let (wanted, hashers) = (file.clone(), self.hashers.clone());
        self.pools
            .with_pool(&file.pool, &file.act("keep"), move |pool, _| {
                let _turn = turn;
                file::append(pool, &hashers, &wanted, offset, bytes)
            })
            .await?
    }

    async fn open(&self, file: &FileRequest) -> Result<Option<std::fs::File>, HostError> {
        match self.stored(file).await? {
            Stored::Complete(_) => Ok(None),
            Stored::Partial(_) => Err(file.incomplete()),
        }
    }

    async fn read(&self, file: &FileRequest, range: Range<u64>, into: mpsc::Sender<Bytes>) -> Result<(), HostError> {
        safe::check_uid(&file.uid)?;
        let (act, name) = (file.act("read"), names::file(&file.uid));
        self.pools
            .with_pool(&file.pool, &act, move |pool, _| {
                let (image, _) = file::open_complete(pool, &name)?.ok_or(RbdError::NoDisk)?;
                read::read(&image, range, &into)
            })
            .await
    }

    async fn size(&self, pool: &Pool, uid: &str) -> Result<Option<Quantity>, HostError> {
        safe::check_uid(uid)?;
        let (act, name) = (format!("measure file {uid} in pool {}", pool.name), names::file(uid));
        let size = self.pools.with_pool(pool, &act, move |pool, _| Ok(file::size(pool, &name)?)).await?;
        Ok(size.map(Quantity::from_bytes))
    }

    async fn remove(&self, pool: &Pool, uid: &str) -> Result<(), HostError> {
        safe::check_uid(uid)?;
        let turn = self.pools.turn(pool, uid).lock_owned().await;
        let (act, owned) = (format!("remove file {uid} from pool {}", pool.name), uid.to_owned());
        let removed = self.pools.with_pool(pool, &act, move |pool, _| {
            let _turn = turn;
            file::remove(pool, &owned)?;
            content::sweep(pool)
        });
        removed.await?;
        self.hashers.forget(uid);
        Ok(())
    }
}
