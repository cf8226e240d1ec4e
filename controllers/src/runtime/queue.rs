//! The queue of one controller: which objects are to be reconciled.
//!
//! kube's applier holds the queue itself, and makes one entry of many requests for an object. Here is the way into it,
//! and the count of what waits there.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{
    StreamExt as _,
    channel::mpsc::{self, UnboundedSender},
    stream::BoxStream,
};
use kube::runtime::{controller::ReconcileRequest, reflector::ObjectRef};
use tokio::time::Instant;

use super::{Kind, metrics::Metrics};

type Name = (Option<String>, String);

/// Asks for reconciles of objects of kind `K`.
pub struct Requests<K: Kind> {
    queue: &'static str,
    sender: UnboundedSender<ReconcileRequest<K>>,
    waiting: Arc<Mutex<HashMap<Name, Instant>>>,
    metrics: Arc<Metrics>,
}

impl<K: Kind> Clone for Requests<K> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue,
            sender: self.sender.clone(),
            waiting: Arc::clone(&self.waiting),
            metrics: Arc::clone(&self.metrics),
        }
    }
}

/// A queue, and what comes out of it.
pub fn channel<K: Kind>(
    queue: &'static str,
    metrics: Arc<Metrics>,
) -> (Requests<K>, BoxStream<'static, ReconcileRequest<K>>) {
    let (sender, receiver) = mpsc::unbounded();
    (Requests { queue, sender, waiting: Arc::default(), metrics }, receiver.boxed())
}

impl<K: Kind> Requests<K> {
    /// Asks for a reconcile of the object. Every request is passed on, for one that was left out because another
    /// waits already could be the one that comes after the reconciler has read the object.
    pub fn request(&self, object: ObjectRef<K>) {
        let depth = self.with_waiting(|waiting| {
            waiting.entry((object.namespace.clone(), object.name.clone())).or_insert_with(Instant::now);
            waiting.len()
        });
        self.metrics.queue_add(self.queue, depth);
        // the receiver is gone only when the controller has ended
        let _ = self.sender.unbounded_send(object.into());
    }

    /// The object is being reconciled, or is gone.
    pub(super) fn started(&self, namespace: Option<&str>, name: &str) {
        let key = (namespace.map(str::to_owned), name.to_owned());
        let (since, depth) = self.with_waiting(|waiting| (waiting.remove(&key), waiting.len()));
        self.metrics.queue_depth(self.queue, depth);
        if let Some(since) = since {
            self.metrics.queue_waited(self.queue, since.elapsed());
        }
    }

    fn with_waiting<T>(&self, act: impl FnOnce(&mut HashMap<Name, Instant>) -> T) -> T {
        act(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
