//! An API server put together: kinds, storage, who may do what, and the network side.

use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::as_server::AsServer;
use crate::auth::{Authenticator, Authorizer, CertificateAuthenticator};
use crate::custom;
use crate::decode::Decoded;
use crate::discovery::Version;
use crate::flow::{Flow, RequestLimits};
use crate::health::Health;
use crate::kinds::Kinds;
use crate::metrics::{Measured, Metrics};
use crate::registry::{DuplicateResource, Resource, Resources, Store};
use crate::rest::{Api, Room};
use crate::serve::{self, ServerTls};
use crate::standard::{self, StandardKindError, new_namespace};
use crate::status::{ApiError, Reason};
use crate::storage::Storage;

/// How often a watch that asks for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_mins(1);

/// Why a server cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A standard kind cannot be described.
    #[error("cannot describe the standard kinds")]
    Standard(#[from] StandardKindError),
    /// Two kinds claim one path.
    #[error("cannot serve all kinds")]
    Duplicate(#[from] DuplicateResource),
}

/// Puts an [`ApiServer`] together.
pub struct ApiServerBuilder {
    storage: Arc<dyn Storage>,
    authorizer: Arc<dyn Authorizer>,
    authenticator: Arc<dyn Authenticator>,
    resources: Vec<Resource>,
    product: String,
    namespaces: Vec<String>,
    bookmark_interval: Duration,
    limits: RequestLimits,
    priority_groups: Vec<String>,
}

impl ApiServerBuilder {
    /// Serves a kind.
    #[must_use]
    pub fn resource(mut self, resource: Resource) -> Self {
        self.resources.push(resource);
        self
    }

    /// Recognises callers by something other than client certificates alone.
    #[must_use]
    pub fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Arc::new(authenticator);
        self
    }

    /// What `/version` shows after the Kubernetes version, e.g. `ucloud-0.1.0`.
    #[must_use]
    pub fn product(mut self, product: &str) -> Self {
        product.clone_into(&mut self.product);
        self
    }

    /// A namespace that the server makes if there is none of this name; the server is not ready before.
    #[must_use]
    pub fn namespace(mut self, name: &str) -> Self {
        self.namespaces.push(name.to_owned());
        self
    }

    /// How often a watch that asks for bookmarks gets one; 60 s unless told otherwise.
    #[must_use]
    pub fn bookmark_interval(mut self, interval: Duration) -> Self {
        self.bookmark_interval = interval;
        self
    }

    /// How many requests are served at once, in all and for each user, and how many wait.
    #[must_use]
    pub fn request_limits(mut self, limits: RequestLimits) -> Self {
        self.limits = limits;
        self
    }

    /// A group whose members do not wait behind other users: those that keep the installation alive.
    #[must_use]
    pub fn priority_group(mut self, group: &str) -> Self {
        self.priority_groups.push(group.to_owned());
        self
    }

    /// Builds the server and begins to fill its cache. Needs a tokio runtime.
    pub fn build(self) -> Result<ApiServer, BuildError> {
        let mut kinds = standard::resources()?;
        kinds.extend(self.resources);
        let names = |resource: &Resource| (resource.description.group.clone(), resource.description.plural.clone());
        let definitions = standard::definitions(kinds.iter().map(names).collect())?;
        kinds.push(definitions);
        let resources = Resources::new(kinds)?;
        let metrics = Metrics::new();
        let storage = Arc::new(Measured { inner: self.storage, metrics: metrics.storage() });
        let store = Store::new(storage, resources.iter().map(|resource| &**resource));
        Ok(ApiServer {
            api: Arc::new(Api {
                store,
                kinds: Kinds::new(resources),
                authenticator: self.authenticator,
                authorizer: self.authorizer,
                version: Version { product: self.product },
                metrics,
                flow: Flow::new(self.limits, self.priority_groups),
                health: Health::default(),
                namespaces: self.namespaces,
                tasks: TaskTracker::new(),
                room: Room::new(),
                shutdown: CancellationToken::new(),
                bookmark_interval: self.bookmark_interval,
            }),
        })
    }
}

/// An API server.
pub struct ApiServer {
    pub(crate) api: Arc<Api>,
}

impl ApiServer {
    /// Begins to put a server together: where objects are kept, and who decides what callers may do. The standard kinds
    /// (Namespace, Event, Lease, Secret, ConfigMap, ResourceQuota, reviews) are served by every server; callers are recognised by their client certificates.
    pub fn builder(storage: impl Storage, authorizer: impl Authorizer) -> ApiServerBuilder {
        ApiServerBuilder {
            storage: Arc::new(storage),
            authorizer: Arc::new(authorizer),
            authenticator: Arc::new(CertificateAuthenticator),
            resources: Vec::new(),
            product: "machinery".to_owned(),
            namespaces: Vec::new(),
            bookmark_interval: BOOKMARK_INTERVAL,
            limits: RequestLimits::default(),
            priority_groups: Vec::new(),
        }
    }

    /// Serves connections until `shutdown`; then ends watches, lets other requests finish (10 s at most), and returns.
    pub async fn serve(self, listener: TcpListener, tls: ServerTls, shutdown: CancellationToken) {
        let bootstrap = tokio::spawn(ensure_namespaces(self.api.clone()));
        let custom = tokio::spawn(custom::run(self.api.clone()));
        serve::serve(self.api.clone(), listener, tls, shutdown).await;
        bootstrap.abort();
        custom.abort();
        self.api.store.cache.shutdown();
    }
}

/// Makes the namespaces that must exist, however long storage takes to come.
async fn ensure_namespaces(api: Arc<Api>) {
    let endless = ExponentialBuilder::default().with_min_delay(Duration::from_millis(50)).without_max_times();
    for name in &api.namespaces {
        let ensured = (|| ensure_namespace(&api, name))
            .retry(endless)
            .notify(|error, pause| tracing::warn!(name, %error, ?pause, "cannot make a namespace yet"))
            .await;
        if let Err(error) = ensured {
            tracing::error!(name, %error, "cannot make a namespace");
        }
    }
}

async fn ensure_namespace(api: &Api, name: &str) -> Result<(), ApiError> {
    let Some(resource) = api.kinds.built_in().get("", "v1", "namespaces") else {
        return Err(ApiError::internal("namespaces are not served"));
    };
    let server = AsServer::default();
    let write = server.write(&api.store, resource, "create", "", "");
    match write.create(Decoded { value: new_namespace(name), duplicates: Vec::new() }).await {
        Err(error) if error.reason() != Reason::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
