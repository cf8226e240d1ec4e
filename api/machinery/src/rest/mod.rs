//! The REST layer: from an HTTP request to an answer.
//!
//! `path`, `query`, `negotiate` and `body` read the request; `read`, `watch`, `write`, `delete` and `subresource` carry it out;
//! `respond` writes the answer. Which kind a path means is looked up for each request, so that kinds may come and go.

mod body;
mod delete;
mod field_manager;
mod negotiate;
mod path;
mod query;
mod read;
mod respond;
mod room;
mod subresource;
mod watch;
mod write;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderMap, Method, Request, Response};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use negotiate::DiscoveryForm;
pub(crate) use path::{ResourcePath, Verb};
pub(crate) use query::Query;
pub use respond::Body;
pub(crate) use room::Room;

use self::query::{Selectors, WriteOptions};
use crate::audit::{self, Audited};
use crate::auth::{
    Attributes, AuthenticationError, Authenticator, Authorizer, Credentials, Decision, PeerCertificate, UserInfo,
};
use crate::discovery::{self, Version};
use crate::health::Health;
use crate::kinds::Kinds;
use crate::metrics::{Metrics, RequestLabels};
use crate::registry::{Resource, Store, Write};
use crate::status::ApiError;

/// No request but a watch takes longer.
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
    /// Writes in progress. They end by themselves, whether or not somebody still waits for the answer.
    pub(crate) writes: TaskTracker,
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
        let write = self.writes.spawn(async move { api.answer_recorded(request, peer.as_deref()).await });
        write.await.unwrap_or_else(|error| respond::failure(&ApiError::internal(error)))
    }

    async fn answer_recorded<B>(&self, request: Request<B>, peer: Option<&PeerCertificate>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: std::fmt::Display,
    {
        let started = Instant::now();
        let (head, body) = request.into_parts();
        let query = Query::parse(head.uri.query());
        let path = path::parse(head.uri.path());
        let verb = path.as_ref().and_then(|path| Verb::of(&head.method, path, query.flag("watch")));
        let mut known = Known::default();

        let answer = self.answer(&head, body, &query, path.as_ref(), verb, peer, &mut known);
        let answer = AssertUnwindSafe(answer).catch_unwind();
        let result = match verb {
            Some(Verb::Watch) => Ok(answer.await),
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
        let response = result.unwrap_or_else(|error| respond::failure(&error));

        let latency = started.elapsed();
        let code = response.status().as_u16();
        let subresource = path.as_ref().map_or("", |path| &path.subresource);
        let labels = RequestLabels::new(&head.method, verb, known.resource.as_deref(), subresource, code);
        self.metrics.request(&labels, latency);
        if let (Some(path), Some(verb)) = (&path, verb)
            && verb.is_write()
        {
            let (user, created) = (known.user.as_ref(), response.extensions().get());
            audit::record(&Audited { user, verb, path, created, query: &query, code, latency });
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
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: std::fmt::Display,
    {
        let url_path = head.uri.path();
        if let Some(response) = self.answer_public(head, query).await {
            return Ok(response);
        }
        let user = &*known.user.insert(self.authenticate(&head.headers, peer).await?);
        refuse_impersonation(&head.headers)?;
        let Some(path) = path else {
            return self.answer_document(head, user);
        };
        let Some(verb) = verb else {
            return Err(ApiError::method_not_allowed(head.method.as_str(), &path.group, &path.resource));
        };
        let resource = self.kinds.find(&self.store, &path.group, &path.version, &path.resource).await?;
        let resource = &*known.resource.insert(resource);
        let selectors = match verb {
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
        };
        self.authorize(&call.attributes())?;
        check_scope(&call)?;
        call.answer(body).await
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

    /// Discovery, schemas and metrics.
    fn answer_document(&self, head: &http::request::Parts, user: &UserInfo) -> Result<Response<Body>, ApiError> {
        let url_path = head.uri.path();
        let verb = head.method.as_str().to_lowercase();
        let selectors = Selectors::default();
        self.authorize(&Attributes {
            user,
            verb: &verb,
            group: "",
            version: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            field_selector: &selectors.fields,
            label_selector: &selectors.labels,
            path: url_path,
        })?;
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(ApiError::method_not_allowed(&verb, "", url_path));
        }
        let url_path = url_path.trim_end_matches('/');
        if url_path == "/metrics" {
            let metrics = self.metrics.encode(self.store.cache.undecodable());
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            return Ok(respond::answer(200, content_type, respond::full(metrics)));
        }
        let served = self.kinds.current();
        if let Some(document) = served.openapi.document(&served.resources, url_path) {
            return Ok(respond::answer(200, "application/json", respond::full(document)));
        }
        let form = negotiate::discovery_form(&head.headers)?;
        match discovery::document(&served.resources, url_path, form) {
            Some(document) => Ok(respond::answer(200, document.content_type, respond::full(document.body.to_string()))),
            None => Err(ApiError::no_such_path()),
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
        B: http_body::Body<Data = Bytes> + Unpin + Send,
        B::Error: std::fmt::Display,
    {
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
