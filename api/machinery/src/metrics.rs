//! Request metrics under Kubernetes' names.

use std::sync::atomic::AtomicI64;
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::registry::{Resource, ResourceDescription};
use crate::rest::Verb;

/// Upper bounds in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What requests are told apart by. Names come from the kinds that are served, and never from a request, so that clients
/// cannot make up label values.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    code: u16,
}

impl RequestLabels {
    /// Of a request about `resource`, if it is about one that is served, or about a subresource of it.
    pub(crate) fn new(
        method: &Method,
        verb: Option<Verb>,
        resource: Option<&Resource>,
        subresource: &str,
        code: u16,
    ) -> Self {
        let part = |get: fn(&ResourceDescription) -> &str| resource.map_or("", |it| get(&it.description)).to_owned();
        let served = resource.is_some_and(|resource| resource.has_subresource(subresource));
        Self {
            verb: match verb {
                Some(verb) => verb.as_str().to_uppercase(),
                None if matches!(method.as_str(), "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE") => {
                    method.to_string()
                }
                None => "other".to_owned(),
            },
            group: part(|it| &it.group),
            version: part(|it| &it.version),
            resource: part(|it| &it.plural),
            subresource: if served { subresource.to_owned() } else { String::new() },
            code,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    group: String,
    version: String,
    resource: String,
}

/// The server's metrics.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram>,
    watches: Family<WatchLabels, Gauge<i64, AtomicI64>>,
    undecodable: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        registry.register("apiserver_request", "Requests, by verb, kind and code", requests.clone());
        let durations = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the answer, of all requests but watches",
            durations.clone(),
        );
        let watches = Family::default();
        registry.register("apiserver_longrunning_requests", "Watches that are open", watches.clone());
        let undecodable = Gauge::default();
        registry.register(
            "apiserver_storage_undecodable_objects",
            "Stored values that cannot be read; the log names them",
            undecodable.clone(),
        );
        Self { registry, requests, durations, watches, undecodable }
    }

    /// Counts a request that was answered.
    pub(crate) fn request(&self, labels: &RequestLabels, latency: Duration) {
        self.requests.get_or_create(labels).inc();
        if labels.verb != "WATCH" {
            let RequestLabels { verb, group, resource, .. } = labels.clone();
            self.durations.get_or_create(&DurationLabels { verb, group, resource }).observe(latency.as_secs_f64());
        }
    }

    /// Counts a watch as open until the guard is dropped.
    pub(crate) fn watch(&self, description: &ResourceDescription) -> WatchGuard {
        let labels = WatchLabels {
            group: description.group.clone(),
            version: description.version.clone(),
            resource: description.plural.clone(),
        };
        let gauge = self.watches.get_or_create(&labels).clone();
        gauge.inc();
        WatchGuard(gauge)
    }

    /// All metrics as OpenMetrics text; `undecodable` counts the stored values that cannot be read.
    pub(crate) fn encode(&self, undecodable: usize) -> String {
        self.undecodable.set(i64::try_from(undecodable).unwrap_or(i64::MAX));
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# cannot encode the metrics: {error}\n# EOF\n"),
        }
    }
}

/// A watch that is open.
pub(crate) struct WatchGuard(Gauge<i64, AtomicI64>);

impl Drop for WatchGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}
