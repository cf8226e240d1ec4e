//! Runs a [`Reconciler`]: kube's applier with what it leaves out.
//!
//! kube deduplicates requests, never reconciles one object twice at once, and caps how many objects are in work. Added
//! here: a wait for all caches (an empty cache must not be taken for an empty installation), a time limit, backoff per
//! object, terminal failures, metrics, and an id for each reconcile in the log.

use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
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

/// A race that is lost so many times in a row, over half a minute, is none: our version of the object does not move on.
const CONFLICTS_BEFORE_WARNING: u32 = 8;

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
        let reconcile = AssertUnwindSafe(self.reconciler.reconcile(Arc::clone(&object))).catch_unwind();
        let result = match tokio::time::timeout(self.timeout, reconcile).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Failure::Panicked(message_of(&*panic))),
            Err(_) => Err(Failure::TimedOut(self.timeout)),
        };
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
                if failures < CONFLICTS_BEFORE_WARNING {
                    debug!(failures, message, "decided on an old version, trying again");
                } else {
                    warn!(failures, message, "no newer version comes in; is the object readable? Trying again");
                }
                return;
            }
            Failure::Terminal { reason, .. } => {
                error!(message, "failed; not tried again before the object changes");
                self.failures.give_up(uid, wish);
                reason
            }
            Failure::Api { .. } | Failure::TimedOut(_) | Failure::Panicked(_) => {
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

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panic without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use k8s_openapi::jiff::Timestamp;
    use kube::{Client, core::DeserializeGuard, runtime::watcher::Event};
    use serde_json::json;
    use tokio::sync::Barrier;
    use ucloud_types::Host;

    use super::*;
    use crate::runtime::{Clock, cache::Feed, events, metrics::Metrics};

    /// What happened, and how often.
    type Log = Arc<Mutex<Vec<String>>>;

    /// Does with a host what its name says.
    struct ByName {
        log: Log,
        two: Barrier,
        at_once: AtomicU64,
    }

    impl Reconciler for ByName {
        type Object = Host;

        async fn reconcile(&self, host: Arc<Host>) -> Result<Action, Failure> {
            let name = name_of(&*host);
            self.log.lock().unwrap().push(name.clone());
            match name.as_str() {
                "panics" => panic!("on purpose"),
                "hangs" => std::future::pending().await,
                "refused" if host.metadata.generation == Some(1) => {
                    Err(Failure::Terminal { reason: "Refused", message: "no".to_owned() })
                }
                name if name.starts_with("pair") => {
                    assert!(self.at_once.fetch_add(1, Ordering::SeqCst) < 2, "more than two at once");
                    self.two.wait().await;
                    self.at_once.fetch_sub(1, Ordering::SeqCst);
                    Ok(Action::await_change())
                }
                _ => Ok(Action::await_change()),
            }
        }

        async fn report_failure(&self, host: Arc<Host>, reason: &'static str, text: String) -> Result<(), Failure> {
            self.log.lock().unwrap().push(format!("{}: {reason}: {text}", name_of(&*host)));
            Ok(())
        }
    }

    struct Running {
        feed: Feed<Host>,
        log: Log,
        task: tokio::task::JoinHandle<()>,
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Running {
        fn start(limits: Limits) -> Self {
            let nobody = tower::service_fn(async |_: http::Request<kube::client::Body>| {
                Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("there is no server"))
            });
            let metrics = Arc::new(Metrics::default());
            let (events, _) = events::channel(Arc::clone(&metrics));
            let clock: Clock = Arc::new(Timestamp::now);
            let runtime = Runtime { client: Client::new(nobody, "default"), metrics, events, clock };
            let (cache, mut feed) = Cache::new();
            let controller = Controller::new("test", &runtime, &cache);
            let log = Log::default();
            let reconciler = ByName { log: Arc::clone(&log), two: Barrier::new(2), at_once: AtomicU64::new(0) };
            let task = tokio::spawn(controller.run(reconciler, limits));
            feed.accept(Event::Init);
            feed.accept(Event::InitDone);
            Self { feed, log, task }
        }

        fn set(&mut self, name: &str, generation: i64, version: u32) {
            let host: DeserializeGuard<Host> = serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "spec": {},
                "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": generation,
                             "resourceVersion": version.to_string()},
            }))
            .unwrap();
            self.feed.accept(Event::Apply(host));
        }

        fn times(&self, line: &str) -> usize {
            self.log.lock().unwrap().iter().filter(|logged| *logged == line).count()
        }

        async fn until(&self, line: &str, times: usize) {
            let wanted = async {
                while self.times(line) < times {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(30), wanted).await;
            assert!(in_time.is_ok(), "{times} times {line:?} does not come: {:?}", self.log.lock().unwrap());
        }
    }

    #[tokio::test]
    async fn no_more_objects_are_in_work_than_may_be() {
        let mut running = Running::start(Limits { concurrency: 2, ..Limits::default() });
        for n in 0..6 {
            running.set(&format!("pair{n}"), 1, 1);
        }
        for n in 0..6 {
            running.until(&format!("pair{n}"), 1).await;
        }
    }

    #[tokio::test]
    async fn one_that_panics_or_hangs_is_told_and_tried_again_and_stops_no_other() {
        let mut running = Running::start(Limits { concurrency: 1, timeout: Duration::from_millis(50) });
        for name in ["panics", "hangs", "fine"] {
            running.set(name, 1, 1);
        }
        running.until("fine", 1).await;
        running.until("panics: ReconcileFailed: a defect of ucloud-controllers: on purpose", 1).await;
        running.until("hangs: ReconcileFailed: not done after 0 s", 1).await;
        assert!(running.times("panics") >= 3 && running.times("hangs") >= 3, "told when it goes on, not at once");
    }

    /// Pattern 15.
    #[tokio::test]
    async fn what_is_refused_is_told_once_and_tried_again_only_when_its_spec_changes() {
        let mut running = Running::start(Limits { concurrency: 1, ..Limits::default() });
        running.set("refused", 1, 1);
        running.until("refused: Refused: no", 1).await;
        running.set("refused", 1, 2);
        for version in 1..10 {
            running.set("fine", 1, version);
            running.until("fine", version as usize).await;
        }
        assert_eq!(running.times("refused"), 1);
        running.set("refused", 2, 3);
        running.until("refused", 2).await;
        assert_eq!(running.times("refused: Refused: no"), 1);
    }
}
