//! What every controller shares, so that a controller's own folder holds decisions and little else.
//!
//! A controller is a pipeline: fetch (from a [`cache`], or live where a decision destroys something), validate,
//! plan (pure), apply (by [`objects`]), report (by [`report`]). This module runs it: one [`queue`] per controller, one
//! reconcile per object at a time, a cap on how many objects at once, a time limit, exponential backoff per object,
//! metrics, and a span with an id for the log.
//!
//! Every write is conditional: on a resourceVersion, a UID, the uniqueness of a name, or an epoch. So a process that
//! was stopped past its lease and resumed cannot undo what its successor did, whatever it still believes.

pub mod backoff;
pub mod cache;
pub mod controller;
pub mod election;
pub mod events;
pub mod failure;
pub mod hearing;
pub mod heartbeat;
pub mod lists;
pub mod metrics;
pub mod objects;
pub mod queue;
pub mod report;
pub mod serve;

use std::{fmt::Debug, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use kube::{Client, Resource};
use serde::{Serialize, de::DeserializeOwned};

pub use cache::{Cache, Change};
pub use controller::{Controller, Limits, Reconciler};
pub use failure::Failure;
pub use lists::Lists;

/// A kind that a controller can watch: every Kubernetes-style kind whose type is known at compile time.
pub trait Kind:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Kind for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

/// The name of an object in messages: `namespace/name`, or `name` where it is of the whole installation.
pub fn name_of<K: Kind>(object: &K) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    meta.namespace.as_deref().map_or_else(|| name.to_owned(), |namespace| format!("{namespace}/{name}"))
}

/// The UID of an object. Every object that was read from the server has one.
pub fn uid_of<K: Kind>(object: &K) -> &str {
    object.meta().uid.as_deref().unwrap_or_default()
}

/// Whether the object is being deleted.
pub fn is_deleting<K: Kind>(object: &K) -> bool {
    object.meta().deletion_timestamp.is_some()
}

/// Tells the time of day, for what is bound to it. How long something takes is measured by tokio's clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What controllers need of the process they run in.
#[derive(Clone)]
pub struct Runtime {
    /// The API server.
    pub client: Client,
    /// Where what happens is counted.
    pub metrics: Arc<metrics::Metrics>,
    /// Where Events go.
    pub events: events::Events,
    /// What time it is.
    pub clock: Clock,
}
