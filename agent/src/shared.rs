//! What the parts of an agent share.

use jiff::Timestamp;
use ucloud_agent_core::{HostError, block_store::Pool, image, reason};

use crate::{
    Config, Machine, api::ApiServer, cache::Caches, events::Events, files::Files, images::Images, isolation::Isolation,
    metrics::Metrics, networks::Networks, orphans::Orphans, snapshots::Snapshots, triggers::Wake, vm::Memories,
    volumes::Volumes,
};

/// What the parts of an agent share.
pub struct Shared {
    pub config: Config,
    pub machine: Machine,
    pub api: ApiServer,
    pub caches: Caches,
    pub wake: Wake,
    pub memories: Memories,
    pub networks: Networks,
    pub images: Images,
    pub files: Files,
    pub volumes: Volumes,
    pub snapshots: Snapshots,
    pub orphans: Orphans,
    /// Where the bytes of Files, Images and Volumes are taken and given.
    pub stream_port: Option<u16>,
    pub isolation: Isolation,
    pub events: Events,
    pub metrics: Metrics,
    /// When the agent started.
    pub started: Timestamp,
}

impl Shared {
    /// The StoragePool with this name, as the host needs to know it.
    pub fn pool(&self, name: &str) -> Result<Pool, HostError> {
        let pool = self.caches.pools.get(None, name).and_then(|pool| image::pool(&pool));
        pool.ok_or_else(|| {
            HostError::retryable(reason::STORAGE_POOL_NOT_FOUND, format!("StoragePool {name} does not exist"))
        })
    }
}
