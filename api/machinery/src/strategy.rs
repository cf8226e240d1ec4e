//! What one kind does differently from all others: [`Strategy`] for its rules, [`SubresourceHandler`] for its
//! actions, [`StreamHandler`] for bytes that belong to its objects, [`Conversion`] for a kind that is served in another form than it is stored in, [`Review`] for one that is a
//! question and is not stored at all.
//!
//! Everything else (metadata, generations, the separation of spec and status, schema validation, finalizers,
//! compare-and-swap) is done once, in [`crate::registry`] and [`crate::rest`], for every kind alike.

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::Value;

use crate::auth::{Authorizer, UserInfo};
use crate::quantity::Quantity;
use crate::registry::ResourceDescription;
use crate::status::{ApiError, FieldError, success};

/// Reads objects of any kind from the watch cache, in their stored form. It never waits and never asks storage, so it
/// may be a moment behind: good for warnings, checks that a controller repeats, and authorization.
pub trait Lister: Send + Sync {
    /// One object. `namespace` is `None` for cluster-scoped kinds. `group` is empty for the core group.
    fn get(&self, group: &str, resource: &str, namespace: Option<&str>, name: &str) -> Option<Value>;

    /// All objects of a kind, of one namespace or (`None`) of all. Decodes each object: not for hot paths.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Value>;
}

/// The circumstances of a write.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Who writes.
    pub user: &'a UserInfo,
    /// The resource that is written to.
    pub resource: &'a ResourceDescription,
    /// The object's namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<&'a str>,
    /// The object's name. For a creation with `generateName` it is the generated one.
    pub name: &'a str,
    /// The subresource that the request goes to (`status`, `binding`), if any.
    pub subresource: Option<&'a str>,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Looks at other objects.
    pub lister: &'a dyn Lister,
}

/// What an object takes of something that quotas limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Its name in a `ResourceQuota`, such as `requests.memory`.
    pub resource: &'static str,
    /// How much, as far as the object tells.
    pub amount: Quantity,
    /// The fields that would tell the rest, where they are missing.
    pub unknown: Vec<String>,
}

/// The rules of one kind, beyond its schema. Every method has a default that does nothing.
///
/// Objects are whole JSON objects (`apiVersion`, `kind`, `metadata`, `spec`, ...) in the stored form. Functions that
/// prepare run before schema validation, functions that validate after it, so the latter may rely on types.
pub trait Strategy: Send + Sync + 'static {
    /// Normalises a new object. `status` has been removed already, for kinds with the status subresource; what is set
    /// here is stored.
    fn prepare_for_create(&self, ctx: &Context<'_>, object: &mut Value) {
        let _ = (ctx, object);
    }

    /// Normalises an update of the object; `new` has the old status already, for kinds with the status subresource.
    fn prepare_for_update(&self, ctx: &Context<'_>, new: &mut Value, old: &Value) {
        let _ = (ctx, new, old);
    }

    /// Normalises an update of the status; everything outside `status` is the old object's already.
    fn prepare_for_status_update(&self, ctx: &Context<'_>, new: &mut Value, old: &Value) {
        let _ = (ctx, new, old);
    }

    /// The fields of the status that subresources alone write. A write of the status leaves them as they are.
    fn protected_status(&self) -> &'static [&'static str] {
        &[]
    }

    /// What the schema cannot say about a new object.
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let _ = (ctx, object);
        Vec::new()
    }

    /// What the schema cannot say about an update, e.g. that a field is immutable.
    fn validate_update(&self, ctx: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let _ = (ctx, new, old);
        Vec::new()
    }

    /// What the schema cannot say about an update of the status.
    fn validate_status_update(&self, ctx: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let _ = (ctx, new, old);
        Vec::new()
    }

    /// Whether the object may be deleted, whose deletion has not begun; an error says what needs it and what to do, and
    /// is answered with 409. What it finds with the lister may be a moment old.
    fn validate_delete(&self, ctx: &Context<'_>, object: &Value) -> Result<(), String> {
        let _ = (ctx, object);
        Ok(())
    }

    /// What the client should hear although the write succeeds. Each becomes a `Warning` header.
    fn warnings(&self, ctx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        let _ = (ctx, new, old);
        Vec::new()
    }

    /// Whether the name of a new object is allowed; an error says why not. By default a DNS-1123 subdomain.
    fn validate_name(&self, name: &str) -> Result<(), String> {
        crate::meta::names::dns1123_subdomain(name)
    }

    /// Whether an update without a resourceVersion is allowed (it then overwrites whatever is there).
    fn allows_unconditional_update(&self) -> bool {
        false
    }

    /// How many seconds a deletion gives the object to end by itself, while finalizers hold it. `requested` is what
    /// the client asked for.
    fn grace_period_seconds(&self, object: &Value, requested: Option<i64>) -> i64 {
        let _ = (object, requested);
        0
    }

    /// What the object takes of what quotas limit, by its `spec` alone, besides that it is one object of its kind.
    fn usage(&self, object: &Value) -> Vec<Usage> {
        let _ = object;
        Vec::new()
    }

    /// The fields whose values nobody should read by chance: errors do not show them.
    fn confidential_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether the kind's objects may own others: whether a deletion can say what becomes of those.
    fn supports_garbage_collection(&self) -> bool {
        true
    }

    /// Whether something other than `metadata.finalizers` still holds an object that is being deleted.
    fn holds_deletion(&self, object: &Value) -> bool {
        let _ = object;
        false
    }

    /// Changes an object at the moment its deletion begins, when it is held and therefore stays.
    fn prepare_for_deletion(&self, object: &mut Value) {
        let _ = object;
    }
}

/// A kind with no rules beyond its schema.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoStrategy;

impl Strategy for NoStrategy {}

/// A question that is asked by creating an object of a kind of which none is stored.
pub struct ReviewRequest<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// The kind of the question.
    pub resource: &'a ResourceDescription,
    /// The namespace that it is asked in; `None` for cluster-scoped kinds.
    pub namespace: Option<&'a str>,
    /// Who decides what callers may do.
    pub authorizer: &'a dyn Authorizer,
    /// Looks at objects.
    pub lister: &'a dyn Lister,
}

/// Answers the questions of one kind.
pub trait Review: Send + Sync + 'static {
    /// Writes the answer into the object's status. The object fits its schema.
    fn answer(&self, request: &ReviewRequest<'_>, object: &mut Value) -> Result<(), ApiError>;
}

/// Translates between the form in which a kind is stored and the one in which a version of it is served.
pub trait Conversion: Send + Sync + 'static {
    /// From storage to the client.
    fn to_served(&self, stored: Value) -> Value;
    /// From the client to storage.
    fn to_stored(&self, served: Value) -> Value;
}

/// What the HTTP method of a request to a subresource asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST.
    Create,
    /// PUT.
    Update,
    /// PATCH. A handler that has it has `Get` and `Update` too: it gets the patched answer to the former as an update, and
    /// never sees a patch.
    Patch,
}

impl Method {
    /// The verb, as authorizers and discovery name it.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
        }
    }
}

/// Changes an object in place, or says why it cannot.
pub type Mutation<'a> = dyn FnMut(&mut Value) -> Result<(), ApiError> + Send + 'a;

/// The object that a subresource belongs to.
#[async_trait]
pub trait Target: Send + Sync {
    /// The object as it is now (a consistent read), in its stored form with `metadata.resourceVersion`.
    async fn get(&self) -> Result<Value, ApiError>;

    /// Changes the object by compare-and-swap. `mutate` gets the present object and is called again with a fresher one
    /// whenever another writer was faster, so it must check its own preconditions each time. It may change spec and
    /// status. The result is validated against the schema and authorized; a change of nothing writes nothing, and a
    /// dry run stores nothing. Answers the object as stored.
    async fn update(&self, mutate: &mut Mutation<'_>) -> Result<Value, ApiError>;
}

/// A request to a subresource.
pub struct SubresourceRequest<'a> {
    /// What is asked for; one of [`SubresourceHandler::methods`].
    pub method: Method,
    /// Who asks, about which object.
    pub context: Context<'a>,
    /// The query's parameters, decoded, in order.
    pub query: &'a [(String, String)],
    /// The body, when there is one. It is decoded but not validated.
    pub body: Option<Value>,
    /// The object.
    pub target: &'a dyn Target,
}

/// The answer of a subresource.
#[derive(Debug, Clone)]
pub struct SubresourceResponse {
    /// The HTTP status code.
    pub code: u16,
    /// An object or a `Status`.
    pub body: Value,
}

impl SubresourceResponse {
    /// 200 with an object.
    pub fn ok(body: Value) -> Self {
        Self { code: 200, body }
    }

    /// 201 with a `Status` that says success, as Kubernetes answers a binding.
    pub fn created() -> Self {
        Self { code: 201, body: success("", "", "", "") }
    }
}

/// An action on an object, at `.../NAME/<subresource>`.
#[async_trait]
pub trait SubresourceHandler: Send + Sync + 'static {
    /// The methods that the subresource has.
    fn methods(&self) -> &'static [Method];

    /// The kind of its request body, for discovery.
    fn kind(&self) -> &'static str;

    /// The group and version of that kind, where they are not those of the resource.
    fn group_version(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// Carries the request out. The caller is authorized already.
    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError>;
}

/// Why a stream of bytes broke off.
pub type StreamError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes that come piece by piece.
pub type ByteStream = UnsyncBoxBody<Bytes, StreamError>;

/// A request to a subresource whose bodies are streams of bytes.
pub struct StreamRequest<'a> {
    /// HTTP's method: GET and HEAD for [`Method::Get`], PUT for [`Method::Update`].
    pub method: &'a http::Method,
    /// Who asks, about which object.
    pub context: Context<'a>,
    /// The request's headers.
    pub headers: &'a HeaderMap,
    /// The object.
    pub target: &'a dyn Target,
    /// The body.
    pub body: ByteStream,
}

/// Bytes that belong to an object, at `.../NAME/<subresource>`. Neither those of a request nor those of an answer are ever
/// in memory as a whole, and a request takes as long as its bytes do.
#[async_trait]
pub trait StreamHandler: Send + Sync + 'static {
    /// The methods that the subresource has, of `Get` and `Update`.
    fn methods(&self) -> &'static [Method];

    /// The kind that discovery tells.
    fn kind(&self) -> &'static str;

    /// Carries the request out. The caller is authorized already.
    async fn handle(&self, request: StreamRequest<'_>) -> Result<Response<ByteStream>, ApiError>;
}
