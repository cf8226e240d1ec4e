//! A server with a toy kind, its certificates, and clients for it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kube::api::ObjectMeta;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, CustomResource, CustomResourceExt as _};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use ucloud_machinery::auth::{Attributes, Authorizer, Decision};
use ucloud_machinery::quantity::Quantity;
use ucloud_machinery::registry::Resource;
use ucloud_machinery::status::{ApiError, FieldError, FieldPath};
use ucloud_machinery::storage::{
    Guard, Listing, MemoryStorage, Revision, Storage, StorageError, StoredValue, WatchBatches,
};
use ucloud_machinery::strategy::{
    Context, Lister, Method, Strategy, SubresourceHandler, SubresourceRequest, SubresourceResponse, Usage,
};
use ucloud_machinery::{ApiServer, ApiServerBuilder, ServerTls};

/// Nothing that a test waits for takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A thing for tests.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "test.example.com",
    version = "v1",
    kind = "Widget",
    namespaced,
    status = "WidgetStatus",
    shortname = "wd",
    category = "toys",
    selectable = ".spec.color",
    selectable = ".status.host",
    printcolumn = r#"{"name":"Color", "type":"string", "jsonPath":".spec.color"}"#,
    printcolumn = r#"{"name":"Ready", "type":"string", "jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Host", "type":"string", "jsonPath":".status.host", "priority":1}"#,
    printcolumn = r#"{"name":"Age", "type":"date", "jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct WidgetSpec {
    /// The colour that it has.
    pub color: String,
    /// How many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10))]
    pub count: Option<i32>,
    /// Its parts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
    /// Words about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub tags: Vec<String>,
    /// Where it can be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["number"]))]
    pub ports: Vec<Port>,
    /// How much it may use of what.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub limits: BTreeMap<String, i64>,
}

/// Where a widget can be reached.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    /// Its number.
    pub number: i64,
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A part of a widget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Part {
    /// Its size.
    pub size: i64,
}

/// What is seen of a widget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WidgetStatus {
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// Its type.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether it holds.
    pub status: String,
}

struct WidgetStrategy;

impl Strategy for WidgetStrategy {
    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        if new["spec"]["color"] == old["spec"]["color"] {
            return Vec::new();
        }
        let path = FieldPath::new("spec.color");
        vec![FieldError::invalid(path, new["spec"]["color"].clone(), "field is immutable")]
    }

    fn warnings(&self, _: &Context<'_>, new: &Value, _: Option<&Value>) -> Vec<String> {
        if new["spec"]["color"] == "beige" { vec!["spec.color: beige is \"dull\"".to_owned()] } else { Vec::new() }
    }

    fn grace_period_seconds(&self, _: &Value, requested: Option<i64>) -> i64 {
        requested.unwrap_or(30)
    }

    fn usage(&self, object: &Value) -> Vec<Usage> {
        let count = object["spec"]["count"].as_i64();
        let unknown = if count.is_none() { vec!["spec.count".to_owned()] } else { Vec::new() };
        vec![Usage { resource: "requests.cpu", amount: Quantity::count(count.unwrap_or_default()), unknown }]
    }
}

/// POST `.../bind` with `{"host": "h1"}`: once only.
struct Bind;

#[async_trait]
impl SubresourceHandler for Bind {
    fn methods(&self) -> &'static [Method] {
        &[Method::Create]
    }

    fn kind(&self) -> &'static str {
        "WidgetBinding"
    }

    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError> {
        let host = request.body.and_then(|body| body["host"].as_str().map(str::to_owned));
        let host = host.ok_or_else(|| ApiError::bad_request("host is missing"))?;
        request
            .target
            .update(&mut |widget| {
                if !widget["status"]["host"].is_null() {
                    return Err(ApiError::conflict("test.example.com", "widgets", request.context.name, "it is bound"));
                }
                widget["status"]["host"] = json!(host);
                Ok(())
            })
            .await?;
        Ok(SubresourceResponse::created())
    }
}

/// `admin` may do everything, `viewer` may read, `keeper` may do everything with what is there; nobody may give a widget the label `forbidden`, nor delete a `precious` one.
struct Rules;

impl Authorizer for Rules {
    fn authorize(&self, attributes: &Attributes<'_>, lister: &dyn Lister) -> Decision {
        if attributes.user.name == "keeper" {
            let Attributes { group, resource, namespace, name, .. } = *attributes;
            return match lister.get(group, resource, Some(namespace), name) {
                Some(_) => Decision::Allow,
                None => Decision::Deny("it is not there".to_owned()),
            };
        }
        let reads = matches!(attributes.verb, "get" | "list" | "watch");
        if attributes.user.in_group("masters") || reads {
            Decision::Allow
        } else {
            Decision::Deny("viewers only look".to_owned())
        }
    }

    fn authorize_object(
        &self,
        _: &Attributes<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
        _: &dyn Lister,
    ) -> Decision {
        let label = |object: Option<&Value>, name: &str| {
            object.is_some_and(|object| !object["metadata"]["labels"][name].is_null())
        };
        if label(new, "forbidden") {
            Decision::Deny("the label forbidden is forbidden".to_owned())
        } else if new.is_none() && label(old, "precious") {
            Decision::Deny("it is precious".to_owned())
        } else {
            Decision::Allow
        }
    }
}

/// A running server.
pub struct Harness {
    pub storage: MemoryStorage,
    pub address: SocketAddr,
    pub dir: TempDir,
    ca: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
    shutdown: CancellationToken,
    task: Option<JoinHandle<()>>,
    _end: DropGuard,
}

impl Harness {
    /// Starts a server and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(MemoryStorage::new()).await
    }

    /// Starts a server over a storage that holds something already.
    pub async fn start_with(storage: MemoryStorage) -> Self {
        Self::start_over(storage.clone(), storage).await
    }

    /// Starts a server over `storage`, which keeps its data in `memory`.
    pub async fn start_over(storage: impl Storage, memory: MemoryStorage) -> Self {
        Self::start_configured(storage, memory, |builder| builder).await
    }

    /// Starts a server that is configured otherwise.
    pub async fn start_configured(
        storage: impl Storage,
        memory: MemoryStorage,
        configure: impl FnOnce(ApiServerBuilder) -> ApiServerBuilder,
    ) -> Self {
        let harness = Self::launch(storage, memory, configure).await;
        let client = harness.client("admin").await;
        eventually("the server is ready", async || {
            client.request_text(http::Request::get("/readyz").body(Vec::new()).unwrap()).await.is_ok()
        })
        .await;
        harness
    }

    /// Starts a server, and does not wait until it is ready.
    pub async fn launch(
        storage: impl Storage,
        memory: MemoryStorage,
        configure: impl FnOnce(ApiServerBuilder) -> ApiServerBuilder,
    ) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "test-ca");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);

        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let server_key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(names).unwrap().signed_by(&server_key, &issuer).unwrap();
        let tls =
            ServerTls::from_pem(server.pem().as_bytes(), server_key.serialize_pem().as_bytes(), ca.pem().as_bytes())
                .unwrap();

        let resource = Resource::from_crd(&Widget::crd()).unwrap().strategy(WidgetStrategy).subresource("bind", Bind);
        let builder = ApiServer::builder(storage, Rules)
            .resource(resource)
            .product("test-1.0")
            .namespace("default")
            .bookmark_interval(Duration::from_millis(100));
        let server = configure(builder).build().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.serve(listener, tls, shutdown.clone()));
        Self {
            storage: memory,
            address,
            dir: tempfile::tempdir().unwrap(),
            ca,
            issuer,
            _end: shutdown.clone().drop_guard(),
            shutdown,
            task: Some(task),
        }
    }

    /// The kubeconfig of a user; `admin` is in the group `masters`. An empty name stands for nobody.
    pub fn kubeconfig(&self, user: &str) -> String {
        let base64 = |text: String| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(text)
        };
        let credentials = if user.is_empty() {
            json!({})
        } else {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, user);
            if user == "admin" {
                params.distinguished_name.push(DnType::OrganizationName, "masters");
            }
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            json!({
                "client-certificate-data": base64(certificate.pem()),
                "client-key-data": base64(key.serialize_pem()),
            })
        };
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.address.port()),
                "certificate-authority-data": base64(self.ca.pem()),
            }}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "default"}}],
            "users": [{"name": "u", "user": credentials}],
        })
        .to_string()
    }

    /// A client for a user.
    pub async fn client(&self, user: &str) -> Client {
        let kubeconfig = Kubeconfig::from_yaml(&self.kubeconfig(user)).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        config.read_timeout = None;
        // a test sees the first answer
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// The widgets of the namespace `default`, as `admin`.
    pub async fn widgets(&self) -> Api<Widget> {
        Api::default_namespaced(self.client("admin").await)
    }

    /// Stops the server and waits until it has ended.
    pub async fn stop(&mut self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.task.take().unwrap()).await.expect("the server ends").unwrap();
    }
}

/// Keys, and the time to live that they were given.
type Updates = Vec<(String, Option<Duration>)>;

/// Memory that takes its time to create widgets.
#[derive(Clone)]
pub struct Slow {
    memory: MemoryStorage,
    /// One for each creation that has come.
    pub arrived: Arc<Semaphore>,
    /// One for each creation that may go on.
    pub released: Arc<Semaphore>,
    /// The time to live that each update gave, with its key.
    pub updates: Arc<Mutex<Updates>>,
}

impl Slow {
    /// A server over it.
    pub async fn start() -> (Self, Harness) {
        Self::start_configured(|builder| builder).await
    }

    /// A server over it that is configured otherwise.
    pub async fn start_configured(configure: impl FnOnce(ApiServerBuilder) -> ApiServerBuilder) -> (Self, Harness) {
        let memory = MemoryStorage::new();
        let zero = || Arc::new(Semaphore::new(0));
        let slow = Self { memory: memory.clone(), arrived: zero(), released: zero(), updates: Arc::default() };
        let harness = Harness::start_configured(slow.clone(), memory, configure).await;
        (slow, harness)
    }
}

#[async_trait]
impl Storage for Slow {
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        if key.contains("/widgets/") {
            self.arrived.add_permits(1);
            self.released.acquire().await.unwrap().forget();
        }
        self.memory.create(key, value, ttl, guards).await
    }
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.updates.lock().unwrap().push((key.to_owned(), ttl));
        self.memory.update(key, value, expected, ttl, guards).await
    }
    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError> {
        self.memory.delete(key, expected, guards).await
    }
    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        self.memory.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.memory.list(prefix).await
    }
    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.memory.current_revision().await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        self.memory.watch(prefix, after).await
    }
}

/// A widget that is as it should be.
pub fn widget(name: &str, color: &str) -> Widget {
    Widget {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        spec: WidgetSpec { color: color.to_owned(), ..WidgetSpec::default() },
        status: None,
    }
}

/// The `Status` of a call that failed.
pub fn failure<T: std::fmt::Debug>(result: kube::Result<T>) -> kube::core::Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("expected an API error, got {other:?}"),
    }
}

/// A plain request; answers the code, the headers and the body.
pub async fn raw(client: &Client, request: http::Request<Vec<u8>>) -> (u16, http::HeaderMap, String) {
    use http_body_util::BodyExt as _;
    let request = request.map(kube::client::Body::from);
    let response = tokio::time::timeout(PATIENCE, client.send(request)).await.expect("an answer in time").unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status.as_u16(), head.headers, String::from_utf8(body.to_vec()).unwrap())
}

/// A request with a JSON body.
pub fn request(method: &str, path: &str, content_type: &str, body: &str) -> http::Request<Vec<u8>> {
    let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
    request.body(body.as_bytes().to_vec()).unwrap()
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "it never came about that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
