//! Who is calling, and what they may do.
//!
//! An [`Authenticator`] turns what a connection and a request prove into a [`UserInfo`]; an [`Authorizer`]
//! decides about the request's [`Attributes`] and, for writes, about the objects before and after.
//! Both are the server's owner's to give: this library knows no user and no role.

mod certificate;

use async_trait::async_trait;
use serde_json::Value;

use crate::selector::{FieldSelector, LabelSelector};
use crate::strategy::Lister;

pub use certificate::{CertificateAuthenticator, PeerCertificate};

/// Every caller whom an [`Authenticator`] has recognised is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";

/// A caller whose identity is proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserInfo {
    /// The user's name, e.g. `admin` or `ucloud:host:h1`.
    pub name: String,
    /// The groups that the user belongs to, [`AUTHENTICATED`] among them.
    pub groups: Vec<String>,
}

impl UserInfo {
    /// A recognised user; [`AUTHENTICATED`] is added to the groups.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = String>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().collect();
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), groups }
    }

    /// Whether the user belongs to `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// What a request offers as proof of its sender.
#[derive(Debug, Clone, Copy)]
pub struct Credentials<'a> {
    /// The client certificate, verified by TLS against the client CA.
    pub certificate: Option<&'a PeerCertificate>,
    /// The request's headers (for bearer tokens).
    pub headers: &'a http::HeaderMap,
}

/// Why a caller was not recognised although they offered a proof.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// What was offered proves nothing: answered with 401.
    #[error("{0}")]
    Rejected(String),
    /// The proof could not be checked: answered with 503.
    #[error("cannot check the credentials: {0}")]
    Unavailable(String),
}

/// Recognises callers.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// Who sends this request; `None` if the credentials hold nothing that this authenticator reads.
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, AuthenticationError>;
}

/// What a request wants to do: what an [`Authorizer`] decides about.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for a path that is no
    /// resource the HTTP method in lower case.
    pub verb: &'a str,
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The resource's plural name; empty for a path that is no resource.
    pub resource: &'a str,
    /// The subresource (`status`, `binding`); empty for the object itself.
    pub subresource: &'a str,
    /// The namespace; empty for cluster-scoped resources and for requests across all namespaces.
    pub namespace: &'a str,
    /// The object's name; empty for collections and for creations.
    pub name: &'a str,
    /// The field selector of a list, watch or deletecollection: what is answered shows selected objects only.
    pub field_selector: &'a FieldSelector,
    /// The label selector of a list, watch or deletecollection.
    pub label_selector: &'a LabelSelector,
    /// The request's path.
    pub path: &'a str,
}

impl Attributes<'_> {
    /// Whether the request is about a resource, and not about discovery, health or metrics.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }
}

/// An authorizer's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// 403; the reason is shown to the caller.
    Deny(String),
}

/// Something that a caller may do, for people to read: `*` stands for everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// To objects.
    Resources {
        /// What.
        verbs: Vec<String>,
        /// In these API groups.
        groups: Vec<String>,
        /// To these resources, as their plural names, with `/SUBRESOURCE` where it is one.
        resources: Vec<String>,
        /// To the objects of these names alone; to all if there are none.
        names: Vec<String>,
    },
    /// To paths that are no resources.
    Paths {
        /// What.
        verbs: Vec<String>,
        /// The paths; one may end in `*`.
        paths: Vec<String>,
    },
}

/// What a caller may do in a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// The rules.
    pub rules: Vec<Rule>,
    /// There may be more that cannot be said in this form.
    pub incomplete: bool,
}

/// Decides what callers may do.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether the request may be carried out. Asked once for each request, before its body is read.
    fn authorize(&self, attributes: &Attributes<'_>, lister: &dyn Lister) -> Decision;

    /// Whether this write may be done, now that the objects are known. `old` is `None` for a creation, `new` is `None`
    /// for a deletion. Asked after preparation and validation, right before each attempt to store.
    fn authorize_object(
        &self,
        attributes: &Attributes<'_>,
        old: Option<&Value>,
        new: Option<&Value>,
        lister: &dyn Lister,
    ) -> Decision {
        let _ = (attributes, old, new, lister);
        Decision::Allow
    }

    /// What the caller may do in a namespace, for people to read (`kubectl auth can-i --list`). Nothing is decided by it.
    fn rules(&self, user: &UserInfo, namespace: &str) -> Rules {
        let _ = (user, namespace);
        Rules { rules: Vec::new(), incomplete: true }
    }
}
