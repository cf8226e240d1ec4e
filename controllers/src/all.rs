//! All controllers in one process: the caches that they share, and the election of who acts.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Namespace, ResourceQuota},
    },
    jiff::Timestamp,
};
use kube::{Api, Client, core::DeserializeGuard};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info};
use ucloud_types::{
    File, Host, Image, Network, NetworkAllocation, NetworkPool, Orphan, SecurityGroup, Snapshot, SnapshotSchedule,
    StoragePool, VM, Volume,
    meta::{HOST_LEASE_DURATION_SECONDS, HOSTS_NAMESPACE, ROUTER_LEASE_DURATION_SECONDS},
};

use crate::{
    file, garbage_collector, host, image, namespace, network, orphan, resource_quota,
    runtime::{
        Cache, Clock, Kind, Runtime,
        election::{Election, LEASE, Timing},
        events,
        metrics::Metrics,
        serve::Readiness,
    },
    scheduler, security_group, snapshot, snapshot_schedule, storage_pool, volume,
};

/// A controller's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ControllerName {
    /// Gives VMs their hosts.
    Scheduler,
    /// Gives networks their VNIs, prefixes and routers.
    Network,
    /// Gives files their hosts.
    File,
    /// Has images imported.
    Image,
    /// Says how volumes are, and frees those of VMs that are gone.
    Volume,
    /// Decides what snapshots are made of, and who takes them.
    Snapshot,
    /// Has snapshots taken again and again.
    SnapshotSchedule,
    /// Lists what belongs to no object.
    Orphan,
    /// Sums storage pools.
    StoragePool,
    /// Marks silent hosts.
    Host,
    /// Empties namespaces.
    Namespace,
    /// Deletes what has lost its owners.
    GarbageCollector,
    /// Counts what quotas limit.
    ResourceQuota,
    /// Gathers the addresses of security groups' members.
    SecurityGroup,
}

impl ControllerName {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Scheduler,
        Self::Network,
        Self::File,
        Self::Image,
        Self::Volume,
        Self::Snapshot,
        Self::SnapshotSchedule,
        Self::Orphan,
        Self::StoragePool,
        Self::Host,
        Self::Namespace,
        Self::GarbageCollector,
        Self::ResourceQuota,
        Self::SecurityGroup,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Network => "network",
            Self::File => "file",
            Self::Image => "image",
            Self::Volume => "volume",
            Self::Snapshot => "snapshot",
            Self::SnapshotSchedule => "snapshot-schedule",
            Self::Orphan => "orphan",
            Self::StoragePool => "storage-pool",
            Self::Host => "host",
            Self::Namespace => "namespace",
            Self::GarbageCollector => "garbage-collector",
            Self::ResourceQuota => "resource-quota",
            Self::SecurityGroup => "security-group",
        }
    }
}

impl fmt::Display for ControllerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ControllerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|name| name.as_str() == text).ok_or_else(|| {
            format!("there is no controller {text:?}; there are {}", Self::ALL.map(Self::as_str).join(", "))
        })
    }
}

/// How the controllers run.
#[derive(Clone)]
pub struct Options {
    /// Which ones.
    pub controllers: BTreeSet<ControllerName>,
    /// This process' name, unique among all processes: in the Lease and in Events.
    pub identity: String,
    /// The times of the election of a leader; none: this process leads without asking.
    pub election: Option<Timing>,
    /// How long a host may be silent.
    pub host_lease_duration: Duration,
    /// How long a router may be silent, at least; its Lease may say more.
    pub router_lease_duration: Duration,
    /// After how long what is an orphan is destroyed by itself; none: never.
    pub destroy_orphans_after: Option<Duration>,
    /// What time it is.
    pub clock: Clock,
    /// Where is counted what happens.
    pub metrics: Arc<Metrics>,
    /// Becomes true when the process stands by, or leads and knows everything.
    pub readiness: Readiness,
    /// Ends everything when it is cancelled.
    pub stop: CancellationToken,
}

impl Options {
    /// All controllers, with a leader election by client-go's times, for a process of this name.
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            controllers: BTreeSet::from(ControllerName::ALL),
            identity: identity.into(),
            election: Some(Timing::default()),
            host_lease_duration: Duration::from_secs(HOST_LEASE_DURATION_SECONDS.into()),
            router_lease_duration: Duration::from_secs(ROUTER_LEASE_DURATION_SECONDS.into()),
            destroy_orphans_after: None,
            clock: Arc::new(Timestamp::now),
            metrics: Arc::default(),
            readiness: Readiness::default(),
            stop: CancellationToken::new(),
        }
    }
}

/// Why the controllers ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another process leads, or nobody can tell who does. Everything was stopped at once; start again to stand by.
    #[error("this process does not lead any more")]
    LostLeadership,
    /// A controller ended by a fault of its own.
    #[error("a controller ended")]
    ControllerEnded(#[source] Option<tokio::task::JoinError>),
}

/// Runs the controllers until `options.stop`, or until this process must not act any more.
pub async fn run(client: Client, options: Options) -> Result<(), RunError> {
    let Some(timing) = options.election else {
        return act(client, &options).await;
    };
    let mut election = Election::new(client.clone(), options.identity.clone(), timing);
    options.metrics.leading(LEASE, false);
    options.readiness.set(true);
    tokio::select! {
        () = election.acquire() => {}
        () = options.stop.cancelled() => return Ok(()),
    }
    options.readiness.set(false);
    options.metrics.leading(LEASE, true);
    // whichever ends first, dropping the other ends every controller at its next await
    let result = tokio::select! {
        () = election.hold() => Err(RunError::LostLeadership),
        result = act(client, &options) => result,
    };
    options.metrics.leading(LEASE, false);
    options.readiness.set(false);
    if result.is_ok() {
        election.release().await;
    }
    result
}

/// Runs the controllers until `options.stop`. Dropping the future stops them all.
async fn act(client: Client, options: &Options) -> Result<(), RunError> {
    let (events, writer) = events::channel(Arc::clone(&options.metrics));
    let (metrics, clock) = (Arc::clone(&options.metrics), Arc::clone(&options.clock));
    let runtime = Runtime { client: client.clone(), metrics, events, clock };
    let mut tasks = JoinSet::new();
    tasks.spawn(writer.run(client.clone(), options.identity.clone()));

    let mut feeds = Feeds { client, metrics: Arc::clone(&options.metrics), running: Vec::new(), ready: Vec::new() };
    for controller in start(&runtime, options, &mut feeds) {
        tasks.spawn(controller);
    }
    // only now, so that no controller misses the first list
    for feed in feeds.running {
        tasks.spawn(feed);
    }
    let readiness = options.readiness.clone();
    let all_ready = futures::future::join_all(feeds.ready);
    let ready = async move {
        all_ready.await;
        readiness.set(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = options.stop.cancelled() => info!("stopping"),
        ended = tasks.join_next() => {
            return Err(RunError::ControllerEnded(ended.and_then(Result::err)));
        }
        () = ready => {}
    }
    tasks.shutdown().await;
    Ok(())
}

/// Makes caches, and keeps what fills them.
struct Feeds {
    client: Client,
    metrics: Arc<Metrics>,
    running: Vec<BoxFuture<'static, ()>>,
    ready: Vec<BoxFuture<'static, ()>>,
}

impl Feeds {
    fn all<K: Kind>(&mut self) -> Cache<K> {
        self.cache(Api::all(self.client.clone()))
    }

    fn cache<K: Kind>(&mut self, api: Api<DeserializeGuard<K>>) -> Cache<K> {
        let (cache, feed) = Cache::new();
        self.ready.push(Box::pin(cache.ready()));
        self.running.push(Box::pin(feed.run(api, Arc::clone(&self.metrics))));
        cache
    }
}

fn start(runtime: &Runtime, options: &Options, feeds: &mut Feeds) -> Vec<BoxFuture<'static, ()>> {
    let hosts: Cache<Host> = feeds.all();
    let vms: Cache<VM> = feeds.all();
    let networks: Cache<Network> = feeds.all();
    let images: Cache<Image> = feeds.all();
    let files: Cache<File> = feeds.all();
    let storage_pools: Cache<StoragePool> = feeds.all();
    let volumes: Cache<Volume> = feeds.all();
    let snapshots: Cache<Snapshot> = feeds.all();
    let leases: Cache<Lease> = feeds.cache(Api::namespaced(feeds.client.clone(), HOSTS_NAMESPACE));
    let mut start = |name: &ControllerName| -> BoxFuture<'static, ()> {
        let span = tracing::info_span!("controller", name = name.as_str());
        match name {
            ControllerName::Scheduler => {
                let caches = scheduler::Caches {
                    vms: vms.clone(),
                    hosts: hosts.clone(),
                    volumes: volumes.clone(),
                    images: images.clone(),
                    pools: storage_pools.clone(),
                };
                Box::pin(scheduler::run(runtime, &caches).instrument(span))
            }
            ControllerName::Network => {
                let caches = network::Caches {
                    networks: networks.clone(),
                    pools: feeds.all::<NetworkPool>(),
                    allocations: feeds.all::<NetworkAllocation>(),
                    hosts: hosts.clone(),
                    vms: vms.clone(),
                    leases: leases.clone(),
                };
                let patience =
                    network::Patience { least: options.router_lease_duration, most: options.host_lease_duration };
                Box::pin(network::run(runtime, &caches, patience).instrument(span))
            }
            ControllerName::File => {
                let caches = file::Caches { files: files.clone(), pools: storage_pools.clone(), hosts: hosts.clone() };
                Box::pin(file::run(runtime, &caches).instrument(span))
            }
            ControllerName::Image => {
                let caches = image::Caches {
                    images: images.clone(),
                    files: files.clone(),
                    snapshots: snapshots.clone(),
                    pools: storage_pools.clone(),
                    hosts: hosts.clone(),
                    vms: vms.clone(),
                    volumes: volumes.clone(),
                };
                Box::pin(image::run(runtime, &caches).instrument(span))
            }
            ControllerName::Volume => {
                let caches = volume::Caches {
                    volumes: volumes.clone(),
                    vms: vms.clone(),
                    hosts: hosts.clone(),
                    pools: storage_pools.clone(),
                    images: images.clone(),
                    snapshots: snapshots.clone(),
                };
                Box::pin(volume::run(runtime, &caches).instrument(span))
            }
            ControllerName::Snapshot => {
                let caches = snapshot::Caches {
                    snapshots: snapshots.clone(),
                    vms: vms.clone(),
                    volumes: volumes.clone(),
                    images: images.clone(),
                    hosts: hosts.clone(),
                };
                Box::pin(snapshot::run(runtime, &caches).instrument(span))
            }
            ControllerName::SnapshotSchedule => {
                let caches = snapshot_schedule::Caches {
                    schedules: feeds.all::<SnapshotSchedule>(),
                    snapshots: snapshots.clone(),
                    vms: vms.clone(),
                    volumes: volumes.clone(),
                };
                Box::pin(snapshot_schedule::run(runtime, &caches).instrument(span))
            }
            ControllerName::Orphan => {
                let caches = orphan::Caches {
                    orphans: feeds.all::<Orphan>(),
                    hosts: hosts.clone(),
                    pools: storage_pools.clone(),
                    vms: vms.clone(),
                    volumes: volumes.clone(),
                    images: images.clone(),
                    files: files.clone(),
                };
                Box::pin(orphan::run(runtime, &caches, options.destroy_orphans_after).instrument(span))
            }
            ControllerName::StoragePool => {
                Box::pin(storage_pool::run(runtime, &storage_pools, &hosts).instrument(span))
            }
            ControllerName::Host => {
                Box::pin(host::run(runtime, &hosts, &leases, &vms, options.host_lease_duration).instrument(span))
            }
            ControllerName::Namespace => {
                let caches = namespace::Caches {
                    namespaces: feeds.all::<Namespace>(),
                    vms: vms.clone(),
                    networks: networks.clone(),
                    images: images.clone(),
                    volumes: volumes.clone(),
                };
                Box::pin(namespace::run(runtime, &caches).instrument(span))
            }
            ControllerName::GarbageCollector => Box::pin(garbage_collector::run(runtime.clone()).instrument(span)),
            ControllerName::ResourceQuota => {
                let quotas = feeds.all::<ResourceQuota>();
                Box::pin(resource_quota::run(runtime, &quotas).instrument(span))
            }
            ControllerName::SecurityGroup => {
                let groups = feeds.all::<SecurityGroup>();
                Box::pin(security_group::run(runtime, &groups, &vms).instrument(span))
            }
        }
    };
    options.controllers.iter().map(&mut start).collect()
}
