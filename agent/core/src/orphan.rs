//! What is found on a host, and in its pools, that belongs to no object: what is reported of it, and what is to be done.

use std::collections::BTreeMap;

use ucloud_types::{
    Orphan, Quantity, StoragePool,
    orphan::{HostOrphan, MOST_ORPHANS, OrphanKind, OrphanPhase},
};

use crate::{
    block_store::DiskId,
    hypervisor::{Domain, DomainState},
};

/// Where things are found: the host itself (None), or a pool.
pub type Place = Option<String>;

/// What was found in each place that the host looks after; none where nobody could tell.
pub type Looked = BTreeMap<Place, Option<Vec<HostOrphan>>>;

/// Whether a thing of this name can be ours: UIDs and names of disks have lower-case letters, digits and hyphens. What bears
/// another name is not ours, and is never touched.
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(fits)
}

/// The domain, for a report.
pub fn of_domain(domain: &Domain) -> HostOrphan {
    HostOrphan {
        origin: Some(format!("{}/{}", domain.spec.namespace, domain.spec.name)),
        size: Some(domain.spec.memory),
        ..HostOrphan::new(OrphanKind::Domain, &domain.spec.uid)
    }
}

/// A disk in this pool, for a report.
pub fn of_disk(pool: &str, disk: &DiskId) -> HostOrphan {
    HostOrphan { name: Some(disk.name.clone()), ..in_pool(OrphanKind::Disk, pool, &disk.owner_uid) }
}

/// An image or a File in this pool, for a report.
pub fn in_pool(kind: OrphanKind, pool: &str, uid: &str) -> HostOrphan {
    HostOrphan { pool: Some(pool.to_owned()), ..HostOrphan::new(kind, uid) }
}

/// The disk that it is.
pub fn disk_id(orphan: &HostOrphan) -> Option<DiskId> {
    let name = orphan.name.clone().filter(|_| orphan.kind == OrphanKind::Disk)?;
    Some(DiskId { owner_uid: orphan.uid.clone(), name })
}

/// What the host is to report that has reported `current` before. Where nobody could tell, what was reported stands. There is
/// room for so many; those that were reported before are.
pub fn report(current: &[HostOrphan], looked: &Looked) -> Vec<HostOrphan> {
    let is_known = |found: &HostOrphan| current.iter().any(|known| known.is(found));
    let mut all: Vec<_> = looked.values().flatten().flatten().cloned().collect();
    let unclear = |orphan: &&HostOrphan| looked.get(&orphan.pool).is_some_and(Option::is_none);
    all.extend(current.iter().filter(unclear).cloned());
    let order = |orphan: &HostOrphan| (orphan.kind, orphan.uid.clone(), orphan.name.clone(), orphan.pool.clone());
    all.sort_by_cached_key(|orphan| (!is_known(orphan), order(orphan)));
    all.truncate(MOST_ORPHANS);
    all.sort_by_cached_key(order);
    all
}

/// Whether the report has all that is in this pool, as it was before a look that may have failed.
pub fn is_surveyed(before: bool, looked: &Looked, pool: &str) -> bool {
    match looked.get(&Some(pool.to_owned())) {
        Some(Some(_)) => true,
        Some(None) => before,
        None => false,
    }
}

/// Whether this host looks for orphans in the pool: in its own directory, and where all hosts see the same if it is the one.
pub fn is_surveyor(pool: &StoragePool, host: &str) -> bool {
    let surveyor = pool.status.as_ref().and_then(|status| status.surveyor.as_deref());
    !pool.spec.is_shared() || surveyor == Some(host)
}

/// What a host is to do with an orphan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// To destroy it.
    Destroy,
    /// To give it to a Volume.
    Adopt {
        /// The Volume's namespace.
        namespace: String,
        /// The Volume's name.
        volume: String,
        /// The Volume's UID.
        uid: String,
    },
}

/// What the host with this name is to do with it, if anything.
pub fn order(orphan: &Orphan, host: &str) -> Option<Order> {
    let status = orphan.status.as_ref().filter(|status| status.host.as_deref() == Some(host))?;
    match status.phase? {
        OrphanPhase::Found => None,
        OrphanPhase::Destroying => Some(Order::Destroy),
        OrphanPhase::Adopting => {
            let to = orphan.spec.adopt.clone()?;
            Some(Order::Adopt { namespace: to.namespace, volume: to.volume, uid: status.volume_uid.clone()? })
        }
    }
}

/// The orphan as the host would report it, without what is not known of it here.
pub fn found(orphan: &Orphan) -> HostOrphan {
    let spec = &orphan.spec;
    HostOrphan { name: spec.name.clone(), pool: spec.pool.clone(), ..HostOrphan::new(spec.kind, &spec.uid) }
}

/// The VM whose domain is up and has the disk, or may have it: no answer, however wrong, may cost it that.
pub fn user<'a>(domains: &'a [Domain], disk: &DiskId) -> Option<&'a Domain> {
    let up = |domain: &&Domain| !matches!(domain.state, DomainState::Off(_));
    domains.iter().filter(up).find(|domain| {
        domain.spec.uid == disk.owner_uid
            || domain.spec.disks.iter().any(|used| used.volume.as_ref() == Some(&disk.owner_uid))
    })
}

/// The size that is known from an earlier report: it does not change, and to measure it costs.
pub fn known_size(current: &[HostOrphan], orphan: &HostOrphan) -> Option<Quantity> {
    current.iter().find(|known| known.is(orphan))?.size
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hypervisor::{DiskSource, DomainDisk, DomainSpec, StopReason};

    fn disk(uid: &str) -> HostOrphan {
        of_disk("default", &DiskId { owner_uid: uid.into(), name: "root".into() })
    }

    #[test]
    fn where_nobody_could_tell_the_last_report_stands() {
        let domain = HostOrphan::new(OrphanKind::Domain, "a");
        let elsewhere = HostOrphan { pool: Some("gone".into()), ..disk("b") };
        let current = [domain.clone(), disk("b"), elsewhere];
        let looked = Looked::from([(None, None), (Some("default".to_owned()), Some(vec![disk("c")]))]);
        assert_eq!(
            report(&current, &looked),
            [domain, disk("c")],
            "what is in a pool that is none any more is nowhere"
        );
        let looked = Looked::from([(None, Some(Vec::new())), (Some("default".to_owned()), None)]);
        assert_eq!(report(&current, &looked), [disk("b")]);
        assert!(is_surveyed(true, &looked, "default") && !is_surveyed(false, &looked, "default"));
        assert!(!is_surveyed(true, &looked, "ceph"), "it is another's");
    }

    #[test]
    fn there_is_room_for_so_many_and_nothing_is_pushed_out() {
        let many = |range: std::ops::Range<usize>| range.map(|n| disk(&format!("{n:03}"))).collect::<Vec<_>>();
        let looked = |found| Looked::from([(Some("default".to_owned()), Some(found))]);
        let first = report(&[], &looked(many(50..200)));
        assert_eq!(first, many(50..150));
        assert_eq!(report(&first, &looked(many(0..200))), first);
        let fewer: Vec<_> = many(0..200).into_iter().filter(|found| found.uid != "149").collect();
        let next = report(&first, &looked(fewer));
        assert_eq!((next.len(), next[0].uid.as_str(), next[99].uid.as_str()), (100, "000", "148"));
    }

    #[test]
    fn a_host_does_what_it_is_told_and_no_more() {
        let orphan = |status: serde_json::Value| -> Orphan {
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Orphan", "metadata": {"name": "disk-1"},
                "spec": {"kind": "Disk", "uid": "a", "name": "root", "pool": "default", "destroy": true,
                    "adopt": {"namespace": "p", "volume": "data"}},
                "status": status,
            }))
            .unwrap()
        };
        let told = |status| order(&orphan(status), "h1");
        assert_eq!(told(json!({})), None, "an order in the spec is not one yet");
        assert_eq!(told(json!({"host": "h1", "phase": "Found"})), None);
        assert_eq!(told(json!({"host": "h2", "phase": "Destroying"})), None);
        assert_eq!(told(json!({"host": "h1", "phase": "Destroying"})), Some(Order::Destroy));
        assert_eq!(told(json!({"host": "h1", "phase": "Adopting"})), None, "nobody knows which volume");
        let adopt = Order::Adopt { namespace: "p".into(), volume: "data".into(), uid: "v".into() };
        assert_eq!(told(json!({"host": "h1", "phase": "Adopting", "volumeUid": "v"})), Some(adopt));
        assert!(found(&orphan(json!({}))).is(&disk("a")));
    }

    #[test]
    fn a_disk_is_in_use_while_a_domain_that_is_up_may_have_it() {
        let domain = |uid: &str, state, volume: &str| Domain {
            spec: DomainSpec {
                uid: uid.into(),
                namespace: "default".into(),
                name: "web".into(),
                epoch: 1,
                power_request: 0,
                cpus: 1,
                memory: "1Gi".parse().unwrap(),
                disks: vec![DomainDisk {
                    name: "data".into(),
                    volume: Some(volume.into()),
                    limits: None,
                    source: DiskSource::Overlay { path: "/pool/a".into(), backing: None },
                }],
                interfaces: Vec::new(),
                standstill: false,
            },
            state,
        };
        let root = DiskId { owner_uid: "vm".into(), name: "root".into() };
        let running = [domain("vm", DomainState::Running, "volume")];
        assert!(user(&running, &root).is_some() && user(&running, &DiskId::of_volume("volume")).is_some());
        assert!(user(&running, &DiskId::of_volume("other")).is_none());
        let off = [domain("vm", DomainState::Off(StopReason::Shutdown), "volume")];
        assert!(user(&off, &root).is_none());
        assert_eq!(of_domain(&running[0]).origin.as_deref(), Some("default/web"));
    }

    #[test]
    fn one_host_looks_into_what_all_share() {
        let pool = |spec: serde_json::Value, surveyor: Option<&str>| -> StoragePool {
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool", "metadata": {"name": "default"},
                "spec": spec, "status": {"surveyor": surveyor},
            }))
            .unwrap()
        };
        assert!(is_surveyor(&pool(json!({"directory": {"path": "/pool"}}), None), "h1"));
        let ceph = json!({"rbd": {"pool": "vms"}});
        assert!(is_surveyor(&pool(ceph.clone(), Some("h1")), "h1"));
        assert!(!is_surveyor(&pool(ceph.clone(), Some("h2")), "h1") && !is_surveyor(&pool(ceph, None), "h1"));
        for name in ["", "a.b", "A", "../x"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
