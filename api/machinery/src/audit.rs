//! The audit trail: one event of the target `audit` for each write, whoever made it and however it ended, and for whatever
//! else was refused.

use std::time::Duration;

use http::{HeaderMap, Method};
use uuid::Uuid;

use crate::auth::UserInfo;
use crate::rest::{AUDIT_ID, Query, ResourcePath, Verb};

/// Longer names that clients give to their requests are not taken.
const MAX_ID: usize = 64;

/// What the request is called: as the client says, so that one thing that goes through several servers keeps its name, or
/// something new.
pub(crate) fn id(headers: &HeaderMap) -> String {
    let given = headers.get(AUDIT_ID).and_then(|value| value.to_str().ok());
    match given.filter(|text| !text.is_empty() && text.len() <= MAX_ID) {
        Some(text) => text.to_owned(),
        None => Uuid::new_v4().to_string(),
    }
}

/// A request that was answered.
pub(crate) struct Audited<'a> {
    pub(crate) id: &'a str,
    /// Who asked; `None` if that could not be told.
    pub(crate) user: Option<&'a UserInfo>,
    /// What for; `None` if it is about no resource.
    pub(crate) verb: Option<Verb>,
    pub(crate) method: &'a Method,
    pub(crate) url_path: &'a str,
    pub(crate) path: Option<&'a ResourcePath>,
    /// The name of the object that was created.
    pub(crate) created: Option<&'a CreatedName>,
    pub(crate) query: &'a Query,
    pub(crate) code: u16,
    pub(crate) latency: Duration,
}

/// The name of an object that a request created, which its path does not tell; carried by the answer.
#[derive(Clone)]
pub(crate) struct CreatedName(pub(crate) String);

impl Audited<'_> {
    /// Hands the request to whoever subscribed to tracing's target `audit`, if it belongs in the trail.
    pub(crate) fn record(&self) {
        let write = self.verb.is_some_and(Verb::is_write);
        let verdict = match self.code {
            401 => "unauthenticated",
            403 => "denied",
            429 => "throttled",
            _ if !write => return,
            400.. => "failed",
            _ => "done",
        };
        let part = |get: fn(&ResourcePath) -> &str| self.path.map_or("", get);
        let verb = match self.verb {
            Some(verb) => verb.as_str(),
            None => self.method.as_str(),
        };
        let name = self.created.map_or_else(|| part(|path| &path.name), |created| created.0.as_str());
        tracing::info!(
            target: "audit",
            audit_id = self.id,
            user = self.user.map_or("", |user| user.name.as_str()),
            groups = self.user.map(|user| user.groups.join(",")).unwrap_or_default(),
            verb,
            group = part(|path| &path.group),
            version = part(|path| &path.version),
            resource = part(|path| &path.resource),
            subresource = part(|path| &path.subresource),
            namespace = part(|path| &path.namespace),
            name,
            path = self.url_path,
            dry_run = self.query.flag("dryRun"),
            verdict,
            code = self.code,
            latency_ms = u64::try_from(self.latency.as_millis()).unwrap_or(u64::MAX),
            "{}",
            if write { "write" } else { "refused" }
        );
    }
}
