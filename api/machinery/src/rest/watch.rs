//! Watch: a stream of JSON documents, one for each change, that ends when its time is up, when the client falls too far
//! behind, or when the server shuts down.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::stream;
use http::Response;
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::json;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::negotiate::Form;
use super::options::{WatchOptions, WatchStart};
use super::read::Filter;
use super::respond::{self, Body};
use super::{Call, negotiate, websocket};
use crate::cache::{Event, Expired, Object, Stale, WatchEnd, Watcher};
use crate::metrics::WatchMetrics;
use crate::registry::{Freshness, Resource, optional};
use crate::status::ApiError;
use crate::storage::Revision;
use crate::table::META_API_VERSION;

/// A watch without a timeout of its own ends after this time, or up to twice of it: so that, after a restart, not all
/// clients come back at once for ever.
const TIMEOUT: Duration = Duration::from_mins(30);
/// Events are sent in pieces of about this size: more than one piece is never in memory for a client that is slow.
const CHUNK: usize = 64 * 1024;

impl Call<'_> {
    pub(super) async fn watch(&self) -> Result<Response<Body>, ApiError> {
        let options = WatchOptions::parse(self.query)?;
        let form = negotiate::watch_form(self.headers, self.query.get("includeObject"))?;
        let filter = self.filter()?;
        let store = &self.api.store;
        let kind = store.kind(self.resource)?;
        let (initial, after) = match options.start {
            WatchStart::State(freshness) => {
                store.reach(freshness).await?;
                let (revision, mut objects) = kind.list(optional(&self.path.namespace));
                objects.retain(|object| filter.matches(object));
                (objects, revision)
            }
            WatchStart::Now => {
                store.reach(Freshness::Consistent).await?;
                (Vec::new(), kind.revision())
            }
            WatchStart::After(revision) => match store.cache.wait_for(revision).await {
                Ok(()) => (Vec::new(), revision),
                // a store that was restored from a backup never comes as far: the client has to list again
                Err(Stale { wanted, reached }) => {
                    return self.expired(&format!("Too large resource version: {wanted}, current: {reached}"));
                }
            },
        };
        let namespace = optional(&self.path.namespace).map(str::to_owned);
        let watcher = match kind.watch(namespace, after) {
            Ok(watcher) => watcher,
            Err(Expired { oldest }) => return self.expired(&format!("too old resource version: {after} ({oldest})")),
        };
        let timeout = options.timeout.unwrap_or_else(|| TIMEOUT.mul_f64(rand::rng().random_range(1.0..2.0)));
        let mut bookmarks = tokio::time::interval(self.api.bookmark_interval);
        bookmarks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        bookmarks.reset();
        let feed = Feed {
            frames: Frames { resource: self.resource.clone(), form, columns_sent: false },
            filter,
            initial: initial.into_iter(),
            initial_end: options.marks_initial_end,
            watcher,
            pending: Vec::new().into_iter(),
            bookmarks: options.bookmarks.then_some(bookmarks),
            bookmarked: Revision(0),
            deadline: Instant::now() + timeout,
            shutdown: self.api.shutdown.clone(),
            metrics: self.api.metrics.watch(&self.resource.description, !self.path.namespace.is_empty()),
        };
        let pieces = stream::unfold(Some(feed), |feed| async {
            let mut feed = feed?;
            let (piece, goes_on) = feed.next().await?;
            Some((piece, goes_on.then_some(feed)))
        });
        self.stream(pieces)
    }

    /// Sends pieces of whole events in the way that the client asks for.
    fn stream(&self, pieces: impl stream::Stream<Item = Bytes> + Send + 'static) -> Result<Response<Body>, ApiError> {
        if let (Some(upgrade), true) = (self.upgrade, websocket::is_asked_for(self.headers)) {
            let response = websocket::handshake(self.headers)?;
            self.api.tasks.spawn(websocket::send(upgrade.clone(), pieces));
            return Ok(response);
        }
        Ok(respond::answer(200, "application/json", respond::streamed(pieces)))
    }

    /// A watch that cannot begin where it was told to: 200 and one event that says so, as Kubernetes answers. Clients
    /// list again when they get it; a watch that fails with 410 itself they would try again as it was.
    fn expired(&self, message: &str) -> Result<Response<Body>, ApiError> {
        self.stream(stream::iter([error_event(&ApiError::expired(message))]))
    }
}

fn error_event(error: &ApiError) -> Bytes {
    format!("{}\n", json!({"type": "ERROR", "object": error.to_status()})).into()
}

/// One client's watch.
struct Feed {
    frames: Frames,
    filter: Filter,
    initial: std::vec::IntoIter<Arc<Object>>,
    /// The end of the initial state has yet to be marked.
    initial_end: bool,
    watcher: Watcher,
    /// What the watcher gave and has yet to be sent.
    pending: std::vec::IntoIter<Arc<Event>>,
    bookmarks: Option<Interval>,
    /// The revision of the last bookmark.
    bookmarked: Revision,
    deadline: Instant,
    shutdown: CancellationToken,
    metrics: WatchMetrics,
}

impl Feed {
    /// The next piece, and whether others may follow; `None` at the end.
    async fn next(&mut self) -> Option<(Bytes, bool)> {
        let mut piece = BytesMut::new();
        while piece.len() < CHUNK
            && let Some(object) = self.initial.next()
        {
            self.metrics.event();
            self.frames.write(&mut piece, "ADDED", &object);
        }
        if self.initial.as_slice().is_empty() && self.initial_end {
            self.initial_end = false;
            let revision = self.watcher.revision();
            self.frames.bookmark(&mut piece, revision, true);
            self.bookmarked = revision;
        }
        loop {
            while piece.len() < CHUNK
                && let Some(event) = self.pending.next()
            {
                self.event(&mut piece, &event);
            }
            if !piece.is_empty() {
                return Some((piece.freeze(), true));
            }
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.deadline) => {
                    self.bookmark(&mut piece);
                    return (!piece.is_empty()).then(|| (piece.freeze(), false));
                }
                events = self.watcher.next() => match events {
                    Ok(events) => self.pending = events.into_iter(),
                    Err(WatchEnd::Closed) => return None,
                    Err(end @ WatchEnd::Expired) => {
                        self.metrics.terminated();
                        let error = ApiError::expired(format!("too old resource version: {end}"));
                        return Some((error_event(&error), false));
                    }
                },
                () = tick(&mut self.bookmarks) => self.bookmark(&mut piece),
            }
        }
    }

    /// Tells how far the client has come, if it asked for that and it is news.
    fn bookmark(&mut self, piece: &mut BytesMut) {
        let revision = self.watcher.revision();
        if self.bookmarks.is_some() && revision > self.bookmarked {
            self.frames.bookmark(piece, revision, false);
            self.bookmarked = revision;
        }
    }

    fn event(&mut self, piece: &mut BytesMut, event: &Event) {
        let matches =
            |object: &Option<Arc<Object>>| object.as_ref().filter(|object| self.filter.matches(object)).cloned();
        let (previous, current) = (matches(&event.previous), matches(&event.current));
        if previous.is_some() || current.is_some() {
            self.metrics.event();
        }
        match (previous, current) {
            (None, None) => {}
            (None, Some(current)) => self.frames.write(piece, "ADDED", &current),
            (Some(_), Some(current)) => self.frames.write(piece, "MODIFIED", &current),
            // gone, or no longer selected: for this client it is the same
            (Some(_), None) => {
                if let Some(departed) = event.departed() {
                    self.frames.write(piece, "DELETED", departed);
                }
            }
        }
    }
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Writes the documents of the stream. An object's bytes are those that the cache holds, unless the client asked for another form.
struct Frames {
    resource: Arc<Resource>,
    form: Form,
    /// The first Table of a watch has the headings, the others have rows only.
    columns_sent: bool,
}

impl Frames {
    fn write(&mut self, piece: &mut BytesMut, type_: &str, object: &Object) {
        let Some(bytes) = respond::render(&self.resource, self.form, object, Timestamp::now()) else {
            return;
        };
        piece.extend_from_slice(format!(r#"{{"type":"{type_}","object":"#).as_bytes());
        if let Form::Table(_) = self.form {
            let metadata = respond::version_metadata(object.resource_version());
            let (head, tail) = respond::frame(&self.resource, self.form, &metadata, !self.columns_sent);
            self.columns_sent = true;
            piece.extend_from_slice(head.as_bytes());
            piece.extend_from_slice(&bytes);
            piece.extend_from_slice(tail.as_bytes());
        } else {
            piece.extend_from_slice(&bytes);
        }
        piece.extend_from_slice(b"}\n");
    }

    fn bookmark(&self, piece: &mut BytesMut, revision: Revision, ends_initial_state: bool) {
        let description = &self.resource.description;
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial_state {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => {
                json!({"kind": description.kind, "apiVersion": description.api_version(), "metadata": metadata})
            }
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": META_API_VERSION, "metadata": metadata})
            }
            Form::Table(_) => json!({
                "kind": "Table", "apiVersion": META_API_VERSION, "metadata": metadata,
                "columnDefinitions": [], "rows": [],
            }),
        };
        piece.extend_from_slice(format!("{}\n", json!({"type": "BOOKMARK", "object": object})).as_bytes());
    }
}
