//! What a storage pool's status is to say, from what hosts report. Pure.

use std::sync::Arc;

use kube::ResourceExt as _;
use ucloud_types::{
    Host, Quantity, StoragePool, StoragePoolStatus,
    condition::{Finding, READY, Verdict, is_true},
};

use crate::runtime::{
    is_deleting,
    report::{find, status_of},
};

/// The pool's status: the sum of what hosts have of it, or, where all hosts see the same, what they see.
pub fn plan(pool: &StoragePool, hosts: &[Arc<Host>]) -> StoragePoolStatus {
    let name = pool.name_any();
    let mut status = status_of(pool);
    let (mut count, mut capacity, mut available) = (0u32, 0u64, 0u64);
    let (mut errors, mut able) = (Vec::new(), Vec::new());
    for host in hosts {
        let parts = host.status.iter().flat_map(|status| &status.pools);
        for part in parts.into_iter().filter(|part| part.name == name) {
            if let Some(error) = &part.error {
                errors.push((host.name_any(), error));
            } else {
                count += 1;
                able.extend(is_ready(host).then(|| host.name_any()));
                if pool.spec.is_shared() {
                    // they do not look at the same moment: what is sure is the least
                    (capacity, available) = match count {
                        1 => (part.capacity.bytes(), part.available.bytes()),
                        _ => (capacity.min(part.capacity.bytes()), available.min(part.available.bytes())),
                    };
                } else {
                    capacity = capacity.saturating_add(part.capacity.bytes());
                    available = available.saturating_add(part.available.bytes());
                }
            }
        }
    }
    status.hosts = count;
    status.capacity = (count > 0).then(|| Quantity::from_bytes(capacity));
    status.available = (count > 0).then(|| Quantity::from_bytes(available));
    status.surveyor = if pool.spec.is_shared() { surveyor(status.surveyor, able) } else { None };
    errors.sort();
    let with_pool = usize::try_from(count).unwrap_or(usize::MAX).saturating_add(errors.len());
    let finding = |verdict, reason, message: String| Finding::new(READY, verdict, reason, message);
    let ready = match (count, errors.first()) {
        (0, None) => finding(
            Verdict::False,
            "NoHost",
            "no host has reported the pool: start ucloud-agent on a machine that is to keep disks".to_owned(),
        ),
        (1.., None) => finding(Verdict::True, "Available", "disks and images can be kept in it".to_owned()),
        (_, Some((host, error))) => finding(
            if count == 0 { Verdict::False } else { Verdict::True },
            "HostsFailing",
            format!("{} of {with_pool} hosts cannot use it, among them {host}: {error}", errors.len()),
        ),
    };
    find(pool, &mut status, &ready);
    status
}

/// Whether the host's agent is at work.
pub fn is_ready(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY)) && !is_deleting(host)
}

/// Who looks for what belongs to nobody: whoever did it before, as long as he can.
fn surveyor(before: Option<String>, able: Vec<String>) -> Option<String> {
    before.filter(|host| able.contains(host)).or_else(|| able.into_iter().min())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ucloud_types::condition::get;

    use super::*;

    fn pool() -> StoragePool {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool", "metadata": {"name": "default"},
            "spec": {"directory": {"path": "/var/lib/ucloud"}},
        }))
        .unwrap()
    }

    fn host(name: &str, pool: &str, error: Option<&str>) -> Arc<Host> {
        let part = json!({"name": pool, "capacity": "10Gi", "available": "4Gi", "error": error});
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {},
                "status": {"pools": [part], "conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady",
                    "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn sums_what_hosts_have() {
        let hosts = [host("a", "default", None), host("b", "default", None), host("c", "other", None)];
        let status = plan(&pool(), &hosts);
        assert_eq!(status.hosts, 2);
        assert_eq!((status.capacity, status.available), ("20Gi".parse().ok(), "8Gi".parse().ok()));
        assert!(is_true(&status.conditions, READY));
        let mut again = pool();
        again.status = Some(status.clone());
        assert_eq!(plan(&again, &hosts), status, "pattern 13: nothing new, nothing to write");
    }

    #[test]
    fn what_all_hosts_see_is_counted_once() {
        let mut ceph = pool();
        ceph.spec = serde_json::from_value(json!({"rbd": {"pool": "vms"}})).unwrap();
        let mut hosts = [host("a", "default", None), host("b", "default", None)];
        Arc::make_mut(&mut hosts[1]).status.as_mut().unwrap().pools[0].available = "3Gi".parse().unwrap();
        let status = plan(&ceph, &hosts);
        assert_eq!((status.hosts, status.capacity, status.available), (2, "10Gi".parse().ok(), "3Gi".parse().ok()));
    }

    #[test]
    fn one_host_surveys_what_all_see_as_long_as_it_can() {
        let hosts = [host("b", "default", None), host("a", "default", None), host("c", "default", Some("broken"))];
        assert_eq!(plan(&pool(), &hosts).surveyor, None, "each has a directory of its own");
        let mut ceph = pool();
        ceph.spec = serde_json::from_value(json!({"rbd": {"pool": "vms"}})).unwrap();
        ceph.status = Some(plan(&ceph, &hosts[..1]));
        assert_eq!(plan(&ceph, &hosts).surveyor.as_deref(), Some("b"), "a change costs a survey");
        let mut silent = hosts.clone();
        Arc::make_mut(&mut silent[0]).status.as_mut().unwrap().conditions.clear();
        assert_eq!(plan(&ceph, &silent).surveyor.as_deref(), Some("a"));
        assert_eq!(plan(&ceph, &hosts[2..]).surveyor, None);
    }

    #[test]
    fn hosts_that_cannot_use_it_are_told_and_not_counted() {
        let hosts =
            [host("b", "default", Some("full")), host("a", "default", Some("read-only")), host("c", "default", None)];
        let status = plan(&pool(), &hosts);
        let ready = get(&status.conditions, READY).unwrap();
        assert_eq!((status.hosts, ready.status.as_str()), (1, "True"));
        assert_eq!(ready.message, "2 of 3 hosts cannot use it, among them a: read-only");
        assert_eq!(get(&plan(&pool(), &hosts[..2]).conditions, READY).unwrap().status, "False");
        assert_eq!(get(&plan(&pool(), &[]).conditions, READY).unwrap().reason, "NoHost");
    }
}
