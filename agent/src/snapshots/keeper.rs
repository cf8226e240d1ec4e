//! Takes snapshots as they are asked for, a few at a time, and one at a time of each VM or Volume.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use tokio::{
    task::{Id, JoinSet},
    time::Instant,
};
use tracing::{info, warn};
use ucloud_agent_core::{
    HostError,
    hypervisor::Domain,
    snapshot::{Order, Task, task},
};
use ucloud_types::Snapshot;

use super::take;
use crate::{
    api::ApiError,
    keeper::{Failure, until},
    limit::limited,
    shared::Shared,
};

/// So many are taken at the same time.
const CONCURRENT: usize = 4;

/// Takes them, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let caches = &shared.caches;
    let mut changes = (caches.snapshots.changes(), caches.images.changes(), caches.pools.changes());
    let mut keeper =
        Keeper { shared: Arc::clone(&shared), work: JoinSet::new(), running: HashMap::new(), failed: BTreeMap::new() };
    let mut failures = 0;
    loop {
        let retry = match keeper.bring().await {
            Ok(()) => {
                failures = 0;
                keeper.failed.values().map(|(_, at)| *at).min()
            }
            Err(error) => {
                failures += 1;
                warn!(reason = error.reason, error = &error as &dyn std::error::Error, "cannot look after snapshots");
                Some(Instant::now() + shared.config.timing.retry(failures))
            }
        };
        let alive = tokio::select! {
            changed = changes.0.changed() => changed.is_ok(),
            changed = changes.1.changed() => changed.is_ok(),
            changed = changes.2.changed() => changed.is_ok(),
            Some(ended) = keeper.work.join_next_with_id() => {
                let (id, result) = match ended {
                    Ok((id, result)) => (id, result),
                    Err(error) => {
                        let broken = HostError::retryable("InternalError", "it broke off by a fault of the agent");
                        (error.id(), Err(broken.caused_by(error).into()))
                    }
                };
                keeper.ended(id, result);
                true
            }
            () = shared.snapshots.released() => true,
            () = until(retry) => true,
        };
        if !alive {
            return;
        }
    }
}

/// What is being worked on.
struct Running {
    snapshot: Arc<Snapshot>,
    order: Order,
}

struct Keeper {
    shared: Arc<Shared>,
    work: JoinSet<Result<(), Failure>>,
    running: HashMap<Id, Running>,
    /// How often in a row, and when it is tried again, by UID.
    failed: BTreeMap<String, (u32, Instant)>,
}

/// The UIDs of all whose disks the order takes.
fn owners(order: &Order) -> Vec<String> {
    let disks = order.disks.iter().map(|disk| disk.request.disk.owner_uid.clone());
    disks.chain([order.source_uid.clone()]).collect()
}

fn uid_of(snapshot: &Snapshot) -> String {
    snapshot.metadata.uid.clone().unwrap_or_default()
}

impl Keeper {
    async fn bring(&mut self) -> Result<(), HostError> {
        let (snapshots, images) = (self.shared.caches.snapshots.all(), self.shared.caches.images.all());
        let pools = self.shared.caches.pools.all();
        self.failed.retain(|uid, _| snapshots.iter().any(|snapshot| uid_of(snapshot) == *uid));
        for snapshot in snapshots {
            let (uid, now) = (uid_of(&snapshot), Instant::now());
            let waits = self.failed.get(&uid).is_some_and(|(_, at)| *at > now);
            let is_running = |running: &Running| uid_of(&running.snapshot) == uid;
            if waits || self.running.values().any(is_running) || self.running.len() >= CONCURRENT {
                continue;
            }
            match task(&snapshot, &self.shared.config.host, &images, &pools) {
                Task::None => {}
                Task::Take(order) => self.begin(snapshot, order, true),
                Task::GiveUp(order) => self.begin(snapshot, order, false),
            }
        }
        self.wake().await
    }

    fn begin(&mut self, snapshot: Arc<Snapshot>, order: Order, take: bool) {
        let name = snapshot.metadata.name.clone().unwrap_or_default();
        let namespace = snapshot.metadata.namespace.clone().unwrap_or_default();
        if !self.shared.snapshots.claim(&owners(&order), &name) {
            return;
        }
        let (shared, of, what) = (Arc::clone(&self.shared), Arc::clone(&snapshot), order.clone());
        let task = self.work.spawn(async move {
            if take {
                info!(snapshot = name, namespace, "taking");
                take::take(&shared, &of, &what).await
            } else {
                info!(snapshot = name, namespace, "giving up");
                take::give_up(&shared, &of, &what).await
            }
        });
        self.running.insert(task.id(), Running { snapshot, order });
    }

    fn ended(&mut self, id: Id, result: Result<(), Failure>) {
        let Some(Running { snapshot, order }) = self.running.remove(&id) else { return };
        self.shared.snapshots.release(&owners(&order));
        // Those that were not to be started may be now
        self.shared.wake.users(&self.shared.caches.vms.store(), |_| true);
        let uid = uid_of(&snapshot);
        match result {
            // What has changed is told by the cache
            Ok(()) | Err(Failure::Api(ApiError::Conflict | ApiError::Gone)) => drop(self.failed.remove(&uid)),
            Err(error) => {
                let times = self.failed.get(&uid).map_or(1, |(times, _)| times.saturating_add(1));
                let name = snapshot.metadata.name.as_deref().unwrap_or_default();
                let namespace = snapshot.metadata.namespace.as_deref().unwrap_or_default();
                let error = &error as &dyn std::error::Error;
                warn!(snapshot = name, namespace, times, error, "not taken");
                let pause = self.shared.config.timing.retry_step(times, &uid);
                self.failed.insert(uid, (times, Instant::now() + pause));
            }
        }
    }

    /// Lets domains go on that stand still for nothing: for an agent that has ended, or an attempt that has failed.
    async fn wake(&self) -> Result<(), HostError> {
        let (limit, hypervisor) = (self.shared.config.timing.step, &self.shared.machine.hypervisor);
        let domains = limited(limit, "list its domains", hypervisor.domains()).await?;
        let held = |domain: &&Domain| {
            let volumes = domain.spec.disks.iter().filter_map(|disk| disk.volume.as_deref());
            self.shared.snapshots.hold(volumes.chain([domain.spec.uid.as_str()])).is_some()
        };
        // All at once: a guest's agent that does not answer must not hold up other guests
        let resumed = domains.iter().filter(|domain| domain.spec.standstill && !held(domain)).map(async |domain| {
            warn!(vm = domain.spec.name, namespace = domain.spec.namespace, "it stood still for nothing: it goes on");
            limited(limit, "let a VM go on", hypervisor.resume(&domain.spec.uid)).await
        });
        futures::future::join_all(resumed).await.into_iter().collect()
    }
}
