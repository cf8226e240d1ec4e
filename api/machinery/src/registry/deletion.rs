//! What a deletion does to an object: remove it, or mark it and leave it to those who hold it. Pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::prepare::bump_generation;
use super::resource::Resource;
use crate::meta;

/// What a client says about a deletion (Kubernetes' `DeleteOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    /// The object must have this UID.
    pub(crate) uid: Option<String>,
    /// The object must have this resource version.
    pub(crate) resource_version: Option<String>,
}

/// What has to happen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Deletion {
    /// Nothing holds the object: it goes.
    Remove,
    /// It is held: from now on it is being deleted. This is what to store.
    Mark(Value),
    /// It is being deleted already.
    Underway,
}

/// Whether something still holds an object that is being deleted.
pub(crate) fn is_held(resource: &Resource, object: &Value) -> bool {
    !meta::finalizers(object).is_empty() || resource.strategy.holds_deletion(object)
}

/// Decides what deleting `object` (in its stored form) means.
pub(crate) fn plan_deletion(resource: &Resource, object: &Value, options: &DeleteOptions, now: Timestamp) -> Deletion {
    if !is_held(resource, object) {
        return Deletion::Remove;
    }
    let grace = resource.strategy.grace_period_seconds(object, options.grace_period_seconds).max(0);
    if meta::is_terminating(object) {
        return shorten(object, options, grace);
    }
    let mut marked = object.clone();
    // a grace period beyond the end of time is none
    let ends = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    meta::set(&mut marked, "deletionTimestamp", Some(json!(meta::timestamp(ends))));
    meta::set(&mut marked, "deletionGracePeriodSeconds", Some(json!(grace)));
    if resource.description.generations {
        bump_generation(&mut marked, object);
    }
    resource.strategy.prepare_for_deletion(&mut marked);
    Deletion::Mark(marked)
}

/// A second deletion can only shorten the time that the first one gave.
fn shorten(object: &Value, options: &DeleteOptions, grace: i64) -> Deletion {
    let given = meta::get(object, "deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default();
    let ends: Option<Timestamp> = meta::text(object, "deletionTimestamp").parse().ok();
    let Some(ends) = ends.filter(|_| options.grace_period_seconds.is_some() && grace < given) else {
        return Deletion::Underway;
    };
    let Ok(sooner) = ends.checked_sub(SignedDuration::from_secs(given - grace)) else {
        return Deletion::Underway;
    };
    let mut marked = object.clone();
    meta::set(&mut marked, "deletionTimestamp", Some(json!(meta::timestamp(sooner))));
    meta::set(&mut marked, "deletionGracePeriodSeconds", Some(json!(grace)));
    Deletion::Mark(marked)
}
