//! Pools in Ceph clusters, and the connections to those.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use nix::errno::Errno;
use tokio::{sync::Mutex as AsyncMutex, task::spawn_blocking};
use ucloud_agent_core::{
    HostError,
    block_store::{Pool, PoolBackend, RbdPool},
};
use ucloud_agent_import::StoreError;

use crate::{
    cluster::{Cluster, IoCtx},
    error::RbdError,
    usage,
};

/// A connection to a cluster.
#[derive(Default)]
struct Connection {
    /// None before the first was made. Locked while that is being made.
    current: Mutex<Option<Arc<Cluster>>>,
    /// Locked while another is being made in its place.
    renewing: Mutex<()>,
}

type Turns = HashMap<(String, String), Weak<AsyncMutex<()>>>;

/// The pools in Ceph clusters that a host uses. Clusters are connected to when they are first used.
pub struct Pools {
    timeout: Duration,
    /// By user and configuration.
    connections: Mutex<HashMap<(String, PathBuf), Arc<Connection>>>,
    /// What is being worked at, by pool and by UID or checksum: whoever comes second waits for the first.
    turns: Mutex<Turns>,
}

impl Pools {
    /// Pools of clusters that may take so long to answer.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, connections: Mutex::default(), turns: Mutex::default() }
    }

    fn connection(&self, pool: &RbdPool) -> Arc<Connection> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(connections.entry((pool.user.clone(), pool.conf.clone())).or_default())
    }

    /// Held by whoever is at work at something in a pool: at an image, a content or a File, by UID or checksum.
    pub fn turn(&self, pool: &Pool, of: &str) -> Arc<AsyncMutex<()>> {
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
    pub async fn with_pool<T: Send + 'static>(
        &self,
        pool: &Pool,
        act: &str,
        work: impl FnOnce(&IoCtx, &RbdPool) -> Result<T, RbdError> + Send + 'static,
    ) -> Result<T, HostError> {
        let settings = settings(pool, act)?.clone();
        let (connection, timeout) = (self.connection(&settings), self.timeout);
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
}

/// The pool as Ceph knows it.
pub fn settings<'a>(pool: &'a Pool, act: &str) -> Result<&'a RbdPool, HostError> {
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
