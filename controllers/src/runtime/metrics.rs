//! What the process counts, under the names that controller-runtime and client-go use, so that dashboards made for
//! Kubernetes controllers show ucloud's.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByController {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByQueue {
    name: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: String,
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Success,
    /// Done, and to be looked at again at a certain time.
    RequeueAfter,
    /// Decided on an old version; decided again.
    Conflict,
    /// Failed, and tried again.
    Error,
    /// Failed, and not tried again before the object changes.
    Terminal,
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ByResult, Counter>,
    errors: Family<ByController, Counter>,
    terminal_errors: Family<ByController, Counter>,
    seconds: Histograms<ByController>,
    active: Family<ByController, Gauge>,
    concurrency: Family<ByController, Gauge>,
    queue_depth: Family<ByQueue, Gauge>,
    queue_adds: Family<ByQueue, Counter>,
    queue_retries: Family<ByQueue, Counter>,
    queue_seconds: Histograms<ByQueue>,
    leading: Family<ByQueue, Gauge>,
    malformed: Family<ByKind, Counter>,
    watch_errors: Family<ByKind, Counter>,
    lost_events: Counter,
}

fn seconds() -> Histogram {
    // controller-runtime's own range: 5 ms to 60 s
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            reconciles: Family::default(),
            errors: Family::default(),
            terminal_errors: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            active: Family::default(),
            concurrency: Family::default(),
            queue_depth: Family::default(),
            queue_adds: Family::default(),
            queue_retries: Family::default(),
            queue_seconds: Family::new_with_constructor(seconds),
            leading: Family::default(),
            malformed: Family::default(),
            watch_errors: Family::default(),
            lost_events: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        // counters get their suffix _total when they are written
        r.register("controller_runtime_reconcile", "Reconciles by result", self.reconciles.clone());
        r.register("controller_runtime_reconcile_errors", "Reconciles that failed", self.errors.clone());
        r.register(
            "controller_runtime_terminal_reconcile_errors",
            "Reconciles that failed and are not tried again before the object changes",
            self.terminal_errors.clone(),
        );
        r.register("controller_runtime_reconcile_time_seconds", "Time per reconcile", self.seconds.clone());
        r.register("controller_runtime_active_workers", "Reconciles in progress", self.active.clone());
        r.register(
            "controller_runtime_max_concurrent_reconciles",
            "Reconciles that may be in progress at once",
            self.concurrency.clone(),
        );
        r.register("workqueue_depth", "Objects that wait for a reconcile", self.queue_depth.clone());
        r.register("workqueue_adds", "Requests to reconcile an object", self.queue_adds.clone());
        r.register("workqueue_retries", "Reconciles that were put off after a failure", self.queue_retries.clone());
        r.register(
            "workqueue_queue_duration_seconds",
            "Time from the first request to the reconcile",
            self.queue_seconds.clone(),
        );
        r.register("leader_election_master_status", "1 while this process leads", self.leading.clone());
        r.register("ucloud_malformed_objects", "Objects that could not be read as their kind", self.malformed.clone());
        r.register("ucloud_watch_errors", "Interruptions of watches", self.watch_errors.clone());
        r.register("ucloud_lost_events", "Events that could not be written", self.lost_events.clone());
    }

    /// Everything in the text format of OpenMetrics.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The cap on a controller's concurrent reconciles.
    pub fn controller_starts(&self, controller: &'static str, concurrency: u16) {
        self.concurrency.get_or_create(&ByController { controller }).set(concurrency.into());
    }

    /// A reconcile starts.
    pub fn reconcile_starts(&self, controller: &'static str) {
        self.active.get_or_create(&ByController { controller }).inc();
    }

    /// A reconcile ended.
    pub fn reconcile_ends(&self, controller: &'static str, outcome: Outcome, took: Duration) {
        let by = ByController { controller };
        self.active.get_or_create(&by).dec();
        self.seconds.get_or_create(&by).observe(took.as_secs_f64());
        let result = match outcome {
            Outcome::Success => "success",
            Outcome::RequeueAfter => "requeue_after",
            Outcome::Conflict => "conflict",
            Outcome::Error | Outcome::Terminal => "error",
        };
        self.reconciles.get_or_create(&ByResult { controller, result }).inc();
        if matches!(outcome, Outcome::Error | Outcome::Terminal) {
            self.errors.get_or_create(&by).inc();
        }
        if outcome == Outcome::Terminal {
            self.terminal_errors.get_or_create(&by).inc();
        }
        if matches!(outcome, Outcome::Error | Outcome::Conflict) {
            self.queue_retries.get_or_create(&ByQueue { name: controller }).inc();
        }
    }

    /// An object was put into a queue, which then holds `depth`.
    pub fn queue_add(&self, name: &'static str, depth: usize) {
        self.queue_adds.get_or_create(&ByQueue { name }).inc();
        self.queue_depth(name, depth);
    }

    /// A queue holds `depth` objects.
    pub fn queue_depth(&self, name: &'static str, depth: usize) {
        self.queue_depth.get_or_create(&ByQueue { name }).set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    /// An object waited in a queue for this long.
    pub fn queue_waited(&self, name: &'static str, waited: Duration) {
        self.queue_seconds.get_or_create(&ByQueue { name }).observe(waited.as_secs_f64());
    }

    /// Whether this process leads.
    pub fn leading(&self, name: &'static str, leads: bool) {
        self.leading.get_or_create(&ByQueue { name }).set(leads.into());
    }

    /// An object could not be read as its kind.
    pub fn malformed_object(&self, kind: &str) {
        self.malformed.get_or_create(&ByKind { kind: kind.to_owned() }).inc();
    }

    /// A watch was interrupted.
    pub fn watch_error(&self, kind: &str) {
        self.watch_errors.get_or_create(&ByKind { kind: kind.to_owned() }).inc();
    }

    /// An Event could not be written.
    pub fn lost_event(&self) {
        self.lost_events.inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_controller_runtime() {
        let metrics = Metrics::default();
        metrics.reconcile_starts("network");
        metrics.reconcile_ends("network", Outcome::Terminal, Duration::from_millis(3));
        let text = metrics.encode().unwrap();
        for line in [
            r#"controller_runtime_reconcile_total{controller="network",result="error"} 1"#,
            r#"controller_runtime_reconcile_errors_total{controller="network"} 1"#,
            r#"controller_runtime_terminal_reconcile_errors_total{controller="network"} 1"#,
            r#"controller_runtime_active_workers{controller="network"} 0"#,
            r#"controller_runtime_reconcile_time_seconds_count{controller="network"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }
}
