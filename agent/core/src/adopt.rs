//! What an agent makes of what it finds on its host: what must not go on, and what belongs to nobody.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    hypervisor::{Domain, DomainState},
    vm::{Desired, FoundDisk},
};

/// The UIDs of the domains that run under a binding that is over. They are destroyed before an agent that starts
/// does anything else. `epochs` has the epoch of each VM that is bound to this host, by UID; a domain of which
/// nothing is known there is left alone.
pub fn superseded(domains: &[Domain], epochs: &BTreeMap<String, u64>) -> Vec<String> {
    domains
        .iter()
        .filter(|domain| !matches!(domain.state, DomainState::Off(_)))
        .filter(|domain| epochs.get(&domain.spec.uid).is_some_and(|epoch| *epoch > domain.spec.epoch))
        .map(|domain| domain.spec.uid.clone())
        .collect()
}

/// The names of the domains and disks that belong to no VM of this host. They are reported, never removed: a list
/// of VMs that is wrong must not cost anybody's data. Disks that all hosts see may be other hosts' VMs', of which this one
/// knows nothing. `volumes` are the UIDs of all Volumes.
pub fn orphans(domains: &[Domain], disks: &[FoundDisk], vms: &[Desired], volumes: &BTreeSet<&str>) -> Vec<String> {
    let known: BTreeSet<&str> = vms.iter().map(|vm| vm.uid.as_str()).collect();
    let domains = domains
        .iter()
        .filter(|domain| !known.contains(domain.spec.uid.as_str()))
        .map(|domain| format!("domain {} ({}/{})", domain.spec.uid, domain.spec.namespace, domain.spec.name));
    let disks = disks
        .iter()
        .filter(|disk| !disk.pool.backend.is_shared())
        .filter(|disk| [&known, volumes].iter().all(|known| !known.contains(disk.id.owner_uid.as_str())))
        .map(|disk| format!("disk {} of {} in pool {}", disk.id.name, disk.id.owner_uid, disk.pool.name));
    let all: BTreeSet<_> = domains.chain(disks).collect();
    all.into_iter().collect()
}

/// The same of the bytes of Files, which are given as the names of their pools and their UIDs. `known` are the UIDs of the
/// Files that this host keeps.
pub fn orphaned_files(found: &[(String, String)], known: &[&str]) -> Vec<String> {
    let unknown = found.iter().filter(|(_, uid)| !known.contains(&uid.as_str()));
    let names: BTreeSet<_> = unknown.map(|(pool, uid)| format!("file {uid} in pool {pool}")).collect();
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        block_store::{DiskId, Pool, PoolBackend, RbdPool},
        hypervisor::{DomainSpec, StopReason},
    };

    fn domain(uid: &str, epoch: u64, state: DomainState) -> Domain {
        let spec = DomainSpec {
            uid: uid.into(),
            namespace: "default".into(),
            name: "web".into(),
            epoch,
            power_request: 0,
            cpus: 1,
            memory: "1Gi".parse().unwrap(),
            disks: Vec::new(),
            interfaces: Vec::new(),
            standstill: false,
        };
        Domain { spec, state }
    }

    #[test]
    fn only_running_domains_of_known_vms_at_older_epochs_are_superseded() {
        let domains = [
            domain("old", 1, DomainState::Running),
            domain("paused", 1, DomainState::Paused),
            domain("off", 1, DomainState::Off(StopReason::Crashed)),
            domain("current", 2, DomainState::Running),
            domain("newer", 3, DomainState::Running),
            domain("unknown", 1, DomainState::Running),
        ];
        let epochs = ["old", "paused", "off", "current", "newer"].map(|uid| (uid.to_owned(), 2)).into();
        assert_eq!(superseded(&domains, &epochs), ["old", "paused"]);
        assert_eq!(superseded(&domains, &BTreeMap::new()), [""; 0], "an empty list stops nothing");
    }

    #[test]
    fn what_belongs_to_no_file_is_named() {
        let found = ["kept", "lost"].map(|uid| ("default".to_owned(), uid.to_owned()));
        assert_eq!(orphaned_files(&found, &["kept"]), ["file lost in pool default"]);
    }

    #[test]
    fn what_belongs_to_no_vm_is_named() {
        let ceph = RbdPool { pool: "vms".into(), user: "ucloud".into(), conf: "/etc/ceph/ceph.conf".into() };
        let disks =
            [PoolBackend::Directory { path: "/pool".into() }, PoolBackend::Rbd(ceph)].map(|backend| FoundDisk {
                pool: Pool { name: "default".into(), backend },
                id: DiskId { owner_uid: "lost".into(), name: "root".into() },
            });
        assert_eq!(
            orphans(&[domain("lost", 1, DomainState::Running)], &disks, &[], &BTreeSet::from(["volume-uid"])),
            ["disk root of lost in pool default", "domain lost (default/web)"]
        );
    }
}
