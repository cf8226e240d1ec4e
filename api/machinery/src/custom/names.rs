//! Which of the names that definitions ask for each of them gets. In one group a plural, a singular and a short name must
//! mean one kind, and so must a kind and a list's kind. Pure, and the same on every server: whoever has a name keeps it, and
//! of those who ask for one the oldest gets it.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames;

use super::Crd;
use crate::registry::Resources;

/// What is decided about the names of one definition.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Verdict {
    /// The names that it may use.
    pub(super) accepted: CustomResourceDefinitionNames,
    /// Why it does not get all names that it asks for: the condition's reason and message.
    pub(super) conflict: Option<(&'static str, String)>,
}

/// Names that may not mean two things.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Space {
    Resource,
    Kind,
}

/// Who has which name: `None` stands for what is built in.
type Owners<'a> = BTreeMap<(&'a str, Space, &'a str), Option<usize>>;

/// Decides about all definitions, in their order.
pub(super) fn judge(crds: &[Crd], built_in: &Resources) -> Vec<Verdict> {
    let mut owners = Owners::new();
    for resource in built_in.iter() {
        let description = resource.description();
        let group = description.group.as_str();
        let names = [&description.plural, &description.singular].into_iter().chain(&description.short_names);
        owners.extend(names.map(|name| ((group, Space::Resource, name.as_str()), None)));
        let kinds = [&description.kind, &description.list_kind];
        owners.extend(kinds.map(|name| ((group, Space::Kind, name.as_str()), None)));
    }
    let mut oldest_first: Vec<usize> = (0..crds.len()).collect();
    oldest_first.sort_by_key(|&index| (crds[index].created(), crds[index].name()));
    for accepted_before in [true, false] {
        for &index in &oldest_first {
            let crd = &crds[index];
            let before = crd.typed.status.as_ref().and_then(|status| status.accepted_names.as_ref());
            let before: Vec<(Space, &str)> = before.map(all_names).unwrap_or_default();
            for (space, name) in all_names(&crd.typed.spec.names) {
                if !accepted_before || before.contains(&(space, name)) {
                    owners.entry((&crd.typed.spec.group, space, name)).or_insert(Some(index));
                }
            }
        }
    }
    crds.iter().enumerate().map(|(index, crd)| verdict(crd, index, &owners)).collect()
}

fn all_names(names: &CustomResourceDefinitionNames) -> Vec<(Space, &str)> {
    let resources = [Some(&names.plural), names.singular.as_ref()].into_iter().flatten();
    let resources = resources.chain(names.short_names.iter().flatten()).map(|name| (Space::Resource, name.as_str()));
    let kinds = [Some(&names.kind), names.list_kind.as_ref()].into_iter().flatten();
    resources.chain(kinds.map(|name| (Space::Kind, name.as_str()))).collect()
}

fn verdict(crd: &Crd, index: usize, owners: &Owners<'_>) -> Verdict {
    let wanted = &crd.typed.spec.names;
    let mut accepted = crd.typed.status.as_ref().and_then(|status| status.accepted_names.clone()).unwrap_or_default();
    let mut conflict = None;
    let mut owns = |space, name: &str, reason| {
        let owner = owners.get(&(crd.typed.spec.group.as_str(), space, name)).copied().flatten();
        if owner == Some(index) {
            return true;
        }
        conflict.get_or_insert_with(|| (reason, format!("{name:?} is already in use")));
        false
    };
    if owns(Space::Resource, &wanted.plural, "PluralConflict") {
        accepted.plural.clone_from(&wanted.plural);
    }
    if wanted.singular.as_ref().is_none_or(|name| owns(Space::Resource, name, "SingularConflict")) {
        accepted.singular.clone_from(&wanted.singular);
    }
    if wanted.short_names.iter().flatten().all(|name| owns(Space::Resource, name, "ShortNamesConflict")) {
        accepted.short_names.clone_from(&wanted.short_names);
    }
    if owns(Space::Kind, &wanted.kind, "KindConflict") {
        accepted.kind.clone_from(&wanted.kind);
    }
    if wanted.list_kind.as_ref().is_none_or(|name| owns(Space::Kind, name, "ListKindConflict")) {
        accepted.list_kind.clone_from(&wanted.list_kind);
    }
    accepted.categories.clone_from(&wanted.categories);
    Verdict { accepted, conflict }
}
