//! The sets of labels, in Kubernetes' spelling.

use std::borrow::Cow;

use http::Method;
use prometheus_client::encoding::EncodeLabelSet;

use crate::registry::{Resource, ResourceDescription};
use crate::rest::{Query, ResourcePath, Verb};

type Text = Cow<'static, str>;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Asked {
    verb: Text,
    dry_run: Text,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: Text,
    component: Text,
}

/// What was asked for, and what was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    #[prometheus(flatten)]
    asked: Asked,
    code: u16,
}

impl RequestLabels {
    /// Of a request about `resource`, if it is about one that is served, or about a subresource of it.
    pub(crate) fn new(
        method: &Method,
        verb: Option<Verb>,
        path: Option<&ResourcePath>,
        query: &Query,
        resource: Option<&Resource>,
        code: u16,
    ) -> Self {
        let part = |get: fn(&ResourceDescription) -> &str| resource.map_or("", |it| get(&it.description)).to_owned();
        let subresource = path.map_or("", |path| &path.subresource);
        let served = resource.is_some_and(|resource| resource.has_subresource(subresource));
        let asked = Asked {
            verb: Cow::Borrowed(spelled(method, verb)),
            dry_run: Cow::Borrowed(if query.flag("dryRun") { "All" } else { "" }),
            group: part(|it| &it.group),
            version: part(|it| &it.version),
            resource: part(|it| &it.plural),
            subresource: if served { subresource.to_owned() } else { String::new() },
            scope: Cow::Borrowed(resource.and(path).map_or("", |path| scope(path, verb))),
            component: Cow::Borrowed("apiserver"),
        };
        Self { asked, code }
    }

    pub(super) fn asked(&self) -> &Asked {
        &self.asked
    }

    pub(super) fn is_watch(&self) -> bool {
        self.asked.verb == "WATCH"
    }
}

/// The HTTP method, but where one method has several meanings.
fn spelled(method: &Method, verb: Option<Verb>) -> &'static str {
    match (verb, method.as_str()) {
        (Some(Verb::List), _) => "LIST",
        (Some(Verb::Watch), _) => "WATCH",
        (Some(Verb::DeleteCollection), _) => "DELETECOLLECTION",
        (_, "GET") => "GET",
        (_, "HEAD") => "HEAD",
        (_, "POST") => "POST",
        (_, "PUT") => "PUT",
        (_, "PATCH") => "PATCH",
        (_, "DELETE") => "DELETE",
        _ => "other",
    }
}

fn scope(path: &ResourcePath, verb: Option<Verb>) -> &'static str {
    if !path.name.is_empty() || verb == Some(Verb::Create) {
        "resource"
    } else if !path.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RequestKindLabels {
    request_kind: Text,
}

impl RequestKindLabels {
    pub(super) fn of(kind: &'static str) -> Self {
        Self { request_kind: Cow::Borrowed(kind) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LongRunningLabels {
    verb: Text,
    group: String,
    version: String,
    resource: String,
    subresource: Text,
    scope: Text,
    component: Text,
}

impl LongRunningLabels {
    pub(super) fn new(description: &ResourceDescription, namespaced: bool) -> Self {
        Self {
            verb: Cow::Borrowed("WATCH"),
            group: description.group.clone(),
            version: description.version.clone(),
            resource: description.plural.clone(),
            subresource: Cow::Borrowed(""),
            scope: Cow::Borrowed(if namespaced { "namespace" } else { "cluster" }),
            component: Cow::Borrowed("apiserver"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabels {
    group: String,
    version: String,
    resource: String,
}

impl KindLabels {
    pub(super) fn new(description: &ResourceDescription) -> Self {
        Self {
            group: description.group.clone(),
            version: description.version.clone(),
            resource: description.plural.clone(),
        }
    }
}

/// `vms.ucloud.ungleich.ch`, or `namespaces` for the core group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResourceLabels {
    resource: String,
}

impl ResourceLabels {
    pub(super) fn new(description: &ResourceDescription) -> Self {
        let ResourceDescription { group, plural, .. } = description;
        Self { resource: if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") } }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LevelLabels {
    priority_level: Text,
}

impl LevelLabels {
    pub(super) fn of(level: &'static str) -> Self {
        Self { priority_level: Cow::Borrowed(level) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    priority_level: Text,
    reason: Text,
}

impl ReasonLabels {
    pub(super) fn of(level: &'static str, reason: &'static str) -> Self {
        Self { priority_level: Cow::Borrowed(level), reason: Cow::Borrowed(reason) }
    }
}
