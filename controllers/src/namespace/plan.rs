//! What a namespace that is being deleted says of its content. Pure. Types, reasons and words are those of Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{NamespaceCondition, NamespaceStatus},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};

/// It could not be told which kinds there are.
const DISCOVERY: &str = "NamespaceDeletionDiscoveryFailure";
/// Some of what there is has a version that cannot be read.
const PARSING: &str = "NamespaceDeletionGroupVersionParsingFailure";
const CONTENT: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";
/// Something could not be listed or deleted.
const FAILURE: &str = "NamespaceDeletionContentFailure";

/// What is left in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// The number of objects per resource (`vms.ucloud.ungleich.ch`).
    objects: BTreeMap<String, usize>,
    /// The number of objects per finalizer.
    finalizers: BTreeMap<String, usize>,
    /// What could not be listed or deleted.
    failures: Vec<String>,
}

impl Remains {
    /// Counts one object.
    pub fn add(&mut self, resource: &str, finalizers: &[String]) {
        *self.objects.entry(resource.to_owned()).or_default() += 1;
        for finalizer in finalizers {
            *self.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }

    /// Something could not be listed or deleted, so more may be left.
    pub fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.failures.is_empty()
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
    let fine = "All resources successfully discovered";
    set(&mut status, DISCOVERY, false, "ResourcesDiscovered", fine.to_owned());
    let fine = "All legacy kube types successfully parsed";
    set(&mut status, PARSING, false, "ParsedGroupVersions", fine.to_owned());
    if remains.failures.is_empty() {
        let fine = "All content successfully deleted, may be waiting on finalization";
        set(&mut status, FAILURE, false, "ContentDeleted", fine.to_owned());
    } else {
        let failures = &remains.failures;
        let message =
            format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", "));
        set(&mut status, FAILURE, true, "ContentDeletionFailed", message);
    }
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
    status
}

/// The status of a namespace of which it cannot be told what may be in it.
pub fn undiscovered(before: Option<&NamespaceStatus>, why: &str) -> NamespaceStatus {
    let mut status = before.cloned().unwrap_or_default();
    let message = format!("Discovery failed for some groups, 1 failing: {why}");
    set(&mut status, DISCOVERY, true, "DiscoveryFailed", message);
    status
}

/// Whether the status tells of a failure already.
pub fn tells_of_failure(status: Option<&NamespaceStatus>) -> bool {
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    conditions
        .into_iter()
        .any(|condition| [DISCOVERY, FAILURE].contains(&&*condition.type_) && condition.status == "True")
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
        let message =
            |type_: &str| conditions.iter().find(|c| c.type_ == type_ && c.status == "True")?.message.as_deref();
        assert_eq!(
            message(CONTENT),
            Some(
                "Some resources are remaining: secrets has 1 resource instances, vms.ucloud.ungleich.ch has 2 resource instances"
            )
        );
        assert_eq!(
            message(FINALIZERS),
            Some(
                "Some content in the namespace has finalizers remaining: ucloud.ungleich.ch/agent in 2 resource instances"
            )
        );
        assert_eq!(status(Some(&first), &remains), first, "pattern 13: nothing new, nothing to write");
        let last = status(Some(&first), &Remains::default());
        assert_eq!(last.conditions.as_ref().map(Vec::len), Some(5));
        assert!(last.conditions.unwrap().iter().all(|condition| condition.status == "False"));
    }

    #[test]
    fn says_what_failed() {
        let mut remains = Remains::default();
        assert!(remains.is_empty());
        remains.fail("cannot list vms".to_owned());
        assert!(!remains.is_empty(), "what cannot be listed is not gone");
        let failed = status(None, &remains);
        let found = failed.conditions.iter().flatten().find(|condition| condition.type_ == FAILURE).unwrap();
        assert_eq!(found.message.as_deref(), Some("Failed to delete all resource types, 1 remaining: cannot list vms"));
        assert!(tells_of_failure(Some(&failed)) && !tells_of_failure(None));
        let lost = undiscovered(Some(&status(None, &Remains::default())), "no answer");
        assert!(tells_of_failure(Some(&lost)));
    }
}
