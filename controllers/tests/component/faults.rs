//! A bad line between the controllers and the API server.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Method, Request, Response, StatusCode};
use kube::{Client, client::Body, core::Status};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

/// What becomes of one request.
#[derive(Clone)]
pub enum Fate {
    /// It is carried out and answered.
    Pass,
    /// It is not sent.
    LoseRequest,
    /// It is carried out, and the answer gets lost.
    LoseReply,
    /// It is sent only once this is cancelled.
    Hold(CancellationToken),
    /// The answer is lost at once; the request arrives all the same, once this is cancelled.
    Late(CancellationToken),
    /// It is not sent; this is the answer.
    Answer(StatusCode, String),
}

/// One request, as far as fates depend on it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    /// Path and query.
    pub path: String,
}

impl Asked {
    /// Whether it changes anything but Events and Leases, which are no part of the state that controllers keep.
    pub fn is_write(&self) -> bool {
        self.method != Method::GET && !self.path.contains("/events") && !self.path.contains("/leases")
    }

    /// Whether it is the first read of a cache.
    pub fn is_list_of_a_cache(&self, plural: &str) -> bool {
        self.method == Method::GET && self.path.contains(&format!("/{plural}?")) && self.path.contains("limit=")
    }
}

/// A client all of whose requests go through `fate`.
pub fn line(client: Client, fate: impl Fn(&Asked) -> Fate + Send + Sync + 'static) -> Client {
    let fate = Arc::new(fate);
    let service = tower::service_fn(move |request: Request<Body>| {
        let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let fate = fate(&Asked { method: request.method().clone(), path });
        let client = client.clone();
        async move {
            match fate {
                Fate::Pass => {}
                Fate::LoseRequest => return Err(BoxError::from("the request was lost")),
                Fate::LoseReply => {
                    client.send(request).await?;
                    return Err("the reply was lost".into());
                }
                Fate::Hold(until) => until.cancelled().await,
                Fate::Late(until) => {
                    tokio::spawn(async move {
                        until.cancelled().await;
                        client.send(request).await
                    });
                    return Err("the reply was lost".into());
                }
                Fate::Answer(code, body) => {
                    let reply = Response::builder().status(code).header("content-type", "application/json");
                    return Ok(reply.body(Body::from(body.into_bytes()))?);
                }
            }
            Ok::<_, BoxError>(client.send(request).await?)
        }
    });
    Client::new(service, "default")
}

/// A refusal by the server.
pub fn refusal(code: StatusCode) -> Fate {
    let status = Status::failure("refused by the test", "Test").with_code(code.as_u16());
    Fate::Answer(code, serde_json::to_string(&status).unwrap())
}

/// Counts writes.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicUsize>);

impl Counter {
    /// Counts the request if it is a write, and gives its number from 1 on.
    pub fn count(&self, asked: &Asked) -> Option<usize> {
        asked.is_write().then(|| self.0.fetch_add(1, Ordering::SeqCst) + 1)
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// How the controllers die after a write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Crash {
    /// They know that it happened.
    AfterReply,
    /// They do not.
    BeforeReply,
}

/// Lets the first `writes` writes through and nothing after them, as if the process had died there.
pub fn dying(counter: Counter, writes: usize, crash: Crash, dead: CancellationToken) -> impl Fn(&Asked) -> Fate {
    move |asked: &Asked| {
        if dead.is_cancelled() {
            return Fate::LoseRequest;
        }
        match counter.count(asked) {
            Some(number) if number == writes => {
                dead.cancel();
                if crash == Crash::BeforeReply { Fate::LoseReply } else { Fate::Pass }
            }
            _ => Fate::Pass,
        }
    }
}
