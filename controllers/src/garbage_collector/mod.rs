//! The garbage collector: deletes what has lost its owners (`metadata.ownerReferences`), and lets objects go whose deletion
//! waits for their dependents (`foregroundDeletion`) or for their dependents to forget them (`orphan`).
//!
//! It works on every kind that the server serves, also on those that come later: [`kinds`] asks which there are, one watch
//! for each brings the metadata of its objects into the [`graph`], and [`collect`] looks at those that the graph names.
//! What becomes of an object is decided by [`plan`]. Events take no part.
//!
//! Unlike other controllers it has no kind of its own, so it runs its own queue: of UIDs.

mod collect;
mod graph;
mod kinds;
mod plan;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::ExponentialBuilder;
use futures::{StreamExt as _, channel::mpsc};
use kube::{
    discovery::ApiResource,
    runtime::{
        WatchStreamExt as _,
        scheduler::{ScheduleRequest, scheduler},
        watcher::{self, Event, ExponentialBackoff, watcher},
    },
};
use tokio::{
    sync::Notify,
    time::{Instant, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, info, warn};

use crate::runtime::{
    Failure, Runtime,
    backoff::{Failures, LONGEST, delay},
    metrics::Outcome,
};
use collect::{Collector, Next};
use graph::{Node, Uid};
use kinds::Meta;

const NAME: &str = "garbage-collector";
/// How many objects are looked at once.
const CONCURRENCY: u16 = 8;
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked which kinds there are, if no CustomResourceDefinition was seen to change.
const KINDS_INTERVAL: Duration = Duration::from_secs(30);
/// How often everything is looked at again that may have to go, whatever was seen.
const RESYNC: Duration = Duration::from_mins(10);
/// How long a start waits for the first lists of all kinds. What is looked at before costs more, and does no harm.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);
/// A race that is lost so many times in a row is none: something needs the object.
const CONFLICTS_BEFORE_WARNING: u32 = 8;
/// The pause until an object is looked at again for which the graph was behind.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs the garbage collector for ever. Dropping the future stops it between two writes.
pub async fn run(runtime: Runtime) {
    let (sender, requests) = mpsc::unbounded();
    let shared = Arc::new(Shared {
        collector: Collector::new(&runtime),
        queue: Queue(sender),
        runtime,
        failures: Failures::default(),
        kinds_changed: Notify::new(),
        kinds_known: CancellationToken::new(),
        lists: Mutex::default(),
    });
    let watching = watch_all(Arc::clone(&shared));
    let looking = async {
        shared.synced().await;
        info!(controller = NAME, "the graph is complete, starting");
        shared.runtime.metrics.controller_starts(NAME, CONCURRENCY);
        shared.queue.add(shared.collector.with_graph(|graph| graph.suspicious()));
        // two looks at one object at once are no matter: whatever they write is of one version
        scheduler(requests).for_each_concurrent(usize::from(CONCURRENCY), |uid: Uid| shared.attempt(uid)).await;
    };
    let resyncing = async {
        let mut interval = interval(RESYNC);
        loop {
            interval.tick().await;
            shared.queue.add(shared.collector.with_graph(|graph| graph.suspicious()));
        }
    };
    tokio::join!(watching, looking, resyncing);
}

/// Asks for looks at objects.
struct Queue(mpsc::UnboundedSender<ScheduleRequest<Uid>>);

impl Queue {
    fn add(&self, uids: impl IntoIterator<Item = Uid>) {
        for uid in uids {
            self.add_after(uid, Duration::ZERO);
        }
    }

    fn add_after(&self, uid: Uid, pause: Duration) {
        // the receiver is gone only when the collector has ended
        let _ = self.0.unbounded_send(ScheduleRequest { message: uid, run_at: Instant::now() + pause });
    }
}

struct Shared {
    runtime: Runtime,
    collector: Collector,
    queue: Queue,
    failures: Failures,
    kinds_changed: Notify,
    /// It was asked once which kinds there are.
    kinds_known: CancellationToken,
    /// One for each kind that is watched: its first list is complete.
    lists: Mutex<Vec<CancellationToken>>,
}

impl Shared {
    /// Waits until the first list of every kind is complete, or for so long that it must not hold up the others.
    async fn synced(&self) {
        let all = async {
            self.kinds_known.cancelled().await;
            let lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for list in lists {
                list.cancelled().await;
            }
        };
        if timeout(SYNC_PATIENCE, all).await.is_err() {
            warn!(controller = NAME, "some kinds cannot be listed yet, starting without them");
        }
    }

    async fn attempt(&self, uid: Uid) {
        self.runtime.metrics.reconcile_starts(NAME);
        let start = Instant::now();
        let look = timeout(PATIENCE, self.collector.look_at(&uid)).await;
        let result = look.unwrap_or(Err(Failure::TimedOut(PATIENCE)));
        let outcome = match &result {
            Ok(Next { again: false, .. }) => Outcome::Success,
            Ok(_) => Outcome::RequeueAfter,
            Err(Failure::Conflict { .. }) => Outcome::Conflict,
            Err(Failure::Terminal { .. }) => Outcome::Terminal,
            Err(_) => Outcome::Error,
        };
        self.runtime.metrics.reconcile_ends(NAME, outcome, start.elapsed());
        match result {
            Ok(next) => {
                self.failures.clear(&uid);
                self.queue.add(next.look);
                if next.again {
                    self.queue.add_after(uid, AGAIN);
                }
            }
            Err(failure) => {
                let failures = self.failures.failed(&uid);
                let message = failure.chain();
                let pause = match failure {
                    Failure::Conflict { .. } if failures < CONFLICTS_BEFORE_WARNING => {
                        debug!(failures, message, "decided on an old version, trying again");
                        delay(failures)
                    }
                    // the kind of an owner may come, and nothing tells when
                    Failure::Terminal { .. } => {
                        warn!(message, "cannot be decided now");
                        LONGEST
                    }
                    _ => {
                        warn!(failures, message, "failed, trying again");
                        delay(failures)
                    }
                };
                self.queue.add_after(uid, pause);
            }
        }
    }

    fn observe(&self, node: Node) {
        if node.resource.kind == "CustomResourceDefinition" {
            self.kinds_changed.notify_one();
        }
        self.queue.add(self.collector.with_graph(|graph| graph.observe(node)));
    }

    /// Takes out what a new list of a kind does not show any more.
    fn keep_only(&self, resource: &ApiResource, present: &HashSet<Uid>) {
        let gone: Vec<Uid> = self.collector.with_graph(|graph| {
            let all = graph.of_kind(resource).map(|node| node.uid.clone());
            all.filter(|uid| !present.contains(uid)).collect()
        });
        for uid in &gone {
            self.remove(uid);
        }
    }

    fn forget_kind(&self, resource: &ApiResource) {
        self.keep_only(resource, &HashSet::new());
    }

    fn remove(&self, uid: &str) {
        self.failures.clear(uid);
        self.queue.add(self.collector.with_graph(|graph| graph.remove(uid)));
    }
}

/// Watches every kind, also those that come later.
async fn watch_all(shared: Arc<Shared>) {
    let mut watches: BTreeMap<(String, String), Watch> = BTreeMap::new();
    let mut interval = interval(KINDS_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = shared.kinds_changed.notified() => {}
        }
        let kinds = match shared.collector.refresh_kinds().await {
            Ok(kinds) => kinds,
            Err(failure) => {
                warn!(error = failure.chain(), "going on with the kinds that are known");
                continue;
            }
        };
        let served: BTreeMap<(String, String), Arc<ApiResource>> = kinds
            .iter()
            .map(|kind| ((kind.resource.group.clone(), kind.resource.plural.clone()), Arc::clone(&kind.resource)))
            .collect();
        watches.retain(|name, watch| {
            let stays = served.get(name) == Some(&watch.resource);
            if !stays {
                shared.forget_kind(&watch.resource);
            }
            stays
        });
        for (name, resource) in served {
            watches.entry(name).or_insert_with(|| {
                let listed = CancellationToken::new();
                shared.lists.lock().unwrap_or_else(PoisonError::into_inner).push(listed.clone());
                let task = tokio::spawn(watch(Arc::clone(&shared), Arc::clone(&resource), listed));
                Watch { resource, _task: AbortOnDropHandle::new(task) }
            });
        }
        shared.kinds_known.cancel();
    }
}

/// The watch of one kind. It ends when this is dropped.
struct Watch {
    resource: Arc<ApiResource>,
    _task: AbortOnDropHandle<()>,
}

/// Brings the objects of one kind into the graph, for ever.
async fn watch(shared: Arc<Shared>, resource: Arc<ApiResource>, listed: CancellationToken) {
    let waits = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times();
    let api = kinds::api(&shared.runtime.client, &resource, None);
    let events = watcher(api, watcher::Config::default()).backoff(ExponentialBackoff::from(waits));
    let mut events = std::pin::pin!(events);
    let mut present: HashSet<Uid> = HashSet::new();
    let node = |meta: Meta| Node::new(&resource, meta.metadata);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(meta)) => node(meta).into_iter().for_each(|node| shared.observe(node)),
            Ok(Event::Delete(meta)) => meta.metadata.uid.iter().for_each(|uid| shared.remove(uid)),
            Ok(Event::Init) => present.clear(),
            Ok(Event::InitApply(meta)) => {
                if let Some(node) = node(meta) {
                    present.insert(node.uid.clone());
                    shared.observe(node);
                }
            }
            Ok(Event::InitDone) => {
                shared.keep_only(&resource, &present);
                listed.cancel();
            }
            Err(error) => {
                shared.runtime.metrics.watch_error(&resource.kind);
                warn!(kind = resource.kind, %error, "watch interrupted, going on");
            }
        }
    }
}
