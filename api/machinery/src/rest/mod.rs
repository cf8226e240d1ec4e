//! The REST layer: from an HTTP request to an answer.
//!
//! `path`, `query`, `options`, `continuation`, `negotiate` and `body` read the request; `read`, `watch`, `write`, `delete`,
//! `subresource`, `stream` and `review` carry it out, `document` answers for what is no object; `respond` writes the answer,
//! which `compress` and `websocket` send in other ways, and `rest_of_body` sees to it that it can be seen. Which kind a path means is looked up for each request, so that kinds may come and go.

mod body;
mod compress;
mod continuation;
mod delete;
mod document;
mod field_manager;
mod negotiate;
mod options;
mod path;
mod query;
mod read;
mod respond;
mod rest_of_body;
mod review;
mod room;
mod stream;
mod subresource;
mod watch;
mod websocket;
mod write;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use tracing::field::Empty;

pub(crate) use negotiate::DiscoveryForm;
pub(crate) use path::{ResourcePath, Verb};
pub(crate) use query::Query;
pub use respond::Body;
pub(crate) use room::Room;

use self::query::{Selectors, WriteOptions};
use self::rest_of_body::RestOfBody;
use crate::audit::{self, Audited};
use crate::auth::{
    Attributes, AuthenticationError, Authenticator, Authorizer, Credentials, Decision, PeerCertificate, UserInfo,
};
use crate::discovery::Version;
use crate::flow::Flow;
use crate::health::Health;
use crate::kinds::Kinds;
use crate::metrics::{Metrics, RequestLabels};
use crate::registry::{Resource, Store, Write};
use crate::status::ApiError;

/// See `crate::fuzzing`.
#[cfg(feature = "fuzzing")]
pub(crate) fn reissue_continuation(token: &str) -> Option<String> {
    continuation::Continuation::decode(token).ok().map(|continuation| continuation.encode())
}

/// What a request is called in the audit trail and in traces.
pub(crate) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// No request but a watch or a stream takes longer.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// Everything that requests are answered from.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) kinds: Kinds,
    pub(crate) authenticator: Arc<dyn Authenticator>,
    pub(crate) authorizer: Arc<dyn Authorizer>,
    pub(crate) version: Version,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    /// The namespaces that must exist before the server is ready.
    pub(crate) namespaces: Vec<String>,
    /// Writes in progress, which end by themselves, whether or not somebody still waits for the answer; and WebSockets.
    pub(crate) tasks: TaskTracker,
    /// How many requests are in work, and who is next.
    pub(crate) flow: Flow,
    /// Room for their bodies.
    pub(crate) room: Room,
    /// Ends watches when the server shuts down.
    pub(crate) shutdown: CancellationToken,
    /// How often a watch that asks for bookmarks gets one.
    pub(crate) bookmark_interval: Duration,
}

/// A request whose path, query and sender are known.
pub(crate) struct Call<'a> {
    api: &'a Api,
    resource: &'a Arc<Resource>,
    path: &'a ResourcePath,
    verb: Verb,
    url_path: &'a str,
    query: &'a Query,
    selectors: &'a Selectors,
    headers: &'a HeaderMap,
    user: &'a UserInfo,
    /// The name under which a write owns fields; empty for a read.
    manager: &'a str,
    /// The connection, if it can go on in another protocol.
    upgrade: Option<&'a OnUpgrade>,
}

impl<'a> Call<'a> {
    fn attributes(&self) -> Attributes<'a> {
        Attributes {
            user: self.user,
            verb: self.verb.as_str(),
            group: &self.path.group,
            version: &self.path.version,
            resource: &self.path.resource,
            subresource: &self.path.subresource,
            namespace: &self.path.namespace,
            name: &self.path.name,
            field_selector: &self.selectors.fields,
            label_selector: &self.selectors.labels,
            path: self.url_path,
        }
    }

    fn write(&self, options: WriteOptions) -> Write<'a> {
        Write {
            store: &self.api.store,
            authorizer: &*self.api.authorizer,
            resource: self.resource,
            attributes: self.attributes(),
            dry_run: options.dry_run,
            validation: options.validation,
            manager: self.manager,
        }
    }

    fn not_found(&self) -> ApiError {
        ApiError::not_found(&self.path.group, &self.path.resource, &self.path.name)
    }

    fn method_not_allowed(&self) -> ApiError {
        ApiError::method_not_allowed(self.verb.as_str(), &self.path.group, &self.path.resource)
    }
}

/// What became known of a request while it was answered.
#[derive(Default)]
struct Known {
    /// Who sent it.
    user: Option<UserInfo>,
    /// What it is about.
    resource: Option<Arc<Resource>>,
}

impl Api {
    /// Answers a request. `peer` is the client certificate that TLS has verified.
    ///
    /// The caller may drop this future when the client goes away. What may write then goes on to its end all the same,
    /// so that nothing is written that the audit trail does not show.
    pub(crate) async fn handle<B>(
        self: Arc<Self>,
        request: Request<B>,
        peer: Option<Arc<PeerCertificate>>,
    ) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: std::fmt::Display + Send,
    {
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return self.answer_recorded(request, peer.as_deref()).await;
        }
        let api = self.clone();
        let write = self.tasks.spawn(async move { api.answer_recorded(request, peer.as_deref()).await });
        write.await.unwrap_or_else(|error| respond::failure(&ApiError::internal(error)))
    }

    async fn answer_recorded<B>(&self, request: Request<B>, peer: Option<&PeerCertificate>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: std::fmt::Display + Send,
    {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let body = RestOfBody::new(body);
        let rest = body.clone();
        let query = Query::parse(head.uri.query());
        let path = path::parse(head.uri.path());
        let verb = path.as_ref().and_then(|path| Verb::of(&head.method, path, query.flag("watch")));
        let is_stream = path.as_ref().is_some_and(|path| self.is_stream(path));
        let mut known = Known::default();
        let audit_id = audit::id(&head.headers);
        let span = tracing::info_span!(
            "request",
            audit_id,
            method = %head.method,
            verb = verb.map_or("", Verb::as_str),
            path = head.uri.path(),
            resource = path.as_ref().map_or("", |path| &path.resource),
            user = Empty,
        );
        let _in_work = (verb != Some(Verb::Watch))
            .then(|| self.metrics.in_work(!matches!(head.method, Method::GET | Method::HEAD)));

        let answer = self.answer(&head, body, &query, path.as_ref(), verb, peer, &mut known);
        let answer = AssertUnwindSafe(answer.instrument(span)).catch_unwind();
        let result = match verb {
            Some(Verb::Watch) => Ok(answer.await),
            _ if is_stream => Ok(answer.await),
            _ => tokio::time::timeout(REQUEST_TIMEOUT, answer).await,
        };
        let result = match result {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => {
                tracing::error!(method = %head.method, path = head.uri.path(), "a request made the server panic");
                Err(ApiError::internal("this request hit a bug of the server; its log has the place"))
            }
            Err(_elapsed) => Err(ApiError::timeout("request did not complete within the allotted time")),
        };
        let mut response = result.unwrap_or_else(|error| respond::failure(&error));
        if is_stream && !response.status().is_success() {
            rest.discard().await;
        }

        let latency = started.elapsed();
        let code = response.status();
        let resource = known.resource.as_deref();
        let labels = RequestLabels::new(&head.method, verb, path.as_ref(), &query, resource, code.as_u16());
        self.metrics.request(&labels, latency);
        let audited = Audited {
            id: &audit_id,
            user: known.user.as_ref(),
            verb,
            method: &head.method,
            url_path: head.uri.path(),
            path: path.as_ref(),
            created: response.extensions().get(),
            query: &query,
            code: code.as_u16(),
            latency,
        };
        audited.record();
        if let Ok(value) = HeaderValue::from_str(&audit_id) {
            response.headers_mut().insert(AUDIT_ID, value);
        }
        if code == StatusCode::OK && verb != Some(Verb::Watch) && !is_stream && compress::accepted(&head.headers) {
            response = compress::compress(response);
        }
        response
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request, split so that the caller can record them")]
    async fn answer<B>(
        &self,
        head: &http::request::Parts,
        body: B,
        query: &Query,
        path: Option<&ResourcePath>,
        verb: Option<Verb>,
        peer: Option<&PeerCertificate>,
        known: &mut Known,
    ) -> Result<Response<Body>, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: std::fmt::Display + Send,
    {
        let url_path = head.uri.path();
        if let Some(response) = self.answer_public(head, query).await {
            return Ok(response);
        }
        let user = &*known.user.insert(self.authenticate(&head.headers, peer).await?);
        tracing::Span::current().record("user", user.name.as_str());
        refuse_impersonation(&head.headers)?;
        let Some(path) = path else {
            return self.answer_document(head, query, user);
        };
        // a watch and a stream hold their seats until they have begun
        let seat = self.flow.admit(user, &path.group, &path.resource).await?;
        let Some(verb) = verb else {
            return Err(ApiError::method_not_allowed(head.method.as_str(), &path.group, &path.resource));
        };
        let resource = self.kinds.find(&self.store, &path.group, &path.version, &path.resource).await?;
        let resource = &*known.resource.insert(resource);
        let selectors = match verb {
            Verb::Watch if !path.name.is_empty() => Selectors::named(query, &path.name)?,
            Verb::List | Verb::Watch | Verb::DeleteCollection => Selectors::parse(query)?,
            _ => Selectors::default(),
        };
        let manager = if verb.is_write() { field_manager::of(query, &head.headers)? } else { String::new() };
        let call = Call {
            api: self,
            resource,
            path,
            verb,
            url_path,
            query,
            selectors: &selectors,
            headers: &head.headers,
            user,
            manager: &manager,
            upgrade: head.extensions.get(),
        };
        // a rule may ask for objects, and what is not known yet is not absent
        self.store.filled().await?;
        self.authorize(&call.attributes())?;
        check_scope(&call)?;
        if let Some(handler) = resource.streams.get(&path.subresource) {
            drop(seat);
            return call.transfer(&**handler, &head.method, body).await;
        }
        call.answer(body).await
    }

    /// Whether the path is that of bytes, and not of an object.
    fn is_stream(&self, path: &ResourcePath) -> bool {
        let served = self.kinds.current();
        let resource = served.resources.get(&path.group, &path.version, &path.resource);
        resource.is_some_and(|resource| resource.streams.contains_key(&path.subresource))
    }

    /// What anyone may ask for, without an identity.
    async fn answer_public(&self, head: &http::request::Parts, query: &Query) -> Option<Response<Body>> {
        if head.method != Method::GET && head.method != Method::HEAD {
            return None;
        }
        match head.uri.path() {
            "/version" | "/version/" => Some(respond::json(200, &self.version.to_json())),
            path => {
                let report = self.health.check(path, &self.store, &self.kinds, &self.namespaces).await?;
                let code = if report.healthy { 200 } else { 503 };
                let text = report.text(query.flag("verbose"));
                Some(respond::answer(code, "text/plain; charset=utf-8", respond::full(text)))
            }
        }
    }

    async fn authenticate(&self, headers: &HeaderMap, peer: Option<&PeerCertificate>) -> Result<UserInfo, ApiError> {
        match self.authenticator.authenticate(Credentials { certificate: peer, headers }).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(ApiError::unauthorized()),
            Err(AuthenticationError::Rejected(reason)) => {
                tracing::info!(reason, "credentials rejected");
                Err(ApiError::unauthorized())
            }
            Err(error @ AuthenticationError::Unavailable(_)) => Err(ApiError::unavailable(error.to_string())),
        }
    }

    fn authorize(&self, attributes: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorizer.authorize(attributes, &self.store) {
            Decision::Allow => Ok(()),
            Decision::Deny(reason) => Err(forbidden(attributes, &reason)),
        }
    }
}

impl Call<'_> {
    /// The body, once there is room for it.
    async fn receive<B>(&self, body: B) -> Result<room::Body<'_>, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: std::fmt::Display,
    {
        self.api.room.take(body::read(body).await?).await
    }

    async fn answer<B>(&self, body: B) -> Result<Response<Body>, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
        B::Error: std::fmt::Display + Send,
    {
        if let Some(review) = &self.resource.review {
            return match (self.path.subresource.as_str(), self.verb) {
                ("", Verb::Create) => self.review(&**review, &self.receive(body).await?),
                ("", _) => Err(self.method_not_allowed()),
                _ => Err(ApiError::no_such_path()),
            };
        }
        match (self.path.subresource.as_str(), self.verb) {
            ("", Verb::Get) => self.get().await,
            ("", Verb::List) => self.list().await,
            ("", Verb::Watch) => self.watch().await,
            ("", Verb::Create) => self.create(&self.receive(body).await?).await,
            ("", Verb::Delete) => self.delete(&self.receive(body).await?).await,
            ("", Verb::DeleteCollection) => self.delete_collection(&self.receive(body).await?).await,
            ("status", Verb::Get | Verb::Update | Verb::Patch) if self.resource.description.status_subresource => {
                match self.verb {
                    Verb::Get => self.get().await,
                    _ => self.update(&self.receive(body).await?).await,
                }
            }
            ("", Verb::Update | Verb::Patch) => self.update(&self.receive(body).await?).await,
            (name, _) => match self.resource.subresources.get(name) {
                Some(handler) => self.subresource(&**handler, &self.receive(body).await?).await,
                None if name == "status" && self.resource.description.status_subresource => {
                    Err(self.method_not_allowed())
                }
                None => Err(ApiError::no_such_path()),
            },
        }
    }
}

/// A client that asks to be somebody else must not be answered as who it is.
fn refuse_impersonation(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.keys().find(|name| name.as_str().starts_with("impersonate-")) {
        None => Ok(()),
        Some(name) => {
            let why = format!("this server lets nobody act as somebody else: leave out the header {name}");
            Err(ApiError::forbidden("", "", "", &why))
        }
    }
}

/// Paths with a namespace are for namespaced kinds, and single objects of those have one.
fn check_scope(call: &Call<'_>) -> Result<(), ApiError> {
    let namespaced = call.resource.description.is_namespaced();
    let given = !call.path.namespace.is_empty();
    match (namespaced, given) {
        (false, true) => Err(ApiError::no_such_path()),
        (true, false) if call.verb == Verb::Create => {
            Err(ApiError::bad_request("an empty namespace may not be set during creation"))
        }
        (true, false) if !call.path.name.is_empty() || call.verb.is_write() => Err(ApiError::no_such_path()),
        _ => Ok(()),
    }
}

/// 403 in Kubernetes' words.
fn forbidden(attributes: &Attributes<'_>, reason: &str) -> ApiError {
    let user = &attributes.user.name;
    let verb = attributes.verb;
    let mut why = if attributes.is_resource() {
        let resource = match attributes.subresource {
            "" => attributes.resource.to_owned(),
            subresource => format!("{}/{subresource}", attributes.resource),
        };
        let group = attributes.group;
        let scope = match attributes.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {scope}")
    } else {
        format!("User {user:?} cannot {verb} path {:?}", attributes.path)
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    ApiError::forbidden(attributes.group, attributes.resource, attributes.name, &why)
}
