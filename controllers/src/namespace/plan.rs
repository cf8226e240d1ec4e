//! What a namespace that is being deleted says of its content. Pure. Types, reasons and words are those of Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NamespaceCondition, NamespaceStatus},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

const CONTENT: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";
/// Something could not be listed or deleted.
pub const FAILURE: &str = "NamespaceDeletionContentFailure";

/// What is left in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// The number of objects per resource (`vms.ucloud.ungleich.ch`).
    objects: BTreeMap<String, usize>,
    /// The number of objects per finalizer.
    finalizers: BTreeMap<String, usize>,
}

impl Remains {
    /// Counts one object.
    pub fn add(&mut self, resource: &str, finalizers: &[String]) {
        *self.objects.entry(resource.to_owned()).or_default() += 1;
        for finalizer in finalizers {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

fn counted(map: &BTreeMap<String, usize>, verb: &str) -> String {
    let parts: Vec<_> = map.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances")).collect();
    parts.join(", ")
}

fn set(status: &mut NamespaceStatus, type_: &str, holds: bool, reason: &str, message: String) {
    let conditions = status.conditions.get_or_insert_default();
    let word = if holds { "True" } else { "False" };
    let before = conditions.iter().position(|condition| condition.type_ == type_);
    let since =
        before.map(|at| &conditions[at]).filter(|c| c.status == word).and_then(|c| c.last_transition_time.clone());
    let condition = NamespaceCondition {
        type_: type_.to_owned(),
        status: word.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: since.or_else(|| Some(Time(Timestamp::now()))),
    };
    match before {
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
}

/// The status of a namespace in which this is left.
pub fn status(before: Option<&NamespaceStatus>, remains: &Remains) -> NamespaceStatus {
    let mut status = before.cloned().unwrap_or_default();
    if remains.objects.is_empty() {
        set(&mut status, CONTENT, false, "ContentRemoved", "All content successfully removed".to_owned());
    } else {
        let message = format!("Some resources are remaining: {}", counted(&remains.objects, "has"));
        set(&mut status, CONTENT, true, "SomeResourcesRemain", message);
    }
    if remains.finalizers.is_empty() {
        let message = "All content-preserving finalizers finished".to_owned();
        set(&mut status, FINALIZERS, false, "ContentHasNoFinalizers", message);
    } else {
        let message =
            format!("Some content in the namespace has finalizers remaining: {}", counted(&remains.finalizers, "in"));
        set(&mut status, FINALIZERS, true, "SomeFinalizersRemain", message);
    }
    set(
        &mut status,
        FAILURE,
        false,
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization".to_owned(),
    );
    status
}

/// The status of a namespace whose content could not be deleted.
pub fn failed(before: Option<&NamespaceStatus>, message: String) -> NamespaceStatus {
    let mut status = before.cloned().unwrap_or_default();
    set(&mut status, FAILURE, true, "ContentDeletionFailed", message);
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_left_and_who_holds_it() {
        let mut remains = Remains::default();
        let agent = ["ucloud.ungleich.ch/agent".to_owned()];
        remains.add("vms.ucloud.ungleich.ch", &agent);
        remains.add("vms.ucloud.ungleich.ch", &agent);
        remains.add("secrets", &[]);
        let first = status(None, &remains);
        let conditions = first.conditions.clone().unwrap();
        assert_eq!(
            conditions[0].message.as_deref(),
            Some(
                "Some resources are remaining: secrets has 1 resource instances, vms.ucloud.ungleich.ch has 2 resource instances"
            )
        );
        assert_eq!(
            conditions[1].message.as_deref(),
            Some(
                "Some content in the namespace has finalizers remaining: ucloud.ungleich.ch/agent in 2 resource instances"
            )
        );
        assert_eq!(status(Some(&first), &remains), first, "pattern 13: nothing new, nothing to write");
        let last = status(Some(&first), &Remains::default());
        assert!(last.conditions.unwrap().iter().all(|condition| condition.status == "False"));
    }
}
