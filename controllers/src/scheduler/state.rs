//! The snapshot together with the VMs that wait for a host, under one lock.
//!
//! They belong together: a VM that finds no host must be among the waiting ones before the next change of the snapshot is
//! taken in, or it would miss the change that makes room for it.

use std::collections::BTreeMap;

use kube::runtime::reflector::ObjectRef;
use ucloud_types::{Image, StoragePool, VM, Volume};

use super::{
    claim::{Claim, Offer},
    fit::{NoFit, Trial, choose},
    snapshot::{Hold, Snapshot},
    volumes::Volumes,
};
use crate::runtime::{Change, cache::object_ref, uid_of};

/// What is to be done for a VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Bind it to this host, which the snapshot assumes from now on.
    Bind(String),
    /// It waits.
    Wait(NoFit),
    /// It has a host already; its watch is about to say so.
    Settled,
}

/// What a change means for waiting VMs.
#[derive(Debug, Default, PartialEq)]
pub struct Wake {
    /// These have found room.
    pub now: Vec<ObjectRef<VM>>,
    /// The reasons of the others may have changed.
    pub others_later: bool,
}

/// The snapshot and who waits.
#[derive(Debug, Default)]
pub struct State {
    snapshot: Snapshot,
    volumes: Volumes,
    /// By UID.
    waiting: BTreeMap<String, Claim>,
    /// The version of the VM with this UID on which the assumption was made.
    versions: BTreeMap<String, String>,
}

impl State {
    /// Decides for a VM that is to run and has no binding.
    pub fn decide(&mut self, vm: &VM) -> Decision {
        let mut claim = Claim::of(vm);
        let uid = claim.uid.clone();
        self.waiting.remove(&uid);
        let version = vm.metadata.resource_version.clone().unwrap_or_default();
        if let Some(placement) = self.snapshot.placement(&uid) {
            if placement.hold == Hold::Bound {
                return Decision::Settled;
            }
            // The reply to the last attempt may have been lost. While the VM is the same, so is the host: if the first
            // attempt is carried out late, it takes the room that is reserved for it.
            if self.versions.get(&uid) == Some(&version) && self.snapshot.hosts().contains_key(&placement.host) {
                return Decision::Bind(placement.host.clone());
            }
            self.snapshot.forget(&uid);
        }
        self.volumes.resolve(&mut claim);
        match choose(&self.snapshot, &claim) {
            Ok(host) => {
                self.snapshot.assume(claim, &host);
                self.versions.insert(uid, version);
                Decision::Bind(host)
            }
            Err(no_fit) => {
                self.versions.remove(&uid);
                self.waiting.insert(uid, claim);
                Decision::Wait(no_fit)
            }
        }
    }

    /// The server has bound the VM to this host.
    pub fn bound(&mut self, vm: &VM, host: &str) -> Wake {
        self.versions.remove(uid_of(vm));
        let freed = self.snapshot.confirm(Claim::of(vm), host);
        self.wake(freed)
    }

    /// The server has refused to bind the VM.
    pub fn refused(&mut self, uid: &str) -> Wake {
        self.versions.remove(uid);
        let host = self.snapshot.forget(uid);
        self.wake(host)
    }

    /// The VM, which has no host, is not to be given one any more: it was halted, or is being deleted. An attempt of
    /// which nobody knows how it ended was made on an older version of the VM: had it been carried out, this version
    /// would show it, and now the server refuses it.
    pub fn abandoned(&mut self, uid: &str) -> Wake {
        self.waiting.remove(uid);
        self.refused(uid)
    }

    /// Takes in a change of a VM.
    pub fn vm_changed(&mut self, change: &Change<VM>) -> Wake {
        let freed = match (&change.old, &change.new) {
            (_, Some(vm)) => {
                if vm.status.as_ref().is_some_and(|status| status.binding.is_some()) {
                    self.waiting.remove(uid_of(&**vm));
                    self.versions.remove(uid_of(&**vm));
                }
                self.snapshot.set_vm(vm)
            }
            (Some(vm), None) => {
                self.waiting.remove(uid_of(&**vm));
                self.versions.remove(uid_of(&**vm));
                self.snapshot.remove_vm(uid_of(&**vm))
            }
            (None, None) => None,
        };
        self.wake(freed)
    }

    /// Takes in a change of a host.
    pub fn host_changed(&mut self, name: &str, offer: Option<Offer>) -> Wake {
        let changed = self.snapshot.set_host(name, offer);
        self.wake(changed.then(|| name.to_owned()))
    }

    /// Takes in a change of a volume: who waits and names it decides again.
    pub fn volume_changed(&mut self, change: &Change<Volume>) -> Vec<ObjectRef<VM>> {
        let Some((namespace, name)) = self.volumes.changed(change) else { return Vec::new() };
        let named = |claim: &&Claim| claim.namespace == namespace && claim.volumes.contains_key(&name);
        self.waiting.values().filter(named).map(reference).collect()
    }

    /// Takes in a change of an image: who waits and needs it decides again.
    pub fn image_changed(&mut self, change: &Change<Image>) -> Vec<ObjectRef<VM>> {
        let Some(key) = self.volumes.image_changed(change) else { return Vec::new() };
        let needs = |claim: &&Claim| claim.images.contains(&key) || !claim.volumes.is_empty();
        self.waiting.values().filter(needs).map(reference).collect()
    }

    /// Takes in a change of a pool: it may be another host's volumes that can be had, or only one host's.
    pub fn pool_changed(&mut self, change: &Change<StoragePool>) -> Vec<ObjectRef<VM>> {
        let matters = self.volumes.pool_changed(change);
        let concerned = |claim: &&Claim| matters && !(claim.volumes.is_empty() && claim.images.is_empty());
        self.waiting.values().filter(concerned).map(reference).collect()
    }

    /// All that wait.
    pub fn waiting(&self) -> Vec<ObjectRef<VM>> {
        self.waiting.values().map(reference).collect()
    }

    /// Who finds room on `host`: as many as fit there together, not all who would fit alone.
    fn wake(&self, host: Option<String>) -> Wake {
        let Some(host) = host.filter(|_| !self.waiting.is_empty()) else {
            return Wake::default();
        };
        let now = Trial::of(&self.snapshot, &host).map_or_else(Vec::new, |mut room| {
            self.waiting.values().filter(|claim| room.take(claim)).map(reference).collect()
        });
        Wake { now, others_later: true }
    }
}

fn reference(claim: &Claim) -> ObjectRef<VM> {
    object_ref(Some(&claim.namespace), &claim.name)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scheduler::testing::{host, vm, vm_with_volume, volume};

    fn new_host(state: &mut State, name: &str, cpus: u32) -> Wake {
        state.host_changed(name, Some(Offer::of(&host(name, cpus, 64))))
    }

    fn gone(vm: VM) -> Change<VM> {
        Change { old: Some(Arc::new(vm)), new: None }
    }

    #[test]
    fn room_wakes_as_many_as_fit_and_no_more() {
        let mut state = State::default();
        for name in ["a", "b", "c"] {
            assert!(matches!(state.decide(&vm(name, 2, 1, None)), Decision::Wait(NoFit::Unschedulable { .. })));
        }
        let wake = new_host(&mut state, "h1", 4);
        assert_eq!(wake.now.len(), 2, "4 CPUs are room for two");
        assert!(wake.others_later, "and the third has another reason now");
        assert_eq!(new_host(&mut state, "h1", 4), Wake::default(), "the same again is no news");
    }

    #[test]
    fn a_deleted_vm_makes_room_and_frees_its_mac_address() {
        let mut state = State::default();
        new_host(&mut state, "h1", 4);
        let mut first = vm("first", 1, 1, Some("h1"));
        let mut second = vm("second", 1, 1, None);
        for vm in [&mut first, &mut second] {
            vm.spec.networks[0].mac = "02:00:00:00:00:01".parse().ok();
        }
        state.vm_changed(&Change { old: None, new: Some(Arc::new(first.clone())) });
        assert!(matches!(state.decide(&second), Decision::Wait(NoFit::MacConflict { .. })));
        assert_eq!(state.vm_changed(&gone(first)).now.len(), 1);
        assert_eq!(state.decide(&second), Decision::Bind("h1".into()));
    }

    /// Pattern 7: the reply to a binding is lost. The same host is tried again, and takes the room once.
    #[test]
    fn a_lost_reply_keeps_host_and_room() {
        let mut state = State::default();
        new_host(&mut state, "h1", 4);
        new_host(&mut state, "h2", 4);
        let lost = vm("lost", 2, 1, None);
        let Decision::Bind(first) = state.decide(&lost) else { panic!("it fits") };
        assert_eq!(state.decide(&lost), Decision::Bind(first.clone()));
        assert_eq!(state.snapshot.taken(&first).cpus, 2);

        // changed since: an attempt on the old version is refused by the server, so any host will do
        let mut changed = vm("lost", 4, 1, None);
        changed.metadata.resource_version = Some("2".into());
        assert!(matches!(state.decide(&changed), Decision::Bind(_)));
        let total: u64 = ["h1", "h2"].iter().map(|host| state.snapshot.taken(host).cpus).sum();
        assert_eq!(total, 4);
    }

    #[test]
    fn what_the_server_has_bound_is_settled_before_its_watch_says_so() {
        let mut state = State::default();
        new_host(&mut state, "h1", 4);
        let vm = vm("a", 2, 1, None);
        state.decide(&vm);
        state.bound(&vm, "h1");
        assert_eq!(state.decide(&vm), Decision::Settled);
        assert_eq!(state.snapshot.taken("h1").cpus, 2);
    }

    #[test]
    fn a_refusal_gives_the_room_to_who_waits() {
        let mut state = State::default();
        new_host(&mut state, "h1", 2);
        state.decide(&vm("a", 2, 1, None));
        assert!(matches!(state.decide(&vm("b", 2, 1, None)), Decision::Wait(_)));
        let wake = state.refused("uid-a");
        assert_eq!(wake.now.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_volume_that_comes_wakes_those_that_name_it() {
        let mut state = State::default();
        new_host(&mut state, "h1", 4);
        let (web, other) = (vm_with_volume("web", "data"), vm_with_volume("other", "logs"));
        for vm in [&web, &other] {
            assert!(matches!(state.decide(vm), Decision::Wait(NoFit::VolumeNotFound(_))));
        }
        assert!(new_host(&mut state, "h2", 4).now.is_empty(), "a host does not help");
        let change = |host| Change { old: None, new: Some(Arc::new(volume("data", "default", host))) };
        let woken = state.volume_changed(&change(Some("h2")));
        assert_eq!(woken.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["web"]);
        assert_eq!(state.decide(&web), Decision::Bind("h2".into()), "where its volume is");
        assert!(state.volume_changed(&change(Some("h1"))).is_empty(), "it waits no longer");
    }

    #[test]
    fn a_halted_vm_waits_no_longer() {
        let mut state = State::default();
        state.decide(&vm("a", 2, 1, None));
        assert_eq!(state.waiting().len(), 1);
        assert_eq!(state.abandoned("uid-a"), Wake::default());
        assert!(state.waiting().is_empty());
    }

    #[test]
    fn a_vm_that_is_halted_before_its_binding_is_confirmed_gives_its_room_back() {
        let mut state = State::default();
        new_host(&mut state, "h1", 2);
        state.decide(&vm("a", 2, 1, None));
        assert!(matches!(state.decide(&vm("b", 2, 1, None)), Decision::Wait(_)));
        assert_eq!(state.abandoned("uid-a").now.len(), 1, "b has found room");
        assert_eq!(state.snapshot.taken("h1").cpus, 0);

        state.vm_changed(&Change { old: None, new: Some(Arc::new(vm("c", 2, 1, Some("h1")))) });
        state.abandoned("uid-c");
        assert_eq!(state.snapshot.taken("h1").cpus, 2, "what is bound stays");
    }

    /// 5,000 VMs over 500 hosts take far less than the minute that they may.
    #[test]
    fn decides_for_thousands_of_vms_in_seconds() {
        let mut state = State::default();
        for n in 0..500 {
            new_host(&mut state, &format!("h{n:03}"), 20);
        }
        let start = std::time::Instant::now();
        for n in 0..5000 {
            assert!(matches!(state.decide(&vm(&n.to_string(), 2, 1, None)), Decision::Bind(_)));
        }
        assert!(start.elapsed().as_secs() < 20, "took {:?}", start.elapsed());
        for n in 0..500 {
            assert_eq!(state.snapshot.taken(&format!("h{n:03}")).cpus, 20, "spread evenly");
        }
    }
}
