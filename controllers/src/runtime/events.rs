//! Events (events.k8s.io/v1): what happened to an object, for whoever looks at it later.
//!
//! They are written in the background and may be lost: no decision depends on them, and none waits for them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
pub use kube::runtime::events::EventType;
use kube::{
    Client,
    runtime::events::{Event, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::timeout};
use tracing::{debug, warn};

use super::{Kind, metrics::Metrics};

/// How many Events may wait to be written. More are dropped and counted.
const BACKLOG: usize = 10_000;
/// How long the server may take to answer for one: those behind it wait as long.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest note that events.k8s.io accepts, in bytes.
const LONGEST_NOTE: usize = 1024;

struct Occurrence {
    controller: &'static str,
    regarding: ObjectReference,
    event: Event,
}

/// Takes Events in. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    sender: mpsc::Sender<Occurrence>,
    metrics: Arc<Metrics>,
}

/// What [`Events`] takes in, and how it gets written.
pub struct Writer {
    receiver: mpsc::Receiver<Occurrence>,
    metrics: Arc<Metrics>,
}

/// Both ends.
pub fn channel(metrics: Arc<Metrics>) -> (Events, Writer) {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    (Events { sender, metrics: Arc::clone(&metrics) }, Writer { receiver, metrics })
}

impl Events {
    /// Says that something happened to `object`. `reason` is a CamelCase word, `action` what the controller did.
    pub fn publish<K: Kind>(
        &self,
        controller: &'static str,
        object: &K,
        type_: EventType,
        (action, reason): (&str, &str),
        note: &str,
    ) {
        self.publish_about(controller, object.object_ref(&()), type_, (action, reason), note);
    }

    /// The same, of an object whose kind is not known at compile time.
    pub fn publish_about(
        &self,
        controller: &'static str,
        regarding: ObjectReference,
        type_: EventType,
        what: (&str, &str),
        note: &str,
    ) {
        self.publish_related(controller, (regarding, None), type_, what, note);
    }

    /// The same, where another object has a part in it. Events that are equal but for their notes are counted as one, which
    /// keeps its first note; those with another related object are not.
    pub fn publish_related(
        &self,
        controller: &'static str,
        (regarding, related): (ObjectReference, Option<ObjectReference>),
        type_: EventType,
        (action, reason): (&str, &str),
        note: &str,
    ) {
        let occurrence = Occurrence {
            controller,
            regarding,
            event: Event {
                type_,
                reason: reason.to_owned(),
                note: Some(shortened(note)),
                action: action.to_owned(),
                secondary: related,
            },
        };
        if self.sender.try_send(occurrence).is_err() {
            self.metrics.lost_event();
        }
    }
}

fn shortened(note: &str) -> String {
    let mut end = note.len().min(LONGEST_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

impl Writer {
    /// Writes Events until all senders are gone. `instance` tells this process from others of the same controllers.
    pub async fn run(mut self, client: Client, instance: String) {
        let mut recorders = HashMap::new();
        while let Some(Occurrence { controller, regarding, event }) = self.receiver.recv().await {
            let recorder = recorders.entry(controller).or_insert_with(|| {
                let controller = format!("{}/{controller}", ucloud_types::GROUP);
                Recorder::new(client.clone(), Reporter { controller, instance: Some(instance.clone()) })
            });
            let published = timeout(PATIENCE, recorder.publish(&event, &regarding)).await;
            let reason = &event.reason;
            let about = || {
                let (kind, name) = (regarding.kind.as_deref(), regarding.name.as_deref());
                format!("{}/{}", kind.unwrap_or_default(), name.unwrap_or_default())
            };
            match published {
                Ok(Ok(())) => continue,
                Ok(Err(error)) if matches!(&error, kube::Error::Api(status) if [403, 404].contains(&status.code)) => {
                    // its namespace is on its way out, and the Event with it
                    debug!(about = about(), reason, %error, "event lost");
                }
                Ok(Err(error)) => warn!(about = about(), reason, %error, "event lost"),
                Err(_) => warn!(about = about(), reason, "event lost: no answer from the API server"),
            }
            self.metrics.lost_event();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_cut_between_characters() {
        let note = "ü".repeat(600);
        assert_eq!(shortened(&note).len(), LONGEST_NOTE);
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&format!("a{note}")).len(), LONGEST_NOTE - 1);
    }
}
