//! What the agent counts, as Prometheus text, and whether it is alive.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Phase {
    phase: String,
}

/// What the agent counts.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    reconciles: Family<Outcome, Counter>,
    seconds: Histogram,
    imports: Family<Outcome, Counter>,
    vms: Family<Phase, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ucloud_agent");
        let reconciles = Family::default();
        let imports = Family::default();
        let vms = Family::default();
        let seconds = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0]);
        registry.register("reconcile", "Reconciles of VMs, by result", reconciles.clone());
        registry.register_with_unit("reconcile_duration", "How long they took", Unit::Seconds, seconds.clone());
        registry.register("image_import", "Imports of images, by result", imports.clone());
        registry.register("vms", "VMs that are bound to this host, by phase", vms.clone());
        Self(Arc::new(Inner { registry, reconciles, seconds, imports, vms }))
    }
}

impl Metrics {
    /// A reconcile has ended.
    pub fn reconciled(&self, result: &'static str, took: Duration) {
        self.0.reconciles.get_or_create(&Outcome { result }).inc();
        self.0.seconds.observe(took.as_secs_f64());
    }

    /// An import has ended.
    pub fn imported(&self, well: bool) {
        self.0.imports.get_or_create(&Outcome { result: if well { "ok" } else { "error" } }).inc();
    }

    /// These are the phases of the VMs.
    pub fn count_vms(&self, phases: impl IntoIterator<Item = String>) {
        self.0.vms.clear();
        for phase in phases {
            self.0.vms.get_or_create(&Phase { phase }).inc();
        }
    }

    /// All of it, as text.
    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

/// Serves `/metrics` and `/healthz` until `end`.
///
/// # Errors
///
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, metrics: Metrics, end: CancellationToken) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let router = Router::new()
        .route(
            "/metrics",
            get(async |State(metrics): State<Metrics>| match metrics.text() {
                Ok(text) => ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
                    .into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }),
        )
        .route("/healthz", get(async || "ok"))
        .with_state(metrics);
    axum::serve(listener, router).with_graceful_shutdown(end.cancelled_owned()).await
}
