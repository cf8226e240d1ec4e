//! Which host a VM goes to, and why it goes to none. Pure.
//!
//! Filter, then score. Each host that does not fit is counted once, by the first thing that it lacks, in the order in
//! which a person would ask: is it there at all, is it meant for this, has it room. Of the hosts that fit, the one with the
//! largest share of free room is taken (least allocated, so VMs spread); names decide between equals.

use std::collections::{BTreeMap, HashSet};

use ucloud_types::Quantity;

use super::{
    claim::{Claim, Missing, Nic, Offer, WhyMissing},
    snapshot::{Snapshot, Taken},
};

/// Why a VM gets no host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoFit {
    /// Another VM has the MAC address of one of its interfaces in the same network.
    MacConflict {
        /// The interface.
        nic: Nic,
        /// The other VM's name, in the same namespace.
        other: String,
    },
    /// One of its Volumes is not to be had.
    VolumeNotFound(Missing),
    /// No host fits.
    Unschedulable {
        /// Why, for a person.
        message: String,
    },
}

impl NoFit {
    /// The reason for the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::MacConflict { .. } => "MacConflict",
            Self::VolumeNotFound(Missing { why: WhyMissing::SourceNotTaken | WhyMissing::NotAdopted, .. }) => {
                "VolumeNotReady"
            }
            Self::VolumeNotFound(_) => "VolumeNotFound",
            Self::Unschedulable { .. } => "Unschedulable",
        }
    }

    /// The message for the condition.
    pub fn message(&self) -> String {
        match self {
            Self::MacConflict { nic, other } => format!(
                "VM {}/{other} already uses the MAC address {} in network {}: give this VM another one, or delete that VM",
                nic.namespace, nic.mac, nic.network
            ),
            Self::VolumeNotFound(Missing { disk, volume, why }) => {
                let how = match why {
                    WhyMissing::Absent => "does not exist: create it, or name another volume",
                    WhyMissing::Deleting => "is being deleted: create it, or name another volume",
                    WhyMissing::NotAdopted => "has yet to be made of an Orphan: see the Volume",
                    WhyMissing::SourceNotTaken => "waits for the snapshot that it is made of: see the Volume",
                };
                format!("disk {disk} needs Volume {volume}, which {how}")
            }
            Self::Unschedulable { message } => message.clone(),
        }
    }
}

/// What a host lacks. Ordered as hosts are asked.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    Ready,
    Role,
    Schedulable,
    Label(String),
    Pool(String),
    /// A volume, which is on another host.
    Bytes(String, String),
    Cpus,
    Memory,
}

/// What is free of a host: CPUs and bytes of memory.
fn free(offer: &Offer, taken: Taken) -> (u64, u64) {
    (
        u64::from(offer.allocatable.cpus).saturating_sub(taken.cpus),
        offer.allocatable.memory.bytes().saturating_sub(taken.memory),
    )
}

fn lack(claim: &Claim, (host, offer): (&str, &Offer), (cpus, memory): (u64, u64)) -> Option<Lack> {
    if !offer.ready {
        return Some(Lack::Ready);
    }
    if !offer.compute {
        return Some(Lack::Role);
    }
    if offer.unschedulable {
        return Some(Lack::Schedulable);
    }
    if let Some((key, value)) = claim.selector.iter().find(|(key, value)| offer.labels.get(*key) != Some(value)) {
        return Some(Lack::Label(format!("{key}={value}")));
    }
    if let Some(pool) = claim.pools.iter().find(|pool| !offer.pools.contains(*pool)) {
        return Some(Lack::Pool(pool.clone()));
    }
    if let Some((what, elsewhere)) = claim.pins.iter().find(|(_, pinned)| *pinned != host) {
        return Some(Lack::Bytes(what.clone(), elsewhere.clone()));
    }
    if claim.cpus > cpus {
        return Some(Lack::Cpus);
    }
    (claim.memory > memory).then_some(Lack::Memory)
}

/// The mean share of CPUs and of memory that would be free with the VM on the host, from 0 to 1.
#[allow(clippy::cast_precision_loss, reason = "shares are only compared with each other")]
fn score(claim: &Claim, offer: &Offer, (cpus, memory): (u64, u64)) -> f64 {
    let share = |free: u64, claim: u64, all: u64| free.saturating_sub(claim) as f64 / all.max(1) as f64;
    let cpus = share(cpus, claim.cpus, offer.allocatable.cpus.into());
    let memory = share(memory, claim.memory, offer.allocatable.memory.bytes());
    f64::midpoint(cpus, memory)
}

fn mac_conflict(snapshot: &Snapshot, claim: &Claim) -> Option<NoFit> {
    claim.nics.iter().find_map(|nic| {
        let other = snapshot.owner_of(nic, &claim.uid)?;
        Some(NoFit::MacConflict { nic: nic.clone(), other: other.name.clone() })
    })
}

/// The room of one host, as one VM after the other would fill it.
pub struct Trial<'a> {
    snapshot: &'a Snapshot,
    host: &'a str,
    offer: &'a Offer,
    taken: Taken,
    nics: HashSet<&'a Nic>,
}

impl<'a> Trial<'a> {
    /// The room of `host` as it is; none if there is no such host.
    pub fn of(snapshot: &'a Snapshot, host: &str) -> Option<Self> {
        let (host, offer) = snapshot.hosts().get_key_value(host)?;
        Some(Self { snapshot, host, offer, taken: snapshot.taken(host), nics: HashSet::new() })
    }

    /// Whether the VM fits as well, together with those before it.
    pub fn take(&mut self, claim: &'a Claim) -> bool {
        let fits = lack(claim, (self.host, self.offer), free(self.offer, self.taken)).is_none()
            && claim.missing.is_none()
            && mac_conflict(self.snapshot, claim).is_none()
            && claim.nics.iter().all(|nic| !self.nics.contains(nic));
        if fits {
            self.taken.cpus += claim.cpus;
            self.taken.memory += claim.memory;
            self.nics.extend(&claim.nics);
        }
        fits
    }
}

/// The host for the VM.
pub fn choose(snapshot: &Snapshot, claim: &Claim) -> Result<String, NoFit> {
    if let Some(conflict) = mac_conflict(snapshot, claim) {
        return Err(conflict);
    }
    if let Some(missing) = &claim.missing {
        return Err(NoFit::VolumeNotFound(missing.clone()));
    }
    let mut lacks = Lacks::default();
    let mut best: Option<(&String, f64)> = None;
    for (name, offer) in snapshot.hosts() {
        let free = free(offer, snapshot.taken(name));
        if let Some(lack) = lack(claim, (name, offer), free) {
            lacks.add(lack, free);
            continue;
        }
        let score = score(claim, offer, free);
        if best.is_none_or(|(_, most)| score > most) {
            best = Some((name, score));
        }
    }
    match best {
        Some((name, _)) => Ok(name.clone()),
        None => Err(NoFit::Unschedulable { message: lacks.message(claim) }),
    }
}

#[derive(Default)]
struct Lacks {
    counts: BTreeMap<Lack, usize>,
    most_cpus: u64,
    most_memory: u64,
}

impl Lacks {
    fn add(&mut self, lack: Lack, (cpus, memory): (u64, u64)) {
        match lack {
            Lack::Cpus => self.most_cpus = self.most_cpus.max(cpus),
            Lack::Memory => self.most_memory = self.most_memory.max(memory),
            _ => {}
        }
        *self.counts.entry(lack).or_default() += 1;
    }

    fn message(&self, claim: &Claim) -> String {
        let hosts: usize = self.counts.values().sum();
        if hosts == 0 {
            return "there are no hosts: start ucloud-agent on a machine that is to run VMs".to_owned();
        }
        let mut lines: Vec<_> = self.counts.iter().collect();
        // the commonest first; equals in the order in which hosts are asked
        lines.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let lines: Vec<_> = lines.into_iter().map(|(lack, count)| self.line(claim, lack, *count)).collect();
        format!("0/{hosts} hosts fit: {}", lines.join(", "))
    }

    fn line(&self, claim: &Claim, lack: &Lack, count: usize) -> String {
        let (is, lacks) = if count == 1 { ("is", "lacks") } else { ("are", "lack") };
        match lack {
            Lack::Ready => format!("{count} {is} not Ready"),
            Lack::Role => format!("{count} {lacks} the role compute"),
            Lack::Schedulable => format!("{count} {is} unschedulable"),
            Lack::Label(label) => format!("{count} {lacks} the label {label}"),
            Lack::Pool(pool) => format!("{count} {lacks} the pool {pool}"),
            Lack::Bytes(what, host) => format!("{count} {lacks} {what}, which is on host {host}"),
            Lack::Cpus => format!("{count} {lacks} CPUs (need {}, most free {})", claim.cpus, self.most_cpus),
            Lack::Memory => format!(
                "{count} {lacks} memory (need {}, most free {})",
                rounded(claim.memory),
                rounded(self.most_memory)
            ),
        }
    }
}

/// An amount that a person can compare: whole MiB where it has any, rounded down.
fn rounded(bytes: u64) -> Quantity {
    const MIB: u64 = 1 << 20;
    Quantity::from_bytes(if bytes < MIB { bytes } else { bytes / MIB * MIB })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::testing::{host, vm, vm_with_volume};

    fn snapshot(hosts: &[ucloud_types::Host]) -> Snapshot {
        let mut snapshot = Snapshot::default();
        for host in hosts {
            snapshot.set_host(host.metadata.name.as_deref().unwrap(), Some(Offer::of(host)));
        }
        snapshot
    }

    fn why(snapshot: &Snapshot, vm: &ucloud_types::VM) -> String {
        choose(snapshot, &Claim::of(vm)).unwrap_err().message()
    }

    #[test]
    fn counts_hosts_by_what_they_lack() {
        let mut hosts = vec![host("a", 8, 1), host("b", 8, 2), host("c", 8, 2), host("d", 8, 64), host("e", 8, 64)];
        for host in &mut hosts[..4] {
            host.metadata.labels = Some([("zone".to_owned(), "a".to_owned())].into());
        }
        hosts[3].status.as_mut().unwrap().conditions.clear();
        let mut vm = vm("v", 1, 4, None);
        vm.spec.host_selector = [("zone".to_owned(), "a".to_owned())].into();
        assert_eq!(
            why(&snapshot(&hosts), &vm),
            "0/5 hosts fit: 3 lack memory (need 4Gi, most free 2Gi), 1 is not Ready, 1 lacks the label zone=a"
        );
    }

    #[test]
    fn every_lack_is_named() {
        let lacking = |change: &dyn Fn(&mut ucloud_types::Host)| {
            let mut host = host("a", 8, 64);
            change(&mut host);
            why(&snapshot(&[host]), &vm("v", 4, 4, None))
        };
        assert_eq!(lacking(&|h| h.spec.roles.clear()), "0/1 hosts fit: 1 lacks the role compute");
        assert_eq!(lacking(&|h| h.spec.unschedulable = true), "0/1 hosts fit: 1 is unschedulable");
        let no_pool = "0/1 hosts fit: 1 lacks the pool default";
        assert_eq!(lacking(&|h| h.status.as_mut().unwrap().pools.clear()), no_pool);
        let broken = |h: &mut ucloud_types::Host| h.status.as_mut().unwrap().pools[0].error = Some("full".into());
        assert_eq!(lacking(&broken), no_pool);
        let small = |h: &mut ucloud_types::Host| h.status.as_mut().unwrap().allocatable.as_mut().unwrap().cpus = 2;
        assert_eq!(lacking(&small), "0/1 hosts fit: 1 lacks CPUs (need 4, most free 2)");
        assert_eq!(
            lacking(&|h| h.status = None),
            "0/1 hosts fit: 1 is not Ready",
            "a host that has not reported yet offers nothing"
        );
        assert_eq!(
            why(&snapshot(&[]), &vm("v", 4, 4, None)),
            "there are no hosts: start ucloud-agent on a machine that is to run VMs"
        );
    }

    #[test]
    fn a_volume_is_where_it_is() {
        let snapshot = snapshot(&[host("a", 8, 64), host("b", 8, 64), host("c", 8, 64)]);
        let mut claim = Claim::of(&vm_with_volume("v", "data"));
        claim.pins.insert("Volume data".into(), "b".into());
        assert_eq!(choose(&snapshot, &claim), Ok("b".into()));
        assert!(!Trial::of(&snapshot, "a").unwrap().take(&claim) && Trial::of(&snapshot, "b").unwrap().take(&claim));
        claim.cpus = 9;
        let message = choose(&snapshot, &claim).unwrap_err().message();
        assert_eq!(
            message,
            "0/3 hosts fit: 2 lack Volume data, which is on host b, 1 lacks CPUs (need 9, most free 8)"
        );
        claim.missing = Some(Missing { disk: "d".into(), volume: "data".into(), why: WhyMissing::Absent });
        let no_fit = choose(&snapshot, &claim).unwrap_err();
        assert_eq!(no_fit.reason(), "VolumeNotFound");
        let words = "disk d needs Volume data, which does not exist: create it, or name another volume";
        assert_eq!(no_fit.message(), words);
        claim.cpus = 1;
        assert!(!Trial::of(&snapshot, "b").unwrap().take(&claim), "it takes no room from others");
    }

    #[test]
    fn ten_tebibytes_say_so() {
        let message = why(&snapshot(&[host("a", 8, 64)]), &vm("v", 1, 10 * 1024, None));
        assert_eq!(message, "0/1 hosts fit: 1 lacks memory (need 10Ti, most free 64Gi)");
    }

    #[test]
    fn spreads_by_free_share_and_then_by_name() {
        let mut snapshot = snapshot(&[host("a", 8, 8), host("b", 8, 8), host("big", 16, 16)]);
        let mut order = Vec::new();
        for name in ["1", "2", "3", "4"] {
            let claim = Claim::of(&vm(name, 2, 2, None));
            let host = choose(&snapshot, &claim).unwrap();
            snapshot.assume(claim, &host);
            order.push(host);
        }
        assert_eq!(order, ["big", "a", "b", "big"]);
    }

    #[test]
    fn room_is_what_is_not_bound_or_assumed() {
        let mut snapshot = snapshot(&[host("a", 4, 8)]);
        snapshot.set_vm(&vm("bound", 2, 1, Some("a")));
        snapshot.assume(Claim::of(&vm("assumed", 1, 1, None)), "a");
        assert_eq!(choose(&snapshot, &Claim::of(&vm("one", 1, 6, None))), Ok("a".into()));
        assert_eq!(why(&snapshot, &vm("two", 2, 1, None)), "0/1 hosts fit: 1 lacks CPUs (need 2, most free 1)");
    }

    #[test]
    fn a_mac_address_is_had_once_in_a_network() {
        let mut snapshot = snapshot(&[host("a", 8, 64)]);
        let mac = "02:00:00:00:00:01".parse().ok();
        let with_mac = |name: &str, namespace: &str, network: &str| {
            let mut vm = vm(name, 1, 1, None);
            vm.metadata.namespace = Some(namespace.into());
            vm.spec.networks[0].mac = mac;
            vm.spec.networks[0].network = network.into();
            vm
        };
        snapshot.assume(Claim::of(&with_mac("first", "p", "n")), "a");
        assert_eq!(
            why(&snapshot, &with_mac("second", "p", "n")),
            "VM p/first already uses the MAC address 02:00:00:00:00:01 in network n: \
             give this VM another one, or delete that VM"
        );
        for other in [with_mac("second", "p", "n2"), with_mac("second", "q", "n"), with_mac("first", "p", "n")] {
            assert!(choose(&snapshot, &Claim::of(&other)).is_ok(), "another network, or the VM itself");
        }
    }
}
