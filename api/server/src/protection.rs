//! What nobody may delete while it is needed: pools that hold something, and the namespaces that ucloud itself uses.
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

/// How many users of a pool are named.
const NAMED: usize = 3;

/// Whether `object` may be deleted; an error says why not.
pub fn check_deletion(request: &Attributes<'_>, object: &Value, lister: &dyn Lister) -> Result<(), String> {
    if meta::is_terminating(object) {
        return Ok(());
    }
    let name = meta::text(object, "name");
    match (request.group, request.resource) {
        ("", "namespaces") if NAMESPACES.contains(&name) => Err("this namespace may not be deleted".to_owned()),
        (GROUP, "storagepools") => check_unused(&[
            ("Image", users(lister, "images", |image| pool_of(&image["spec"]) == name)),
            ("VM", users(lister, "vms", |vm| disks(vm).any(|disk| pool_of(disk) == name))),
        ]),
        (GROUP, "networkpools") => check_unused(&[(
            "NetworkAllocation",
            users(lister, "networkallocations", |allocation| pool_of(&allocation["spec"]) == name),
        )]),
        _ => Ok(()),
    }
}

fn pool_of(place: &Value) -> &str {
    place["pool"].as_str().unwrap_or(DEFAULT_POOL)
}

fn disks(vm: &Value) -> impl Iterator<Item = &Value> {
    vm["spec"]["disks"].as_array().into_iter().flatten()
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

fn check_unused(users: &[(&str, Vec<String>)]) -> Result<(), String> {
    let all: Vec<String> =
        users.iter().flat_map(|(kind, names)| names.iter().map(move |name| format!("{kind} {name}"))).collect();
    if all.is_empty() {
        return Ok(());
    }
    let mut why = format!("the pool is in use by {}", all[..all.len().min(NAMED)].join(", "));
    if all.len() > NAMED {
        let _ = write!(why, " and {} more", all.len() - NAMED);
    }
    why.push_str("; delete them first");
    Err(why)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authorization::test_support::{Objects, Request, user};

    fn delete(resource: &str, object: &Value, objects: &Objects) -> Result<(), String> {
        let admin = user("root", &[]);
        let group = if resource == "namespaces" { "" } else { GROUP };
        check_deletion(&Request::new(&admin, "delete", resource).group(group).attributes(), object, objects)
    }

    fn named(name: &str) -> Value {
        json!({"metadata": {"name": name}})
    }

    #[test]
    fn a_pool_that_holds_something_stays() {
        let mut objects = Objects::default()
            .with("images", json!({"metadata": {"name": "debian", "namespace": "images"}, "spec": {}}))
            .with("networkallocations", json!({"metadata": {"name": "vni-1"}, "spec": {"pool": "default"}}));
        assert_eq!(
            delete("storagepools", &named("default"), &objects),
            Err("the pool is in use by Image images/debian; delete them first".to_owned())
        );
        assert!(delete("networkpools", &named("default"), &objects).unwrap_err().contains("NetworkAllocation vni-1"));
        assert_eq!(delete("storagepools", &named("other"), &objects), Ok(()));
        assert_eq!(delete("networkpools", &named("other"), &objects), Ok(()));
        for number in 0..5 {
            let vm = json!({"metadata": {"name": format!("vm{number}"), "namespace": "default"},
                "spec": {"disks": [{"name": "root"}, {"name": "data", "pool": "other"}]}});
            objects = objects.with("vms", vm);
        }
        let why = delete("storagepools", &named("other"), &objects).unwrap_err();
        assert!(why.contains("VM default/vm2 and 2 more"), "{why}");
        let leaving = json!({"metadata": {"name": "other", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(delete("storagepools", &leaving, &objects), Ok(()));
    }

    #[test]
    fn ucloud_keeps_its_namespaces() {
        for name in NAMESPACES {
            assert!(delete("namespaces", &named(name), &Objects::default()).is_err(), "{name}");
        }
        assert_eq!(delete("namespaces", &named("project"), &Objects::default()), Ok(()));
    }
}
