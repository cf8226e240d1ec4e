//! Events: the few things that happened to a VM, for people to read afterwards.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource as _,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{sync::mpsc, time::timeout};
use tracing::warn;
use ucloud_types::{Host, VM};

/// More than this many Events that wait to be written are not: they are a convenience, and the conditions say more.
const WAITING: usize = 256;

/// Publishes Events, without making anybody wait for it.
pub struct Events {
    recorder: Recorder,
    queue: mpsc::Sender<(Event, ObjectReference)>,
    limit: Duration,
}

impl Events {
    /// A queue of Events, and the task that writes them, each within `limit`.
    pub fn start(client: Client, host: &str, limit: Duration) -> (Self, impl Future<Output = ()> + use<>) {
        let (queue, mut waiting) = mpsc::channel::<(Event, ObjectReference)>(WAITING);
        let reporter = Reporter { controller: "ucloud-agent".to_owned(), instance: Some(host.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        let events = Self { recorder: recorder.clone(), queue, limit };
        let publish = async move {
            while let Some((event, regarding)) = waiting.recv().await {
                write(&recorder, limit, &event, &regarding).await;
            }
        };
        (events, publish)
    }

    /// Something went as it should.
    pub fn normal(&self, vm: &VM, reason: &str, note: impl Into<String>) {
        self.publish(event(EventType::Normal, reason, note.into()), vm.object_ref(&()));
    }

    /// Something about a VM went wrong.
    pub fn warning(&self, vm: &VM, reason: &str, note: impl Into<String>) {
        self.publish(event(EventType::Warning, reason, note.into()), vm.object_ref(&()));
    }

    /// Something about the host went wrong.
    pub fn host_warning(&self, host: &Host, reason: &str, note: impl Into<String>) {
        self.publish(event(EventType::Warning, reason, note.into()), host.object_ref(&()));
    }

    /// The last that is to be said of a VM: it is written before this returns, as long as there is a VM to say it of.
    pub async fn last(&self, vm: &VM, reason: &str, note: impl Into<String>) {
        let event = event(EventType::Normal, reason, note.into());
        write(&self.recorder, self.limit, &event, &vm.object_ref(&())).await;
    }

    fn publish(&self, event: Event, regarding: ObjectReference) {
        if let Err(refused) = self.queue.try_send((event, regarding)) {
            let reason = refused.into_inner().0.reason;
            warn!(reason, "too many Events wait to be published: one is left out");
        }
    }
}

fn event(type_: EventType, reason: &str, mut note: String) -> Event {
    // The API allows 1 KiB
    let end = (0..=1000.min(note.len())).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
    note.truncate(end);
    Event { type_, reason: reason.to_owned(), note: Some(note), action: reason.to_owned(), secondary: None }
}

async fn write(recorder: &Recorder, limit: Duration, event: &Event, regarding: &ObjectReference) {
    match timeout(limit, recorder.publish(event, regarding)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            warn!(reason = event.reason, error = &error as &dyn std::error::Error, "cannot publish an Event");
        }
        Err(_) => warn!(reason = event.reason, "cannot publish an Event: the API server does not answer"),
    }
}
