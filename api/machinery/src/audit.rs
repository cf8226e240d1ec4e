//! The audit trail: one event of the target `audit` for each write, whoever made it and however it ended.

use std::time::Duration;

use crate::auth::UserInfo;
use crate::rest::{Query, ResourcePath, Verb};

/// A write that was answered.
pub(crate) struct Audited<'a> {
    /// Who asked; `None` if that could not be told.
    pub(crate) user: Option<&'a UserInfo>,
    pub(crate) verb: Verb,
    pub(crate) path: &'a ResourcePath,
    /// The name of the object that was created.
    pub(crate) created: Option<&'a CreatedName>,
    pub(crate) query: &'a Query,
    pub(crate) code: u16,
    pub(crate) latency: Duration,
}

/// The name of an object that a request created, which its path does not tell; carried by the answer.
#[derive(Clone)]
pub(crate) struct CreatedName(pub(crate) String);

/// Hands the write to whoever subscribed to tracing's target `audit`.
pub(crate) fn record(write: &Audited<'_>) {
    let path = write.path;
    tracing::info!(
        target: "audit",
        user = write.user.map_or("", |user| user.name.as_str()),
        verb = write.verb.as_str(),
        group = path.group,
        version = path.version,
        resource = path.resource,
        subresource = path.subresource,
        namespace = path.namespace,
        name = write.created.map_or(path.name.as_str(), |created| created.0.as_str()),
        dry_run = write.query.flag("dryRun"),
        code = write.code,
        latency_ms = u64::try_from(write.latency.as_millis()).unwrap_or(u64::MAX),
        "write"
    );
}
