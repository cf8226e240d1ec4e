//! What the server asks of its storage, measured: how often, how long, and how often in vain.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Histograms, histograms};
use crate::storage::{Guard, Listing, PastListing, Revision, Storage, StorageError, StoredValue, WatchBatches};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: Cow<'static, str>,
    /// The kind: the first two parts of a key below `/registry/`, as `plural.group`.
    r#type: String,
}

/// Requests to storage.
#[derive(Clone)]
pub(crate) struct StorageMetrics {
    requests: Family<OperationLabels, Counter>,
    errors: Family<OperationLabels, Counter>,
    durations: Histograms<OperationLabels>,
}

impl StorageMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self { requests: Family::default(), errors: Family::default(), durations: histograms() };
        registry.register("etcd_requests", "Requests to storage", metrics.requests.clone());
        registry.register("etcd_request_errors", "Requests that storage failed", metrics.errors.clone());
        registry.register("etcd_request_duration_seconds", "Time that storage took", metrics.durations.clone());
        metrics
    }

    async fn measure<T>(
        &self,
        operation: &'static str,
        key: &str,
        request: impl Future<Output = Result<T, StorageError>>,
    ) -> Result<T, StorageError> {
        let labels = OperationLabels { operation: Cow::Borrowed(operation), r#type: kind(key) };
        let started = Instant::now();
        let result = request.await;
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(started.elapsed().as_secs_f64());
        if result.as_ref().is_err_and(is_failure) {
            self.errors.get_or_create(&labels).inc();
        }
        result
    }
}

/// Whether it is storage's failure, and not an answer.
fn is_failure(error: &StorageError) -> bool {
    matches!(
        error,
        StorageError::Unavailable(_)
            | StorageError::OutcomeUnknown { .. }
            | StorageError::Refused(_)
            | StorageError::NoSpace
    )
}

fn kind(key: &str) -> String {
    let mut parts = key.strip_prefix("/registry/").unwrap_or_default().split('/');
    match (parts.next(), parts.next()) {
        (Some("core"), Some(plural)) => plural.to_owned(),
        (Some(group), Some(plural)) => format!("{plural}.{group}"),
        _ => String::new(),
    }
}

/// A storage whose requests are measured.
pub(crate) struct Measured {
    pub(crate) inner: Arc<dyn Storage>,
    pub(crate) metrics: StorageMetrics,
}

#[async_trait]
impl Storage for Measured {
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.metrics.measure("create", key, self.inner.create(key, value, ttl, guards)).await
    }

    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.metrics.measure("update", key, self.inner.update(key, value, expected, ttl, guards)).await
    }

    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError> {
        self.metrics.measure("delete", key, self.inner.delete(key, expected, guards)).await
    }

    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        self.metrics.measure("get", key, self.inner.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.metrics.measure("list", prefix, self.inner.list(prefix)).await
    }

    async fn list_past(
        &self,
        prefix: &str,
        after: &str,
        revision: Revision,
        limit: usize,
    ) -> Result<PastListing, StorageError> {
        self.metrics.measure("listPast", prefix, self.inner.list_past(prefix, after, revision, limit)).await
    }

    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.metrics.measure("currentRevision", "", self.inner.current_revision()).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        self.metrics.measure("watch", prefix, self.inner.watch(prefix, after)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_keys() {
        assert_eq!(kind("/registry/core/namespaces/a"), "namespaces");
        assert_eq!(kind("/registry/ucloud.ungleich.ch/vms/ns/a"), "vms.ucloud.ungleich.ch");
        assert_eq!(kind("/registry/"), "");
    }
}
