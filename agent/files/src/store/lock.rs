//! Who may change a pool, and when.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use nix::fcntl::{Flock, FlockArg};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task::spawn_blocking,
};

use super::{Store, StoreError, doing};

/// The right to change a pool: one holder at a time, among all tasks and processes of the host.
pub struct Lock {
    _file: Flock<File>,
    _turn: OwnedMutexGuard<()>,
}

/// The pools that this process knows.
#[derive(Default)]
pub struct Turns(Mutex<HashMap<PathBuf, Arc<AsyncMutex<()>>>>);

impl Turns {
    /// Waits for the right to change the pool.
    pub async fn lock(&self, store: &Store) -> Result<Lock, StoreError> {
        // Tasks wait in a queue, so that at most one thread waits for the file.
        let queue = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(store.root.clone()).or_default())
        };
        let turn = queue.lock_owned().await;
        let path = store.root.join("lock");
        let lock = move || {
            let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
            let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
            Ok(Lock { _file: file, _turn: turn })
        };
        doing("lock the pool", spawn_blocking(lock).await.map_err(io::Error::other).flatten())
    }
}
