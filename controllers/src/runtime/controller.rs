//! Runs a [`Reconciler`]: kube's applier with what it leaves out.
//!
//! kube deduplicates requests, never reconciles one object twice at once, and caps how many objects are in work. Added
//! here: a wait for all caches (an empty cache must not be taken for an empty installation), a time limit, backoff per
//! object, terminal failures, metrics, and an id for each reconcile in the log.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::BoxStream};
use kube::{
    Resource as _,
    runtime::{
        self,
        controller::{self, Action, ReconcileRequest},
        reflector::ObjectRef,
    },
};
use tokio::time::Instant;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use super::{
    Cache, Change, Failure, Kind, Runtime,
    backoff::{Failures, Wish, delay},
    is_deleting,
    metrics::Outcome,
    name_of,
    queue::{self, Requests},
    uid_of,
};

/// Every object is looked at again after this long, even if nothing was seen to change. It costs no write.
const RESYNC: Duration = Duration::from_mins(10);

/// After so many failures in a row an object says what keeps it. Before, the trouble may be over at once.
const FAILURES_BEFORE_REPORT: u32 = 3;

/// Makes the world match one object.
pub trait Reconciler: Send + Sync + 'static {
    /// The kind.
    type Object: Kind;

    /// Brings what belongs to the object one step or all the way to what it should be. Idempotent; may be stopped
    /// between any two writes.
    fn reconcile(&self, object: Arc<Self::Object>) -> impl Future<Output = Result<Action, Failure>> + Send;

    /// Writes into the object that, and why, it cannot be reconciled.
    fn report_failure(
        &self,
        object: Arc<Self::Object>,
        reason: &'static str,
        message: String,
    ) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The bounds of one controller.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many objects are reconciled at once.
    pub concurrency: u16,
    /// How long one reconcile may take.
    pub timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: 8, timeout: Duration::from_secs(30) }
    }
}

/// A controller that is being put together: what it reconciles, and what else makes it look again.
pub struct Controller<K: Kind> {
    name: &'static str,
    runtime: Runtime,
    cache: Cache<K>,
    requests: Requests<K>,
    queue: BoxStream<'static, ReconcileRequest<K>>,
    synced: Vec<BoxFuture<'static, ()>>,
}

impl<K: Kind> Controller<K> {
    /// A controller of the objects in `cache`.
    pub fn new(name: &'static str, runtime: &Runtime, cache: &Cache<K>) -> Self {
        let (requests, queue) = queue::channel(name, Arc::clone(&runtime.metrics));
        let own = requests.clone();
        cache.on_change(move |change: &Change<K>| {
            if let Some(object) = &change.new {
                own.request(ObjectRef::from_obj(&**object));
            }
        });
        Self {
            name,
            runtime: runtime.clone(),
            cache: cache.clone(),
            requests,
            queue,
            synced: vec![cache.ready().boxed()],
        }
    }

    /// Reconciles, after a change in another cache, the objects that `affected` names. The controller starts once
    /// that cache is complete.
    #[must_use]
    pub fn watch<W: Kind, I>(
        mut self,
        cache: &Cache<W>,
        affected: impl Fn(&Change<W>) -> I + Send + Sync + 'static,
    ) -> Self
    where
        I: IntoIterator<Item = ObjectRef<K>>,
    {
        let requests = self.requests.clone();
        cache.on_change(move |change| {
            for object in affected(change) {
                requests.request(object);
            }
        });
        self.synced.push(cache.ready().boxed());
        self
    }

    /// The way into the controller's queue.
    pub fn requests(&self) -> Requests<K> {
        self.requests.clone()
    }

    /// Runs for ever. Dropping the future stops it between two writes.
    pub async fn run<R: Reconciler<Object = K>>(self, reconciler: R, limits: Limits) {
        futures::future::join_all(self.synced).await;
        info!(controller = self.name, "all caches are complete, starting");
        self.runtime.metrics.controller_starts(self.name, limits.concurrency);

        let failures = Arc::new(Failures::default());
        let gone = Arc::clone(&failures);
        self.cache.on_change(move |change: &Change<K>| {
            if let Change { old: Some(old), new: None } = change {
                gone.clear(uid_of(&**old));
            }
        });

        let worker = Arc::new(Worker {
            name: self.name,
            runtime: self.runtime,
            requests: self.requests.clone(),
            reconciler,
            timeout: limits.timeout,
            failures,
            next_id: AtomicU64::new(1),
        });
        let settings = controller::Config::default().concurrency(limits.concurrency);
        let mut results = runtime::applier(
            |object, worker: Arc<Worker<R>>| async move { worker.attempt(object).await }.boxed(),
            |object: Arc<K>, failure, worker: Arc<Worker<R>>| worker.next_attempt(&*object, failure),
            worker,
            self.cache.store(),
            self.queue.map(Ok::<_, Infallible>),
            settings,
        )
        .boxed();
        while let Some(result) = results.next().await {
            if let Err(controller::Error::ObjectNotFound(object)) = result {
                self.requests.started(object.namespace.as_deref(), &object.name);
            }
        }
    }
}

struct Worker<R: Reconciler> {
    name: &'static str,
    runtime: Runtime,
    requests: Requests<R::Object>,
    reconciler: R,
    timeout: Duration,
    failures: Arc<Failures>,
    next_id: AtomicU64,
}

impl<R: Reconciler> Worker<R> {
    async fn attempt(&self, object: Arc<R::Object>) -> Result<Action, Failure> {
        let meta = object.meta();
        self.requests.started(meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default());
        let wish = Wish { generation: meta.generation, deleting: is_deleting(&*object) };
        if self.failures.is_hopeless(uid_of(&*object), wish) {
            return Ok(Action::await_change());
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let span = info_span!("reconcile", controller = self.name, object = name_of(&*object), id);
        self.measured(object, wish).instrument(span).await
    }

    async fn measured(&self, object: Arc<R::Object>, wish: Wish) -> Result<Action, Failure> {
        self.runtime.metrics.reconcile_starts(self.name);
        let start = Instant::now();
        let result = tokio::time::timeout(self.timeout, self.reconciler.reconcile(Arc::clone(&object)))
            .await
            .unwrap_or(Err(Failure::TimedOut(self.timeout)));
        let outcome = match &result {
            Ok(action) if *action == Action::await_change() => Outcome::Success,
            Ok(_) => Outcome::RequeueAfter,
            Err(Failure::Conflict { .. }) => Outcome::Conflict,
            Err(Failure::Terminal { .. }) => Outcome::Terminal,
            Err(_) => Outcome::Error,
        };
        self.runtime.metrics.reconcile_ends(self.name, outcome, start.elapsed());

        let uid = uid_of(&*object).to_owned();
        match result {
            Ok(action) => {
                self.failures.clear(&uid);
                Ok(if action == Action::await_change() { Action::requeue(RESYNC) } else { action })
            }
            Err(failure) => {
                self.record(object, &uid, wish, &failure).await;
                Err(failure)
            }
        }
    }

    async fn record(&self, object: Arc<R::Object>, uid: &str, wish: Wish, failure: &Failure) {
        let message = failure.chain();
        let failures = self.failures.failed(uid);
        let reason = match failure {
            Failure::Conflict { .. } => {
                debug!(failures, message, "decided on an old version, trying again");
                return;
            }
            Failure::Terminal { reason, .. } => {
                error!(message, "failed; not tried again before the object changes");
                self.failures.give_up(uid, wish);
                reason
            }
            Failure::Api { .. } | Failure::TimedOut(_) => {
                warn!(failures, message, "failed, trying again");
                if failures < FAILURES_BEFORE_REPORT {
                    return;
                }
                "ReconcileFailed"
            }
        };
        let report = self.reconciler.report_failure(object, reason, message);
        match tokio::time::timeout(self.timeout, report).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(error = error.chain(), "the failure could not be reported"),
            Err(_) => warn!("the failure could not be reported in time"),
        }
    }

    fn next_attempt(&self, object: &R::Object, failure: &Failure) -> Action {
        match failure {
            Failure::Terminal { .. } => Action::await_change(),
            _ => Action::requeue(delay(self.failures.count(uid_of(object)))),
        }
    }
}
