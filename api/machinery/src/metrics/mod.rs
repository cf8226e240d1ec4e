//! The server's metrics, under Kubernetes' names where one exists.
//!
//! Label values come from the kinds that are served and from fixed sets, and never from a request, so that clients cannot
//! make any up.

mod labels;
mod process;
mod storage;
mod text;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

pub(crate) use labels::{Asked, RequestLabels};
pub(crate) use storage::{Measured, StorageMetrics};
pub(crate) use text::exposition;

use self::labels::{KindLabels, LevelLabels, LongRunningLabels, ReasonLabels, RequestKindLabels, ResourceLabels};
use self::process::Process;
use crate::cache::Cache;
use crate::flow::Flow;
use crate::registry::{ResourceDescription, Resources};

/// Upper bounds in seconds: those of Kubernetes from 5 ms on, and finer ones below, where most answers of this server are.
const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 15.0, 60.0];

type IntGauge = Gauge<i64, AtomicI64>;

/// A family of histograms.
type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

fn histograms<L: Clone + std::hash::Hash + Eq>() -> Histograms<L> {
    Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram)
}

/// The server's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Histograms<Asked>,
    inflight: [IntGauge; 2],
    watches: Family<LongRunningLabels, IntGauge>,
    watch_events: Family<KindLabels, Counter>,
    terminated: Family<ResourceLabels, Counter>,
    objects: Family<ResourceLabels, IntGauge>,
    cached_revision: IntGauge,
    undecodable: IntGauge,
    levels: Levels,
    process: Process,
    storage: StorageMetrics,
}

/// What is told of the request limits, by level.
struct Levels {
    seats: Family<LevelLabels, IntGauge>,
    executing: Family<LevelLabels, IntGauge>,
    waiting: Family<LevelLabels, IntGauge>,
    dispatched: Family<LevelLabels, Counter>,
    rejected: Family<ReasonLabels, Counter>,
}

/// Registers metrics of whatever type, and hands them back.
struct Registrar(Registry);

impl Registrar {
    fn add<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        self.insert(name, help, M::default())
    }

    fn insert<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut all = Registrar(Registry::default());
        let requests = all.add("apiserver_request", "Requests, by verb, kind and code");
        let durations = all.insert(
            "apiserver_request_duration_seconds",
            "Time to the answer, of all requests but watches",
            histograms(),
        );
        let inflight: Family<RequestKindLabels, IntGauge> =
            all.add("apiserver_current_inflight_requests", "Requests in work, watches apart");
        let inflight =
            ["readOnly", "mutating"].map(|kind| inflight.get_or_create(&RequestKindLabels::of(kind)).clone());
        let level = "apiserver_flowcontrol";
        let levels = Levels {
            seats: all.add(&format!("{level}_nominal_limit_seats"), "Requests that may be in work at once"),
            executing: all.add(&format!("{level}_current_executing_requests"), "Requests in work"),
            waiting: all.add(&format!("{level}_current_inqueue_requests"), "Requests that wait for a seat"),
            dispatched: all.add(&format!("{level}_dispatched_requests"), "Requests that got a seat"),
            rejected: all.add(&format!("{level}_rejected_requests"), "Requests answered with 429"),
        };
        Self {
            requests,
            durations,
            inflight,
            watches: all.add("apiserver_longrunning_requests", "Watches that are open"),
            watch_events: all.add("apiserver_watch_events", "Events sent to watches"),
            terminated: all.add("apiserver_terminated_watchers", "Watches cut off because they did not keep up"),
            objects: all.add("apiserver_storage_objects", "Stored objects, by kind"),
            cached_revision: all.add("apiserver_watch_cache_resource_version", "The revision the cache has come to"),
            undecodable: all
                .add("apiserver_storage_undecodable_objects", "Stored values that cannot be read; the log names them"),
            levels,
            process: Process::register(&mut all.0),
            storage: StorageMetrics::register(&mut all.0),
            registry: all.0,
        }
    }

    /// What requests to storage are counted in.
    pub(crate) fn storage(&self) -> StorageMetrics {
        self.storage.clone()
    }

    /// Counts a request that was answered.
    pub(crate) fn request(&self, labels: &RequestLabels, latency: Duration) {
        self.requests.get_or_create(labels).inc();
        if !labels.is_watch() {
            self.durations.get_or_create(labels.asked()).observe(latency.as_secs_f64());
        }
    }

    /// Counts a request as in work until the guard is dropped.
    pub(crate) fn in_work(&self, mutating: bool) -> GaugeGuard {
        GaugeGuard::new(self.inflight[usize::from(mutating)].clone())
    }

    /// Counts a watch as open until it is dropped.
    pub(crate) fn watch(&self, description: &ResourceDescription, namespaced: bool) -> WatchMetrics {
        let open = self.watches.get_or_create(&LongRunningLabels::new(description, namespaced)).clone();
        WatchMetrics {
            _open: GaugeGuard::new(open),
            events: self.watch_events.get_or_create(&KindLabels::new(description)).clone(),
            terminated: self.terminated.get_or_create(&ResourceLabels::new(description)).clone(),
        }
    }

    /// All metrics as OpenMetrics text.
    pub(crate) fn encode(&self, resources: &Resources, cache: &Cache, flow: &Flow) -> String {
        // kinds may have gone
        self.objects.clear();
        for resource in resources.iter().filter(|resource| resource.conversion.is_none()) {
            let count = cache.kind(resource.prefix()).map_or(0, |kind| kind.count());
            self.objects.get_or_create(&ResourceLabels::new(&resource.description)).set(signed(count));
        }
        self.cached_revision.set(i64::try_from(cache.revision().0).unwrap_or(i64::MAX));
        self.undecodable.set(signed(cache.undecodable()));
        self.levels.update(flow);
        self.process.update();
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# cannot encode the metrics: {error}\n# EOF\n"),
        }
    }
}

impl Levels {
    fn update(&self, flow: &Flow) {
        for (level, gate) in flow.levels() {
            let labels = LevelLabels::of(level);
            let (executing, waiting) = gate.occupancy();
            self.seats.get_or_create(&labels).set(signed(gate.seats()));
            self.executing.get_or_create(&labels).set(signed(executing));
            self.waiting.get_or_create(&labels).set(signed(waiting));
            let [admitted, queue_full, too_long] = gate.totals();
            raise(&self.dispatched.get_or_create(&labels), admitted);
            for (reason, total) in [("queue-full", queue_full), ("time-out", too_long)] {
                raise(&self.rejected.get_or_create(&ReasonLabels::of(level, reason)), total);
            }
        }
    }
}

/// Moves a counter to a total that is counted elsewhere.
fn raise(counter: &Counter, total: u64) {
    counter.inner().fetch_max(total, Ordering::Relaxed);
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Something that is counted while it lasts.
pub(crate) struct GaugeGuard(IntGauge);

impl GaugeGuard {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The metrics of one watch, which is open as long as they live.
pub(crate) struct WatchMetrics {
    _open: GaugeGuard,
    events: Counter,
    terminated: Counter,
}

impl WatchMetrics {
    /// An event is sent.
    pub(crate) fn event(&self) {
        self.events.inc();
    }

    /// The watch is cut off.
    pub(crate) fn terminated(&self) {
        self.terminated.inc();
    }
}
