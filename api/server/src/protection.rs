//! What nobody may delete while it is needed: pools that hold something, hosts that run or keep something, and the namespaces
//! that ucloud itself uses.
//!
//! Looked up in the watch cache: an object that is made in the same moment may find its pool gone, and says so in its
//! conditions.

use std::fmt::Write as _;

use serde_json::Value;
use ucloud_machinery::{auth::Attributes, meta, strategy::Lister};
use ucloud_types::{
    GROUP,
    meta::{DEFAULT_POOL, HOSTS_NAMESPACE, IMAGES_NAMESPACE, SYSTEM_NAMESPACE},
};

/// The namespaces that exist in every installation.
pub const NAMESPACES: [&str; 4] = ["default", IMAGES_NAMESPACE, SYSTEM_NAMESPACE, HOSTS_NAMESPACE];

/// How many users are named.
const NAMED: usize = 3;

/// Whether a namespace may be deleted; an error says why not.
pub fn check_namespace(request: &Attributes<'_>, object: &Value) -> Result<(), String> {
    let own = request.group.is_empty()
        && request.resource == "namespaces"
        && NAMESPACES.contains(&meta::text(object, "name"));
    if own && !meta::is_terminating(object) { Err("this namespace may not be deleted".to_owned()) } else { Ok(()) }
}

/// Whether nothing is in a StoragePool, and nothing is to come there.
pub fn check_storage_pool(pool: &str, lister: &dyn Lister) -> Result<(), String> {
    // a volume tells its pool itself
    let on_disk =
        |vm: &Value, part: &str| disks(vm, part).any(|disk| disk["volume"].is_null() && pool_of(disk) == pool);
    check_unused(
        "the pool is in use by",
        "delete them first",
        &[
            ("File", users(lister, "files", |file| pool_of(&file["spec"]) == pool)),
            ("Image", users(lister, "images", |image| pool_of(&image["spec"]) == pool)),
            // the disks that a VM has may be others than those that it asks for
            ("VM", users(lister, "vms", |vm| on_disk(vm, "spec") || on_disk(vm, "status"))),
            ("Volume", users(lister, "volumes", |volume| pool_of(&volume["spec"]) == pool)),
        ],
    )
}

/// Whether nothing of a NetworkPool is given out.
pub fn check_network_pool(pool: &str, lister: &dyn Lister) -> Result<(), String> {
    let allocations = users(lister, "networkallocations", |allocation| pool_of(&allocation["spec"]) == pool);
    check_unused("the pool is in use by", "delete them first", &[("NetworkAllocation", allocations)])
}

/// Whether no VM is bound to a Host, and no Volume or image of a snapshot is there alone. Those that are being deleted do not keep it: when a host
/// never returns, its end is theirs.
pub fn check_host(host: &str, lister: &dyn Lister) -> Result<(), String> {
    let bound = users(lister, "vms", |vm| vm["status"]["binding"]["host"] == host);
    let shared =
        |pool: &str| lister.get(GROUP, "storagepools", None, pool).is_some_and(|pool| pool["spec"]["rbd"].is_object());
    let kept = users(lister, "volumes", |volume| {
        volume["status"]["host"] == host && !meta::is_terminating(volume) && !shared(pool_of(&volume["spec"]))
    });
    // of other images there is a source
    let taken = users(lister, "images", |image| {
        image["spec"]["source"]["snapshot"].is_object()
            && image["status"]["importer"] == host
            && image["status"]["sha256"].is_string()
            && !meta::is_terminating(image)
            && !shared(pool_of(&image["spec"]))
    });
    let users = [("VM", bound), ("Volume", kept), ("Image", taken)];
    check_unused("the host has", "delete them first, and what they have on it with them", &users)
}

fn pool_of(place: &Value) -> &str {
    place["pool"].as_str().unwrap_or(DEFAULT_POOL)
}

fn disks<'a>(vm: &'a Value, part: &str) -> impl Iterator<Item = &'a Value> {
    vm[part]["disks"].as_array().into_iter().flatten()
}

/// The objects of a kind that use something, as `namespace/name`.
fn users(lister: &dyn Lister, plural: &str, uses: impl Fn(&Value) -> bool) -> Vec<String> {
    let objects = lister.list(GROUP, plural, None);
    let using = objects.iter().filter(|object| uses(object));
    using
        .map(|object| match meta::text(object, "namespace") {
            "" => meta::text(object, "name").to_owned(),
            namespace => format!("{namespace}/{}", meta::text(object, "name")),
        })
        .collect()
}

fn check_unused(what: &str, advice: &str, users: &[(&str, Vec<String>)]) -> Result<(), String> {
    let all: Vec<String> =
        users.iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind} {name}"))).collect();
    if all.is_empty() {
        return Ok(());
    }
    let mut why = format!("{what} {}", all[..all.len().min(NAMED)].join(", "));
    if all.len() > NAMED {
        let _ = write!(why, " and {} more", all.len() - NAMED);
    }
    let _ = write!(why, "; {advice}");
    Err(why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authorization::test_support::{Objects, Request, user};

    #[test]
    fn a_pool_that_holds_something_stays() {
        let mut objects = Objects::default()
            .with("images", json!({"metadata": {"name": "debian", "namespace": "images"}, "spec": {}}))
            .with("networkallocations", json!({"metadata": {"name": "vni-1"}, "spec": {"pool": "default"}}));
        assert_eq!(
            check_storage_pool("default", &objects),
            Err("the pool is in use by Image images/debian; delete them first".to_owned())
        );
        assert!(check_network_pool("default", &objects).unwrap_err().contains("NetworkAllocation vni-1"));
        assert_eq!(check_storage_pool("other", &objects), Ok(()));
        assert_eq!(check_network_pool("other", &objects), Ok(()));
        for number in 0..5 {
            let vm = json!({"metadata": {"name": format!("vm{number}"), "namespace": "default"},
                "spec": {"disks": [{"name": "root"}, {"name": "data", "pool": "other"}]}});
            objects = objects.with("vms", vm);
        }
        let why = check_storage_pool("other", &objects).unwrap_err();
        assert!(why.contains("VM default/vm2 and 2 more"), "{why}");
        let moved = json!({"metadata": {"name": "moved", "namespace": "default"}, "spec": {"disks": []},
            "status": {"disks": [{"name": "root", "pool": "former", "size": "1Gi"}]}});
        let objects = objects.with("vms", moved);
        let why = check_storage_pool("former", &objects).unwrap_err();
        assert!(why.contains("VM default/moved"), "{why}");
        let with_volume = json!({"metadata": {"name": "v", "namespace": "default"},
            "spec": {"disks": [{"name": "data", "volume": "data"}]}});
        let data = json!({"metadata": {"name": "data", "namespace": "default"}, "spec": {"pool": "fast"}});
        let objects = Objects::default().with("vms", with_volume).with("volumes", data);
        assert_eq!(check_storage_pool("default", &objects), Ok(()));
        assert!(check_storage_pool("fast", &objects).unwrap_err().contains("Volume default/data"));
    }

    #[test]
    fn a_host_with_vms_stays() {
        let bound = json!({"metadata": {"name": "web", "namespace": "default"}, "status": {"binding": {"host": "h1"}}});
        let objects = Objects::default().with("vms", bound);
        assert!(check_host("h1", &objects).unwrap_err().starts_with("the host has VM default/web; "));
        assert_eq!(check_host("h2", &objects), Ok(()));
        let volume = |name: &str, pool: &str| json!({"metadata": {"name": name, "namespace": "p"}, "spec": {"pool": pool}, "status": {"host": "h1"}});
        let mut leaving = volume("leaving", "default");
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let objects = Objects::default()
            .with("storagepools", json!({"metadata": {"name": "ceph"}, "spec": {"rbd": {"pool": "x"}}}))
            .with("volumes", volume("anywhere", "ceph"))
            .with("volumes", leaving);
        assert_eq!(check_host("h1", &objects), Ok(()));
        let image = |source: &Value| json!({"metadata": {"name": "kept-root", "namespace": "p"}, "spec": {"source": source}, "status": {"importer": "h1", "sha256": "x"}});
        let objects = objects.with("images", image(&json!({"http": {"url": "http://h/a"}})));
        assert_eq!(check_host("h1", &objects), Ok(()));
        let of_snapshot = json!({"snapshot": {"name": "kept", "disk": "root"}});
        let objects = objects.with("images", image(&of_snapshot));
        assert!(check_host("h1", &objects).unwrap_err().starts_with("the host has Image p/kept-root; "));
        let why = check_host("h1", &objects.with("volumes", volume("data", "default"))).unwrap_err();
        assert_eq!(
            why,
            "the host has Volume p/data, Image p/kept-root; delete them first, and what they have on it with them"
        );
    }

    #[test]
    fn ucloud_keeps_its_namespaces() {
        let admin = user("root", &[]);
        let request = Request::new(&admin, "delete", "namespaces").group("");
        let named = |name: &str| json!({"metadata": {"name": name}});
        for name in NAMESPACES {
            assert!(check_namespace(&request.attributes(), &named(name)).is_err(), "{name}");
        }
        assert_eq!(check_namespace(&request.attributes(), &named("project")), Ok(()));
        let leaving = json!({"metadata": {"name": "default", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(check_namespace(&request.attributes(), &leaving), Ok(()));
    }
}
