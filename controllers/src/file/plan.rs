//! Which host keeps a File. Pure.

use std::{cmp::Reverse, sync::Arc};

use kube::ResourceExt as _;
use ucloud_types::{
    File, FileStatus, Host, Quantity, StoragePool,
    condition::{Finding, READY, SCHEDULED, TERMINATING, Verdict, is_true},
};

use crate::runtime::{
    is_deleting,
    report::{find, status_of},
    uid_of,
};

/// What of a host a File can depend on: whether it can take one, and the room in its pools.
pub fn aspect(host: &Host) -> (bool, bool, bool, Vec<(String, Quantity)>) {
    let pools = host.status.iter().flat_map(|status| &status.pools).filter(|pool| pool.error.is_none());
    let room = pools.map(|pool| (pool.name.clone(), pool.available)).collect();
    (is_ready(host), host.spec.unschedulable, takes_streams(host), room)
}

/// Whether the host is there and well.
pub fn is_ready(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY)) && !is_deleting(host)
}

fn takes_streams(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| status.stream_port.is_some())
}

/// The host that keeps the file.
pub fn host_of(file: &File) -> Option<&str> {
    file.status.as_ref().and_then(|status| status.host.as_deref())
}

/// Why a host does not take a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unfit {
    NotReady,
    Unschedulable,
    NoStreams,
    NoPool,
    /// So much is left.
    NoRoom(u64),
}

/// The bytes that are left in the host's pool when all files that are on their way there have come. `shared`: whether it is one
/// pool for all hosts.
fn room(host: &Host, file: &File, shared: bool, files: &[Arc<File>]) -> Result<u64, Unfit> {
    if !is_ready(host) {
        return Err(Unfit::NotReady);
    }
    if host.spec.unschedulable {
        return Err(Unfit::Unschedulable);
    }
    if !takes_streams(host) {
        return Err(Unfit::NoStreams);
    }
    let (name, pool) = (host.name_any(), file.spec.effective_pool());
    let mut pools = host.status.iter().flat_map(|status| &status.pools);
    let part = pools.find(|part| part.name == pool && part.error.is_none()).ok_or(Unfit::NoPool)?;
    let coming = files.iter().filter(|other| {
        let there = if shared { host_of(other).is_some() } else { host_of(other) == Some(&name) };
        uid_of(&***other) != uid_of(file) && there && other.spec.effective_pool() == pool
    });
    let promised: u64 = coming.map(|other| missing(other)).fold(0, u64::saturating_add);
    if part.capacity.bytes() == 0 {
        // Ceph without a manager does not tell; what does not fit is refused when it comes
        return Ok(0);
    }
    let left = part.available.bytes().saturating_sub(promised);
    if left < file.spec.size.bytes() { Err(Unfit::NoRoom(left)) } else { Ok(left) }
}

/// What has yet to come of a file.
fn missing(file: &File) -> u64 {
    let received = file.status.as_ref().and_then(|status| status.received).unwrap_or_default();
    file.spec.size.bytes().saturating_sub(received.bytes())
}

/// The status of a file that is to be there. `pool`: its StoragePool, if that exists. A host that was chosen stays.
pub fn plan(file: &File, pool: Option<&StoragePool>, hosts: &[Arc<Host>], files: &[Arc<File>]) -> FileStatus {
    let mut status = status_of(file);
    let unscheduled = |reason, message| Finding::new(SCHEDULED, Verdict::False, reason, message);
    let name = file.spec.effective_pool();
    let finding = match status.host.as_deref() {
        Some(host) if hosts.iter().any(|known| known.name_any() == host) => bound(host),
        // Where all hosts see the bytes, another one looks after them from now on
        Some(host) if !pool.is_some_and(|pool| pool.spec.is_shared()) => {
            let message = format!("Host {host}, which has its bytes, was deleted: delete the File and upload it again");
            unscheduled("HostGone", message)
        }
        _ => match pool {
            None => {
                let message =
                    format!("StoragePool {name} does not exist: create it, or make the file again with another pool");
                unscheduled("PoolNotFound", message)
            }
            Some(pool) => match choose(file, pool.spec.is_shared(), hosts, files) {
                Ok(host) => {
                    status.host = Some(host.clone());
                    bound(&host)
                }
                Err(message) => unscheduled("NoHost", message),
            },
        },
    };
    find(file, &mut status, &finding);
    status
}

fn bound(host: &str) -> Finding {
    Finding::new(SCHEDULED, Verdict::True, "Bound", format!("host {host} keeps its bytes"))
}

/// The host with the most room, and of several the one with the fewest files; an error counts the hosts by what they lack.
fn choose(file: &File, shared: bool, hosts: &[Arc<Host>], files: &[Arc<File>]) -> Result<String, String> {
    let judged: Vec<_> = hosts.iter().map(|host| (host.name_any(), room(host, file, shared, files))).collect();
    let has = |name: &String| files.iter().filter(|file| host_of(file) == Some(name)).count();
    let fit = judged.iter().filter_map(|(name, room)| room.ok().map(|room| (room, Reverse((has(name), name)))));
    if let Some((_, Reverse((_, name)))) = fit.max() {
        return Ok(name.clone());
    }
    if judged.is_empty() {
        return Err("there is no host: start an agent on one".to_owned());
    }
    let pool = file.spec.effective_pool();
    let count = |unfit: Unfit| judged.iter().filter(|(_, room)| *room == Err(unfit)).count();
    let lack = |room: &Result<u64, Unfit>| if let Err(Unfit::NoRoom(left)) = room { Some(*left) } else { None };
    let full: Vec<u64> = judged.iter().filter_map(|(_, room)| lack(room)).collect();
    let most = Quantity::from_bytes(full.iter().copied().max().unwrap_or_default());
    let reasons = [
        (count(Unfit::NotReady), "not Ready".to_owned()),
        (count(Unfit::Unschedulable), "unschedulable".to_owned()),
        (count(Unfit::NoStreams), "taking no uploads (ucloud-agent --streams)".to_owned()),
        (count(Unfit::NoPool), format!("without pool {pool}")),
        (full.len(), format!("without room in pool {pool} (need {}, most free {most})", file.spec.size)),
    ];
    let reasons: Vec<_> =
        reasons.into_iter().filter(|(hosts, _)| *hosts > 0).map(|(hosts, what)| format!("{hosts} {what}")).collect();
    Err(format!("none of {} hosts can keep it: {}", judged.len(), reasons.join(", ")))
}

/// The status of a file that is being deleted and whose host is silent.
pub fn stuck(file: &File, host: &str) -> FileStatus {
    let mut status = status_of(file);
    let message =
        format!("waiting until host {host} has removed its bytes; if that host never returns, delete the Host");
    find(file, &mut status, &Finding::new(TERMINATING, Verdict::True, "BytesRemain", message));
    status
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use ucloud_types::condition::get;

    use super::*;

    fn file(name: &str, size: &str, status: &Value) -> File {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "File",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": {"size": size}, "status": status,
        }))
        .unwrap()
    }

    /// A Ready host that takes uploads, with so much room in the pool default.
    fn host(name: &str, available: &str) -> Host {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": name}, "spec": {},
            "status": {
                "streamPort": 9402,
                "pools": [{"name": "default", "capacity": "1Ti", "available": available}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady", "message": "",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        }))
        .unwrap()
    }

    fn pool() -> StoragePool {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool", "metadata": {"name": "default"},
            "spec": {"directory": {"path": "/pool"}},
        }))
        .unwrap()
    }

    fn shared<T>(list: impl IntoIterator<Item = T>) -> Vec<Arc<T>> {
        list.into_iter().map(Arc::new).collect()
    }

    fn scheduled(status: &FileStatus) -> (&str, &str) {
        let condition = get(&status.conditions, SCHEDULED).unwrap();
        (&condition.reason, &condition.message)
    }

    #[test]
    fn the_host_with_the_most_room_is_chosen_and_stays() {
        let hosts = shared([host("a", "5Gi"), host("b", "9Gi"), host("c", "9Gi")]);
        let mut iso = file("iso", "4Gi", &json!({}));
        let status = plan(&iso, Some(&pool()), &hosts, &[]);
        assert_eq!((status.host.as_deref(), scheduled(&status).0), (Some("b"), "Bound"));
        iso.status = Some(status.clone());
        assert_eq!(plan(&iso, Some(&pool()), &shared([host("a", "1Ti"), host("b", "0")]), &[]), status);
        let gone = plan(&iso, None, &hosts[..1], &[]);
        assert_eq!((gone.host.as_deref(), scheduled(&gone).0), (Some("b"), "HostGone"));
    }

    #[test]
    fn what_has_yet_to_come_takes_room() {
        let hosts = shared([host("a", "6Gi")]);
        let coming = |received: &str| shared([file("other", "4Gi", &json!({"host": "a", "received": received}))]);
        let iso = file("iso", "4Gi", &json!({}));
        assert_eq!(plan(&iso, Some(&pool()), &hosts, &coming("0")).host, None);
        assert_eq!(plan(&iso, Some(&pool()), &hosts, &coming("2Gi")).host.as_deref(), Some("a"));
        let itself = shared([iso.clone()]);
        assert_eq!(plan(&iso, Some(&pool()), &hosts, &itself).host.as_deref(), Some("a"));
    }

    #[test]
    fn files_in_a_pool_of_all_hosts_share_its_room_and_outlive_their_hosts() {
        let mut ceph = pool();
        ceph.spec = serde_json::from_value(json!({"rbd": {"pool": "vms"}})).unwrap();
        let hosts = shared([host("a", "6Gi"), host("b", "6Gi")]);
        let other = |size| shared([file("other", size, &json!({"host": "a"}))]);
        let mut iso = file("iso", "4Gi", &json!({}));
        assert_eq!(scheduled(&plan(&iso, Some(&ceph), &hosts, &other("4Gi"))).0, "NoHost");
        let status = plan(&iso, Some(&ceph), &hosts, &other("1Gi"));
        assert_eq!(status.host.as_deref(), Some("b"), "it has the fewest files");
        iso.status = Some(status.clone());
        assert_eq!(plan(&iso, Some(&ceph), &hosts, &[]), status);
        let mut silent = host("a", "0");
        silent.status.as_mut().unwrap().pools[0].capacity = Quantity::default();
        let unknown = plan(&file("iso", "4Gi", &json!({})), Some(&ceph), &shared([silent]), &[]);
        assert_eq!(unknown.host.as_deref(), Some("a"), "nobody knows how much room there is");
        let moved = plan(&iso, Some(&ceph), &hosts[..1], &[]);
        assert_eq!((moved.host.as_deref(), scheduled(&moved).0), (Some("a"), "Bound"));
    }

    #[test]
    fn says_what_hosts_lack() {
        let change = |change: fn(&mut Host)| {
            let mut host = host("x", "9Gi");
            change(&mut host);
            host
        };
        let hosts = shared([
            host("a", "2Gi"),
            host("b", "3Gi"),
            change(|host| host.spec.unschedulable = true),
            change(|host| host.status.as_mut().unwrap().stream_port = None),
            change(|host| host.status.as_mut().unwrap().conditions.clear()),
            change(|host| host.status.as_mut().unwrap().pools.clear()),
        ]);
        let iso = file("iso", "4Gi", &json!({}));
        let status = plan(&iso, Some(&pool()), &hosts, &[]);
        assert_eq!(status.host, None);
        assert_eq!(
            scheduled(&status),
            (
                "NoHost",
                "none of 6 hosts can keep it: 1 not Ready, 1 unschedulable, 1 taking no uploads (ucloud-agent \
                 --streams), 1 without pool default, 2 without room in pool default (need 4Gi, most free 3Gi)"
            )
        );
        assert_eq!(scheduled(&plan(&iso, None, &hosts, &[])).0, "PoolNotFound");
        assert!(scheduled(&plan(&iso, Some(&pool()), &[], &[])).1.contains("there is no host"));
    }
}
