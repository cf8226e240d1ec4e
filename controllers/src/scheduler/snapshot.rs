//! The scheduler's picture of the installation: what hosts offer, and what VMs take of them.
//!
//! It is kept up to date by the events of the watches, one at a time. A VM takes room from the moment the scheduler
//! decides on a host (`Assumed`), long before the server tells that it is bound (`Bound`), so that many VMs can be bound
//! at once without two of them getting the same room.
//!
//! A bound VM takes its room until it is gone, whether it runs or not: it stays where its disks are, and must be able to
//! start there at any time.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ucloud_types::VM;

use super::claim::{Claim, Nic, Offer, may_run_as_before};
use crate::runtime::uid_of;

/// How sure it is that a VM has its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The scheduler has decided so; the server has not confirmed it yet.
    Assumed,
    /// The VM's status says so.
    Bound,
}

/// A VM on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// What the VM takes.
    pub claim: Claim,
    /// Of which host.
    pub host: String,
    /// How sure that is.
    pub hold: Hold,
}

/// What VMs take of one host together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Virtual CPUs.
    pub cpus: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// The number of VMs.
    pub vms: u32,
}

/// Hosts, and what is taken of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    hosts: BTreeMap<String, Offer>,
    placements: HashMap<String, Placement>,
    /// Sums of `placements`; hosts that are not (or no longer) there may have some too.
    taken: HashMap<String, Taken>,
    /// The UIDs of the placed VMs that have this interface. More than one only where specs were changed later.
    nics: HashMap<Nic, BTreeSet<String>>,
}

impl Snapshot {
    /// All hosts, by name.
    pub fn hosts(&self) -> &BTreeMap<String, Offer> {
        &self.hosts
    }

    /// What VMs take of the host.
    pub fn taken(&self, host: &str) -> Taken {
        self.taken.get(host).copied().unwrap_or_default()
    }

    /// Where the VM with this UID is.
    pub fn placement(&self, uid: &str) -> Option<&Placement> {
        self.placements.get(uid)
    }

    /// A placed VM, other than the one with this UID, that has this interface.
    pub fn owner_of(&self, nic: &Nic, but: &str) -> Option<&Claim> {
        let uid = self.nics.get(nic)?.iter().find(|uid| *uid != but)?;
        self.placements.get(uid).map(|placement| &placement.claim)
    }

    /// Takes in a host; none if it is gone. Tells whether that changed anything.
    pub fn set_host(&mut self, name: &str, offer: Option<Offer>) -> bool {
        match offer {
            Some(offer) => self.hosts.insert(name.to_owned(), offer.clone()) != Some(offer),
            None => self.hosts.remove(name).is_some(),
        }
    }

    /// Takes in a VM as its watch shows it. Tells the host on which less is taken than before, if there is one.
    ///
    /// A VM that the event shows without a binding keeps the host that it has here: the event may be older than the
    /// decision, and what is bound is never unbound. A VM whose spec was made smaller while it runs takes what it took
    /// until it has been restarted.
    pub fn set_vm(&mut self, vm: &VM) -> Option<String> {
        let uid = uid_of(vm);
        let before = self.placements.get(uid);
        let (host, hold) = match (vm.status.as_ref().and_then(|status| status.binding.as_ref()), before) {
            (Some(binding), _) => (binding.host.clone(), Hold::Bound),
            (None, Some(placement)) => (placement.host.clone(), placement.hold),
            (None, None) => return None,
        };
        let claim = match before {
            Some(before) if may_run_as_before(vm) => Claim::of(vm).or_as_before(&before.claim),
            _ => Claim::of(vm),
        };
        let now = Placement { claim, host, hold };
        let less = before
            .filter(|before| before.host != now.host || frees(&before.claim, &now.claim))
            .map(|before| before.host.clone());
        self.place(now);
        less
    }

    /// The scheduler has decided that the VM goes there.
    pub fn assume(&mut self, claim: Claim, host: &str) {
        self.place(Placement { claim, host: host.to_owned(), hold: Hold::Assumed });
    }

    /// The server has bound the VM, and its watch is about to say so. Tells on which host less is taken than before.
    pub fn confirm(&mut self, claim: Claim, host: &str) -> Option<String> {
        let before = self.placements.get(&claim.uid).map(|placement| placement.host.clone());
        self.place(Placement { claim, host: host.to_owned(), hold: Hold::Bound });
        before.filter(|before| before != host)
    }

    /// The decision came to nothing. What is bound stays. Tells on which host less is taken than before.
    pub fn forget(&mut self, uid: &str) -> Option<String> {
        let assumed = self.placements.get(uid).is_some_and(|placement| placement.hold == Hold::Assumed);
        if assumed { self.remove_vm(uid) } else { None }
    }

    /// The VM is gone. Tells on which host less is taken than before.
    pub fn remove_vm(&mut self, uid: &str) -> Option<String> {
        let placement = self.placements.remove(uid)?;
        if let Some(taken) = self.taken.get_mut(&placement.host) {
            taken.cpus -= placement.claim.cpus;
            taken.memory -= placement.claim.memory;
            taken.vms -= 1;
            if taken.vms == 0 {
                self.taken.remove(&placement.host);
            }
        }
        for nic in &placement.claim.nics {
            if let Some(uids) = self.nics.get_mut(nic) {
                uids.remove(uid);
                if uids.is_empty() {
                    self.nics.remove(nic);
                }
            }
        }
        Some(placement.host)
    }

    fn place(&mut self, placement: Placement) {
        let uid = placement.claim.uid.clone();
        self.remove_vm(&uid);
        let taken = self.taken.entry(placement.host.clone()).or_default();
        taken.cpus += placement.claim.cpus;
        taken.memory += placement.claim.memory;
        taken.vms += 1;
        for nic in &placement.claim.nics {
            self.nics.entry(nic.clone()).or_default().insert(uid.clone());
        }
        self.placements.insert(uid, placement);
    }
}

/// Whether `now` takes less of anything than `before`.
fn frees(before: &Claim, now: &Claim) -> bool {
    now.cpus < before.cpus || now.memory < before.memory || !before.nics.is_subset(&now.nics)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use proptest::prelude::*;
    use ucloud_types::condition::{self, Finding, RESTART_REQUIRED, Verdict};

    use super::*;
    use crate::scheduler::testing::{host, vm};

    #[test]
    fn an_assumed_vm_stays_until_it_is_bound_forgotten_or_gone() {
        let mut snapshot = Snapshot::default();
        let unbound = vm("a", 2, 4, None);
        snapshot.assume(Claim::of(&unbound), "h1");
        assert_eq!(snapshot.set_vm(&unbound), None, "an event from before the decision changes nothing");
        assert_eq!(snapshot.taken("h1").cpus, 2);

        // the server has another host: whatever the reply was, its word counts
        assert_eq!(snapshot.set_vm(&vm("a", 2, 4, Some("h2"))), Some("h1".into()));
        assert_eq!((snapshot.taken("h1").cpus, snapshot.taken("h2").cpus), (0, 2));
        assert_eq!(snapshot.forget("uid-a"), None, "what is bound is not forgotten");
        assert_eq!(snapshot.remove_vm("uid-a"), Some("h2".into()));
        assert_eq!(snapshot, Snapshot::default());
    }

    #[test]
    fn only_what_frees_something_is_told() {
        let mut snapshot = Snapshot::default();
        assert_eq!(snapshot.set_vm(&vm("a", 2, 4, Some("h1"))), None);
        assert_eq!(snapshot.set_vm(&vm("a", 3, 4, Some("h1"))), None);
        assert_eq!(snapshot.set_vm(&vm("a", 3, 2, Some("h1"))), Some("h1".into()));
        assert!(snapshot.set_host("h1", Some(Offer::of(&host("h1", 4, 8)))));
        assert!(!snapshot.set_host("h1", Some(Offer::of(&host("h1", 4, 8)))), "a heartbeat is no news");
    }

    #[test]
    fn a_vm_that_is_made_smaller_takes_what_it_took_until_it_is_restarted() {
        let mut snapshot = Snapshot::default();
        let changed = |cpus: u32, seen: i64, restart: bool| {
            let mut vm = vm("a", cpus, 4, Some("h1"));
            vm.metadata.generation = Some(2);
            let status = vm.status.get_or_insert_default();
            status.observed_generation = Some(seen);
            let verdict = if restart { Verdict::True } else { Verdict::False };
            let finding = Finding::new(RESTART_REQUIRED, verdict, "SpecChanged", "");
            condition::set(&mut status.conditions, &finding, None, Timestamp::UNIX_EPOCH);
            vm
        };
        snapshot.set_vm(&changed(8, 2, false));
        assert_eq!(snapshot.set_vm(&changed(2, 1, false)), None, "the agent has not seen it");
        assert_eq!(snapshot.set_vm(&changed(2, 2, true)), None, "it runs with 8 CPUs");
        assert_eq!(snapshot.taken("h1").cpus, 8);
        assert_eq!(snapshot.set_vm(&changed(2, 2, false)), Some("h1".into()));
        assert_eq!(snapshot.taken("h1").cpus, 2);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Host(u8, Option<u8>),
        Vm { name: u8, cpus: u8, host: Option<u8>, network: u8 },
        Remove(u8),
        Assume { name: u8, host: u8 },
        Forget(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (hosts, vms) = (0..4u8, 0..6u8);
        prop_oneof![
            (hosts.clone(), proptest::option::of(1..9u8)).prop_map(|(name, cpus)| Step::Host(name, cpus)),
            (vms.clone(), 1..9u8, proptest::option::of(hosts.clone()), 0..2u8)
                .prop_map(|(name, cpus, host, network)| Step::Vm { name, cpus, host, network }),
            vms.clone().prop_map(Step::Remove),
            (vms.clone(), hosts).prop_map(|(name, host)| Step::Assume { name, host }),
            vms.prop_map(Step::Forget),
        ]
    }

    proptest! {
        /// Whatever happened in whatever order, the sums are those that one would get by counting anew.
        #[test]
        fn incremental_equals_recomputed(steps in proptest::collection::vec(step(), 1..80)) {
            let mut snapshot = Snapshot::default();
            let mut hosts = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Host(name, Some(cpus)) => {
                        let offer = Offer::of(&host(&format!("h{name}"), cpus.into(), 8));
                        hosts.insert(format!("h{name}"), offer.clone());
                        snapshot.set_host(&format!("h{name}"), Some(offer));
                    }
                    Step::Host(name, None) => {
                        hosts.remove(&format!("h{name}"));
                        snapshot.set_host(&format!("h{name}"), None);
                    }
                    Step::Vm { name, cpus, host, network } => {
                        let host = host.map(|h| format!("h{h}"));
                        let mut vm = vm(&name.to_string(), cpus.into(), 1, host.as_deref());
                        vm.spec.networks[0].network = format!("n{network}");
                        snapshot.set_vm(&vm);
                    }
                    Step::Remove(name) => drop(snapshot.remove_vm(&format!("uid-{name}"))),
                    Step::Assume { name, host } => {
                        snapshot.assume(Claim::of(&vm(&name.to_string(), 1, 1, None)), &format!("h{host}"));
                    }
                    Step::Forget(name) => drop(snapshot.forget(&format!("uid-{name}"))),
                }
            }
            let mut recomputed = Snapshot { hosts, ..Snapshot::default() };
            for placement in snapshot.placements.values() {
                recomputed.place(placement.clone());
            }
            prop_assert_eq!(snapshot, recomputed);
        }
    }
}
