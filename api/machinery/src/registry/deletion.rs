//! What a deletion does to an object: remove it, or mark it and leave it to those who hold it. Pure.
//!
//! What becomes of an object's dependents is told to the garbage collector by a finalizer of the object: `orphan` makes it
//! take the owner out of them, `foregroundDeletion` makes it delete them first. Which of the two an object gets follows
//! Kubernetes (`k8s.io/apiserver`, `registry/generic/registry/store.go`): what the deletion asks for comes first, then a
//! finalizer that the object has already, and else it is neither, and the dependents go in the background.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::prepare::bump_generation;
use super::resource::Resource;
use crate::meta;

/// The finalizer of an object whose dependents are to be left without it.
pub(crate) const ORPHAN: &str = "orphan";
/// The finalizer of an object that goes after its dependents.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";

/// What becomes of the objects that name the deleted one in their `ownerReferences`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They go first.
    Foreground,
    /// They go later.
    Background,
    /// They stay.
    Orphan,
}

/// What a client says about a deletion (Kubernetes' `DeleteOptions`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DeleteOptions {
    /// What becomes of the dependents; what the object's own finalizers say if nothing is given.
    pub(crate) propagation: Option<Propagation>,
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
    let grace = resource.strategy.grace_period_seconds(object, options.grace_period_seconds).max(0);
    let underway = meta::is_terminating(object);
    if underway && given_grace(object) > 0 {
        // it ends by itself; what becomes of its dependents is decided
        return shorten(object, options, grace);
    }
    let mut marked = object.clone();
    set_propagation(resource, &mut marked, options.propagation);
    if !is_held(resource, &marked) {
        return Deletion::Remove;
    }
    if underway {
        return if marked == *object { Deletion::Underway } else { Deletion::Mark(marked) };
    }
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

/// Gives the object the finalizer that tells the garbage collector what to do, and takes the other one away.
fn set_propagation(resource: &Resource, object: &mut Value, asked: Option<Propagation>) {
    if !resource.strategy.supports_garbage_collection() {
        return;
    }
    let present = meta::finalizers(object);
    let wanted = match asked {
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Background) => None,
        None => present.iter().copied().find(|name| matches!(*name, ORPHAN | FOREGROUND)),
    };
    let kept = present.iter().copied().filter(|name| !matches!(*name, ORPHAN | FOREGROUND) || Some(*name) == wanted);
    let mut finalizers: Vec<&str> = kept.collect();
    if let Some(wanted) = wanted.filter(|wanted| !finalizers.contains(wanted)) {
        finalizers.push(wanted);
    }
    if finalizers != present {
        let finalizers = (!finalizers.is_empty()).then(|| json!(finalizers));
        meta::set(object, "finalizers", finalizers);
    }
}

/// The time that the deletion which is underway gave the object, in seconds.
fn given_grace(object: &Value) -> i64 {
    meta::get(object, "deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default()
}

/// A second deletion can only shorten the time that the first one gave.
fn shorten(object: &Value, options: &DeleteOptions, grace: i64) -> Deletion {
    let given = given_grace(object);
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
