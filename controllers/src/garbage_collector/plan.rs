//! What becomes of an object that has owners. Pure; the rules are Kubernetes' (`pkg/controller/garbagecollector`).

use std::collections::BTreeSet;

use super::graph::{Uid, Waits};

/// What the server says of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Solid,
    /// It is not there, or another object has its name.
    Absent,
    /// It is there, and goes once its dependents are gone.
    WaitsForDependents,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Keep,
    /// Take these owners out of the object: it has others.
    Release(BTreeSet<Uid>),
    /// Delete the object after its own dependents; `unblock` first, where it and they wait for each other.
    DeleteAfterDependents {
        /// Whether the object must not keep its owners waiting.
        unblock: bool,
    },
    /// Delete the object, its dependents as its own finalizers say.
    Delete(Option<Waits>),
}

/// Decides about an object that is not being deleted, with at least one owner.
pub fn plan(owners: &[(Uid, Owner)], has_dependents: bool, in_circle: bool, waits: Option<Waits>) -> Step {
    let is = |wanted: Owner| move |(_, owner): &&(Uid, Owner)| *owner == wanted;
    if owners.iter().any(|(_, owner)| *owner == Owner::Solid) {
        let others: BTreeSet<Uid> =
            owners.iter().filter(|owner| !is(Owner::Solid)(owner)).map(|(uid, _)| uid.clone()).collect();
        return if others.is_empty() { Step::Keep } else { Step::Release(others) };
    }
    if has_dependents && owners.iter().any(|owner| is(Owner::WaitsForDependents)(&owner)) {
        return Step::DeleteAfterDependents { unblock: in_circle };
    }
    if owners.is_empty() { Step::Keep } else { Step::Delete(waits) }
}

#[cfg(test)]
mod tests {
    use super::{Owner::*, *};

    fn owners(list: &[Owner]) -> Vec<(Uid, Owner)> {
        list.iter().enumerate().map(|(index, owner)| (index.to_string(), *owner)).collect()
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        let released = |uids: &[&str]| Step::Release(uids.iter().map(|uid| (*uid).to_owned()).collect());
        for (list, expected) in [
            (&[Solid][..], Step::Keep),
            (&[Solid, Absent, WaitsForDependents], released(&["1", "2"])),
            (&[Absent], Step::Delete(None)),
            (&[Absent, Absent], Step::Delete(None)),
            (&[WaitsForDependents], Step::Delete(None)),
            (&[], Step::Keep),
        ] {
            assert_eq!(plan(&owners(list), false, false, None), expected, "{list:?}");
        }
        assert_eq!(plan(&owners(&[Absent]), true, true, Some(Waits::Orphan)), Step::Delete(Some(Waits::Orphan)));
    }

    #[test]
    fn what_an_owner_waits_for_goes_after_its_own_dependents() {
        for circle in [false, true] {
            let step = plan(&owners(&[WaitsForDependents, Absent]), true, circle, None);
            assert_eq!(step, Step::DeleteAfterDependents { unblock: circle });
        }
    }
}
