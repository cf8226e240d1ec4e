//! What the server answers when a request fails: Kubernetes' `Status` object.
//!
//! Every error that reaches a client is an [`ApiError`]. Its constructors hold the codes, the reasons and
//! the wording of Kubernetes' `k8s.io/apimachinery/pkg/api/errors`, since clients (kubectl, informers,
//! controllers) branch on them.

mod field;

use serde_json::{Map, Value, json};

pub use field::{FieldError, FieldErrorKind, FieldPath};
pub(crate) use field::{MAX_PATH, segment, shorten, shown};

/// No more field errors than this are told at once: a hostile object must not make an answer of many megabytes.
const MAX_FIELD_ERRORS: usize = 100;
/// Longer messages are cut: what they quote may be as large as a request.
const MAX_MESSAGE: usize = 32 * 1024;
/// Longer names are cut; no object has one.
const MAX_NAME: usize = 512;

/// The machine-readable reason of a failure, as Kubernetes spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// 400: the request itself is malformed.
    BadRequest,
    /// 401: the caller is not known.
    Unauthorized,
    /// 403: the caller may not do this.
    Forbidden,
    /// 404: there is no such object, kind or path.
    NotFound,
    /// 405: the resource does not have this verb.
    MethodNotAllowed,
    /// 406: no representation that the client accepts.
    NotAcceptable,
    /// 409: an object of this name exists already.
    AlreadyExists,
    /// 409: the object changed since the client read it, or a precondition failed.
    Conflict,
    /// 410: the resource version is compacted away; list again.
    Expired,
    /// 413: the body or the object is too large.
    RequestEntityTooLarge,
    /// 415: the server does not read this content type.
    UnsupportedMediaType,
    /// 422: the object breaks the rules of its kind.
    Invalid,
    /// 429: the client has to slow down.
    TooManyRequests,
    /// 500: a fault of the server.
    InternalError,
    /// 503: the server, or its storage, cannot serve at present.
    ServiceUnavailable,
    /// 504: no answer in time; the outcome may be unknown.
    Timeout,
    /// 507: the storage has no space left for writes.
    InsufficientStorage,
}

impl Reason {
    /// The HTTP status code that goes with the reason.
    pub fn code(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::InternalError => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
            Self::InsufficientStorage => 507,
        }
    }

    /// The reason's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::Invalid => "Invalid",
            Self::TooManyRequests => "TooManyRequests",
            Self::InternalError => "InternalError",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Timeout => "Timeout",
            Self::InsufficientStorage => "InsufficientStorage",
        }
    }
}

/// The reason of the cause that tells an object that is needed from other conflicts.
pub(crate) const IN_USE: &str = "InUse";

/// One cause in `Status.details.causes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, e.g. `FieldValueRequired` or `NamespaceTerminating`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// The field at fault, e.g. `spec.disks[0].size`; empty when it is not about a field.
    pub field: String,
}

#[derive(Debug, Clone)]
struct Inner {
    reason: Reason,
    message: String,
    group: String,
    kind: String,
    name: String,
    causes: Vec<Cause>,
    retry_after_seconds: Option<u32>,
    continue_token: Option<String>,
}

/// A failure, ready to be sent as a `Status` object.
#[derive(Debug, Clone)]
pub struct ApiError(Box<Inner>);

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for ApiError {}

/// `vms.ucloud.ungleich.ch`, or `namespaces` for the core group.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    /// A failure with a free message and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let mut message = message.into();
        shorten(&mut message, MAX_MESSAGE);
        Self(Box::new(Inner {
            reason,
            message,
            group: String::new(),
            kind: String::new(),
            name: String::new(),
            causes: Vec::new(),
            retry_after_seconds: None,
            continue_token: None,
        }))
    }

    fn about(reason: Reason, message: String, group: &str, kind: &str, name: &str) -> Self {
        let mut error = Self::new(reason, message);
        group.clone_into(&mut error.0.group);
        kind.clone_into(&mut error.0.kind);
        name.clone_into(&mut error.0.name);
        shorten(&mut error.0.name, MAX_NAME);
        error
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    /// 403 about an object; `why` says what forbids it.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let what = qualified(group, resource);
        let message = match (what.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{what} is forbidden: {why}"),
            (false, false) => format!("{what} {name:?} is forbidden: {why}"),
        };
        Self::about(Reason::Forbidden, message, group, resource, name)
    }

    /// 404 about an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Self::about(Reason::NotFound, message, group, resource, name)
    }

    /// 404 about a path that no resource is served at.
    pub fn no_such_path() -> Self {
        Self::new(Reason::NotFound, "the server could not find the requested resource")
    }

    /// 405 about a verb that the resource does not have.
    pub fn method_not_allowed(verb: &str, group: &str, resource: &str) -> Self {
        let what = qualified(group, resource);
        let message = format!("{verb} is not supported on resources of kind {what:?}");
        Self::about(Reason::MethodNotAllowed, message, group, resource, "")
    }

    /// 409: the name is taken.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Self::about(Reason::AlreadyExists, message, group, resource, name)
    }

    /// 409: `why` says which precondition failed.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", qualified(group, resource));
        Self::about(Reason::Conflict, message, group, resource, name)
    }

    /// 409: the object was written since the client read it.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409: the object is needed; `why` names what needs it.
    pub fn in_use(group: &str, resource: &str, name: &str, why: &str) -> Self {
        Self::conflict(group, resource, name, why).with_cause(IN_USE, why, "")
    }

    /// 410: the client has to list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// 413: the body or the object is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        Self::new(Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit} bytes"))
    }

    /// 415, naming what the server reads.
    pub fn unsupported_media_type(given: &str, supported: &[&str]) -> Self {
        Self::new(
            Reason::UnsupportedMediaType,
            format!(
                "the body of the request was in an unknown format - {given:?}; accepted media types include: {}",
                supported.join(", ")
            ),
        )
    }

    /// 406, naming what the server writes.
    pub fn not_acceptable(supported: &[&str]) -> Self {
        Self::new(
            Reason::NotAcceptable,
            format!("only the following media types are accepted: {}", supported.join(", ")),
        )
    }

    /// 422: every field at fault, with its path.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let (told, untold) = errors.split_at(errors.len().min(MAX_FIELD_ERRORS));
        let mut lines: Vec<String> = Vec::with_capacity(told.len());
        for error in told {
            let line = error.to_string();
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        if !untold.is_empty() {
            lines.push(format!("and {} more errors", untold.len()));
        }
        let list = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", qualified(group, kind));
        let mut error = Self::about(Reason::Invalid, message, group, kind, name);
        error.0.causes = told
            .iter()
            .map(|field| Cause {
                reason: field.kind.as_str().to_owned(),
                message: field.body(),
                field: field.field.to_string(),
            })
            .collect();
        error
    }

    /// 429: the same request may succeed in a moment.
    pub fn too_many_requests(message: impl Into<String>) -> Self {
        Self::new(Reason::TooManyRequests, message).with_retry_after(1)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {message}"))
    }

    /// 503: try again in a moment.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Reason::ServiceUnavailable, message).with_retry_after(1)
    }

    /// 504. Whether trying again is safe depends on the request, so clients are not told to.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(Reason::Timeout, message)
    }

    /// Tells the client after how many seconds it may try again.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_seconds = Some(seconds);
        self
    }

    /// Offers a token by which a list whose pages are no longer kept may be continued all the same.
    #[must_use]
    pub fn with_continue(mut self, token: String) -> Self {
        self.0.continue_token = Some(token);
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, message: &str, field: &str) -> Self {
        self.0.causes.push(Cause { reason: reason.to_owned(), message: message.to_owned(), field: field.to_owned() });
        self
    }

    /// The reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.reason.code()
    }

    /// The causes, in the order in which they were found.
    pub fn causes(&self) -> &[Cause] {
        &self.0.causes
    }

    /// After how many seconds the client may try again, where the server knows.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.0.retry_after_seconds
    }

    /// The `Status` object (`v1`, kind `Status`).
    pub fn to_status(&self) -> Value {
        let inner = &self.0;
        let mut details = Map::new();
        for (key, text) in [("name", &inner.name), ("group", &inner.group), ("kind", &inner.kind)] {
            if !text.is_empty() {
                details.insert(key.to_owned(), json!(text));
            }
        }
        if !inner.causes.is_empty() {
            let causes = inner.causes.iter().map(|cause| {
                let mut map = Map::new();
                map.insert("reason".to_owned(), json!(cause.reason));
                map.insert("message".to_owned(), json!(cause.message));
                if !cause.field.is_empty() {
                    map.insert("field".to_owned(), json!(cause.field));
                }
                Value::Object(map)
            });
            details.insert("causes".to_owned(), Value::Array(causes.collect()));
        }
        if let Some(seconds) = inner.retry_after_seconds {
            details.insert("retryAfterSeconds".to_owned(), json!(seconds));
        }
        let metadata = inner.continue_token.as_ref().map_or_else(|| json!({}), |token| json!({"continue": token}));
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": inner.message,
            "reason": inner.reason.as_str(),
            "code": self.code(),
        });
        if !details.is_empty() {
            status["details"] = Value::Object(details);
        }
        status
    }
}

/// The `Status` of a request that succeeded and has no object to answer with (a deletion, a binding).
pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Value {
    let mut details = Map::new();
    for (key, text) in [("name", name), ("group", group), ("kind", resource), ("uid", uid)] {
        if !text.is_empty() {
            details.insert(key.to_owned(), json!(text));
        }
    }
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording_is_that_of_kubernetes() {
        let group = "ucloud.ungleich.ch";
        assert_eq!(ApiError::not_found(group, "vms", "x").to_string(), r#"vms.ucloud.ungleich.ch "x" not found"#);
        assert_eq!(ApiError::not_found("", "namespaces", "x").to_string(), r#"namespaces "x" not found"#);
        assert!(ApiError::modified(group, "vms", "x").to_string().starts_with(
            r#"Operation cannot be fulfilled on vms.ucloud.ungleich.ch "x": the object has been modified"#
        ));
    }

    #[test]
    fn every_field_error_becomes_a_cause() {
        let root = FieldPath::root();
        let errors = [
            FieldError::required(root.child("spec").child("image"), ""),
            FieldError::invalid(root.child("spec").child("cpus"), json!(0), "must be positive"),
        ];
        let error = ApiError::invalid("g", "VM", "x", &errors);
        assert_eq!(
            error.to_string(),
            r#"VM.g "x" is invalid: [spec.image: Required value, spec.cpus: Invalid value: 0: must be positive]"#
        );
        let status = error.to_status();
        assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueRequired");
        assert_eq!(status["details"]["causes"][1]["field"], "spec.cpus");
        assert_eq!(status["code"], 422);
    }

    #[test]
    fn the_same_line_is_said_once() {
        let path = FieldPath::root().child("a");
        let errors = [FieldError::required(path.clone(), ""), FieldError::required(path, "")];
        let error = ApiError::invalid("", "VM", "x", &errors);
        assert_eq!(error.to_string(), r#"VM "x" is invalid: a: Required value"#);
    }
}
