//! What the controllers may do: read all objects, and write the parts that are theirs. Never a spec.
//!
//! The garbage collector deletes objects of any kind, and takes owners out of others. It may do so with objects that have
//! owners, and to let an object go whose deletion waits for it; with nothing else.

use serde_json::Value;
use ucloud_machinery::{
    auth::{Attributes, Rule},
    meta,
    strategy::Lister,
};
use ucloud_types::{
    GROUP,
    meta::{SCHEDULE_LABEL, SCHEDULE_UID_LABEL, SYSTEM_NAMESPACE},
};

use super::{
    NO_RULE, Refusal,
    change::{only_finalizers, only_releases},
    listing::resources,
};

/// Kinds on which controllers hold finalizers: what else changes in them is judged with the objects.
const HELD: [&str; 6] = ["vms", "networks", "images", "files", "volumes", "snapshots"];

/// What they may write anywhere: group, resources, verbs.
const WRITES: [(&str, &[&str], &[&str]); 12] = [
    (
        GROUP,
        &[
            "files/status",
            "hosts/status",
            "images/status",
            "networkpools/status",
            "networks/status",
            "orphans/status",
            "securitygroups/status",
            "snapshots/status",
            "snapshotschedules/status",
            "storagepools/status",
            "vms/status",
            "volumes/status",
        ],
        &["update", "patch"],
    ),
    (GROUP, &HELD, &["update", "patch"]),
    (GROUP, &["vms/binding"], &["create"]),
    (GROUP, &["networkallocations"], &["create", "delete"]),
    // what becomes of them is for people to say
    (GROUP, &["orphans"], &["create", "delete"]),
    // the disks in a snapshot
    (GROUP, &["images"], &["create"]),
    // those of schedules, and of volumes that are copied
    (GROUP, &["snapshots"], &["create", "delete"]),
    // those that are to go with their VMs
    (GROUP, &["volumes"], &["delete"]),
    ("", &["events"], &["create", "update", "patch"]),
    ("events.k8s.io", &["events"], &["create", "update", "patch"]),
    ("", &["namespaces/status", "namespaces/finalize"], &["update", "patch"]),
    ("", &["resourcequotas/status"], &["update", "patch"]),
];

/// Who may be the garbage collector's to patch or to delete is judged with the object.
const COLLECTION: [&str; 2] = ["delete", "patch"];

pub fn authorize(request: &Attributes<'_>, lister: &dyn Lister) -> Result<(), Refusal> {
    let resource = match request.subresource {
        "" => request.resource.to_owned(),
        subresource => format!("{}/{subresource}", request.resource),
    };
    let allowed = match (request.group, resource.as_str(), request.verb) {
        // what users keep is no controller's business
        (GROUP, "files/content" | "images/content" | "volumes/content", _) => false,
        (_, _, "get" | "list" | "watch") => true,
        // leader election; hosts' heartbeats are the agents'
        ("coordination.k8s.io", "leases", "create" | "update" | "patch") => request.namespace == SYSTEM_NAMESPACE,
        (group, resource, verb) => {
            WRITES.iter().any(|(in_group, resources, verbs)| {
                *in_group == group && resources.contains(&resource) && verbs.contains(&verb)
            }) || (matches!(verb, "delete" | "deletecollection") && is_terminating(request.namespace, lister))
                || (request.subresource.is_empty() && COLLECTION.contains(&verb))
        }
    };
    if allowed { Ok(()) } else { Err(NO_RULE) }
}

pub fn authorize_object(
    request: &Attributes<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    lister: &dyn Lister,
) -> Result<(), Refusal> {
    if !request.subresource.is_empty() {
        return Ok(());
    }
    let own = |verbs: &[&str]| {
        WRITES.iter().any(|(group, resources, own)| {
            *group == request.group
                && resources.contains(&request.resource)
                && verbs.iter().all(|verb| own.contains(verb))
        })
    };
    match (old, new) {
        (None, Some(new)) if request.resource == "orphans" => {
            let ordered = ["destroy", "adopt"].iter().any(|order| new["spec"].get(order).is_some());
            if ordered { Err("controllers do not say what becomes of orphans".to_owned()) } else { Ok(()) }
        }
        (None, Some(new)) if request.resource == "images" => {
            let of_snapshot = new.pointer("/spec/source/snapshot").is_some() && has_owners(new);
            if of_snapshot { Ok(()) } else { Err("controllers make no images but those of snapshots".to_owned()) }
        }
        (None, Some(new)) if request.resource == "snapshots" => {
            let scheduled = schedule_of(request.namespace, new, lister)
                .is_some_and(|schedule| schedule["spec"]["snapshot"] == new["spec"]);
            if scheduled || is_of_copied_volume(request.namespace, new, lister) {
                return Ok(());
            }
            Err("controllers make no snapshots but those of schedules and of volumes that are copied".to_owned())
        }
        (Some(old), None) if request.resource == "snapshots" => {
            let scheduled = schedule_of(request.namespace, old, lister).is_some();
            let allowed = scheduled || has_owners(old) || is_terminating(request.namespace, lister);
            if allowed { Ok(()) } else { Err("controllers delete no snapshots but those of schedules".to_owned()) }
        }
        (Some(old), None) => {
            let allowed = own(&["delete"]) || has_owners(old) || is_terminating(request.namespace, lister);
            if allowed { Ok(()) } else { Err("controllers delete nothing that has no owner".to_owned()) }
        }
        (Some(old), Some(new)) if HELD.contains(&request.resource) => {
            if only_finalizers(old, new) || only_releases(old, new) {
                return Ok(());
            }
            Err("controllers change nothing of it but the finalizers, its owners and the status".to_owned())
        }
        (Some(old), Some(new)) => {
            let leader = request.group == "coordination.k8s.io" && request.namespace == SYSTEM_NAMESPACE;
            if leader || own(&["patch"]) || only_releases(old, new) {
                return Ok(());
            }
            Err("controllers change nothing of it but to take owners away".to_owned())
        }
        _ => Ok(()),
    }
}

fn has_owners(object: &Value) -> bool {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).is_some_and(|owners| !owners.is_empty())
}

/// The SnapshotSchedule that the labels and the name of a Snapshot say it is of.
fn schedule_of(namespace: &str, snapshot: &Value, lister: &dyn Lister) -> Option<Value> {
    let labels = &snapshot["metadata"]["labels"];
    let name = labels[SCHEDULE_LABEL].as_str()?;
    let minutes = meta::text(snapshot, "name").strip_prefix(name)?.strip_prefix('-')?;
    let schedule = lister.get(GROUP, "snapshotschedules", Some(namespace), name)?;
    let is_its =
        labels[SCHEDULE_UID_LABEL] == schedule["metadata"]["uid"] && minutes.bytes().all(|b| b.is_ascii_digit());
    is_its.then_some(schedule)
}

/// Whether the Snapshot is of the Volume of which the Volume that owns it is to be a copy.
fn is_of_copied_volume(namespace: &str, snapshot: &Value, lister: &dyn Lister) -> bool {
    let owners = snapshot.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().filter(|owner| owner["kind"] == "Volume").any(|owner| {
        let copy = lister.get(GROUP, "volumes", Some(namespace), owner["name"].as_str().unwrap_or_default());
        copy.is_some_and(|copy| {
            let of = &copy["spec"]["source"]["volume"];
            copy["metadata"]["uid"] == owner["uid"] && of.is_string() && *of == snapshot["spec"]["volume"]
        })
    })
}

/// What they may do, for people to read.
pub fn rules() -> Vec<Rule> {
    let mut rules = vec![
        resources(&["get", "list", "watch"], "*", &["*"], &[]),
        resources(&COLLECTION, "*", &["*"], &[]),
        resources(&["create", "update", "patch"], "coordination.k8s.io", &["leases"], &[]),
    ];
    rules.extend(WRITES.iter().map(|(group, names, verbs)| resources(verbs, group, names, &[])));
    rules
}

/// Whether the namespace is being deleted, and what is in it with it.
fn is_terminating(namespace: &str, lister: &dyn Lister) -> bool {
    !namespace.is_empty()
        && lister.get("", "namespaces", None, namespace).is_some_and(|found| meta::is_terminating(&found))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ucloud_machinery::auth::{Decision, UserInfo};
    use ucloud_types::meta::{CONTROLLERS_GROUP, HOSTS_NAMESPACE};

    use super::super::test_support::{Objects, Request, user};
    use super::*;

    fn controllers() -> UserInfo {
        user("ucloud:controllers", &[CONTROLLERS_GROUP])
    }

    #[test]
    fn they_read_everything_and_write_what_is_theirs() {
        let user = controllers();
        for kind in ["vms", "hosts", "networkallocations"] {
            for verb in ["get", "list", "watch"] {
                assert_eq!(Request::new(&user, verb, kind).decide(), Decision::Allow);
            }
        }
        for kind in ["files", "images", "volumes"] {
            let content = Request::new(&user, "get", kind).namespace("default").name("iso").subresource("content");
            assert_ne!(content.decide(), Decision::Allow, "{kind}");
        }
        for request in [
            Request::new(&user, "create", "vms").subresource("binding"),
            Request::new(&user, "patch", "vms").subresource("status"),
            Request::new(&user, "patch", "hosts").subresource("status"),
            Request::new(&user, "create", "networkallocations"),
            Request::new(&user, "delete", "networkallocations"),
            Request::new(&user, "delete", "volumes").namespace("default"),
            Request::new(&user, "patch", "volumes").namespace("default").subresource("status"),
            Request::new(&user, "create", "events").group("events.k8s.io").namespace("default"),
            Request::new(&user, "patch", "leases").group("coordination.k8s.io").namespace(SYSTEM_NAMESPACE),
            Request::new(&user, "update", "namespaces").group("").subresource("finalize"),
        ] {
            assert_eq!(request.decide(), Decision::Allow);
        }
    }

    #[test]
    fn they_write_no_spec_and_delete_nothing_of_users() {
        let user = controllers();
        let (old, mut new) = (json!({"metadata": {"name": "x"}, "spec": {}}), json!({"metadata": {"name": "x"}}));
        new["spec"]["a"] = json!(1);
        for request in [
            Request::new(&user, "patch", "hosts"),
            Request::new(&user, "patch", "networkpools"),
            Request::new(&user, "patch", "networkallocations"),
            Request::new(&user, "patch", "orphans"),
            Request::new(&user, "patch", "volumes").namespace("default"),
            Request::new(&user, "patch", "secrets").group("").namespace("default"),
            Request::new(&user, "patch", "leases").group("coordination.k8s.io").namespace(HOSTS_NAMESPACE),
        ] {
            assert!(!request.name("x").allowed(Some(&old), Some(&new), &Objects::default()));
        }
        for request in [
            Request::new(&user, "delete", "vms").namespace("default"),
            Request::new(&user, "delete", "hosts"),
            Request::new(&user, "delete", "namespaces").group(""),
        ] {
            assert!(!request.name("x").allowed(Some(&old), None, &Objects::default()));
        }
        for request in [
            Request::new(&user, "create", "vms").namespace("default"),
            Request::new(&user, "create", "vms").namespace("default").subresource("start"),
            Request::new(&user, "deletecollection", "vms").namespace("default"),
            Request::new(&user, "update", "secrets").group("").namespace("default"),
            Request::new(&user, "create", "namespaces").group(""),
        ] {
            assert_ne!(request.decide(), Decision::Allow);
        }
        let old = json!({"metadata": {"name": "web"}, "spec": {"cpus": 1}});
        let mut new = old.clone();
        let request = Request::new(&user, "patch", "vms").namespace("default").name("web");
        new["metadata"]["finalizers"] = json!(["x"]);
        assert!(request.allowed(Some(&old), Some(&new), &Objects::default()));
        new["spec"]["cpus"] = json!(2);
        assert!(!request.allowed(Some(&old), Some(&new), &Objects::default()));
    }

    #[test]
    fn they_make_and_delete_snapshots_of_schedules_alone() {
        let user = controllers();
        let objects = Objects::default().with(
            "snapshotschedules",
            json!({"metadata": {"name": "nightly", "namespace": "p", "uid": "u1"}, "spec": {"snapshot": {"vm": "web"}}}),
        );
        let snapshot = |name: &str, uid: &str, vm: &str| {
            json!({"metadata": {"name": name, "namespace": "p",
            "labels": {SCHEDULE_LABEL: "nightly", SCHEDULE_UID_LABEL: uid}}, "spec": {"vm": vm}})
        };
        let own = snapshot("nightly-1", "u1", "web");
        let create = Request::new(&user, "create", "snapshots").namespace("p");
        let delete = Request::new(&user, "delete", "snapshots").namespace("p");
        assert!(create.name("nightly-1").allowed(None, Some(&own), &objects));
        assert!(delete.name("nightly-1").allowed(Some(&own), None, &objects));
        assert!(!create.name("nightly-1").allowed(None, Some(&snapshot("nightly-1", "u1", "db")), &objects));
        let users = json!({"metadata": {"name": "mine", "namespace": "p"}, "spec": {"vm": "web"}});
        for (name, other) in [
            ("mine", &users),
            ("mine", &snapshot("mine", "u1", "web")),
            ("nightly-x", &snapshot("nightly-x", "u1", "web")),
            ("nightly-1", &snapshot("nightly-1", "u2", "web")),
        ] {
            assert!(!create.name(name).allowed(None, Some(other), &objects), "{other}");
            assert!(!delete.name(name).allowed(Some(other), None, &objects), "{other}");
        }
        for elsewhere in ["create", "delete"] {
            let request = Request::new(&user, elsewhere, "snapshots").namespace("q").name("nightly-1");
            let (old, new) = if elsewhere == "create" { (None, Some(&own)) } else { (Some(&own), None) };
            assert!(!request.allowed(old, new, &objects), "{elsewhere}");
        }
    }

    #[test]
    fn they_make_snapshots_of_what_a_volume_is_to_be_a_copy_of() {
        let user = controllers();
        let objects = Objects::default().with(
            "volumes",
            json!({"metadata": {"name": "copy", "namespace": "p", "uid": "u1"}, "spec": {"source": {"volume": "data"}}}),
        );
        let snapshot = |uid: &str, spec: Value| {
            let owner = json!({"kind": "Volume", "name": "copy", "uid": uid});
            json!({"metadata": {"name": "copy-source", "namespace": "p", "ownerReferences": [owner]}, "spec": spec})
        };
        let create = Request::new(&user, "create", "snapshots").namespace("p").name("copy-source");
        for (uid, spec, allowed) in [
            ("u1", json!({"volume": "data"}), true),
            ("u1", json!({"volume": "other"}), false),
            ("u1", json!({"vm": "data"}), false),
            ("u2", json!({"volume": "data"}), false),
        ] {
            assert_eq!(create.allowed(None, Some(&snapshot(uid, spec.clone())), &objects), allowed, "{uid} {spec}");
        }
        let own = snapshot("u1", json!({"volume": "data"}));
        let delete = Request::new(&user, "delete", "snapshots").namespace("p").name("copy-source");
        assert!(delete.allowed(Some(&own), None, &objects));
    }

    #[test]
    fn they_make_orphans_and_order_nothing() {
        let user = controllers();
        let create = Request::new(&user, "create", "orphans").name("disk-1");
        let orphan = |spec: Value| json!({"metadata": {"name": "disk-1"}, "spec": spec});
        let none = Objects::default();
        assert!(create.allowed(None, Some(&orphan(json!({"kind": "Disk"}))), &none));
        for order in [json!({"destroy": true}), json!({"adopt": {"namespace": "p", "volume": "v"}})] {
            assert!(!create.allowed(None, Some(&orphan(order.clone())), &none), "{order}");
        }
        let delete = Request::new(&user, "delete", "orphans").name("disk-1");
        assert!(delete.allowed(Some(&orphan(json!({}))), None, &none));
    }

    #[test]
    fn the_garbage_collector_touches_what_has_owners_alone() {
        let user = controllers();
        let none = Objects::default();
        let owner = |name: &str, block: bool| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": name, "blockOwnerDeletion": block});
        let secret = |owners: Value, finalizers: Value| json!({"metadata": {"name": "x", "ownerReferences": owners, "finalizers": finalizers}, "data": {"a": "eA=="}});
        let owned = secret(json!([owner("a", true), owner("b", true)]), json!(["orphan", "x/y"]));
        let delete = Request::new(&user, "delete", "secrets").group("").namespace("default").name("x");
        assert!(delete.allowed(Some(&owned), None, &none));
        let patch = Request::new(&user, "patch", "secrets").group("").namespace("default").name("x");
        for (new, allowed) in [
            (secret(json!([owner("b", true)]), json!(["orphan", "x/y"])), true),
            (secret(json!([owner("a", false), owner("b", true)]), json!(["orphan", "x/y"])), true),
            (secret(json!([owner("a", true), owner("b", true)]), json!(["x/y"])), true),
            (secret(json!([owner("a", true), owner("b", true)]), json!(["orphan"])), false),
            (secret(json!([owner("a", true), owner("c", true)]), json!(["orphan", "x/y"])), false),
            (secret(json!([owner("a", true), owner("b", true), owner("c", true)]), json!(["orphan", "x/y"])), false),
        ] {
            assert_eq!(patch.allowed(Some(&owned), Some(&new), &none), allowed, "{new}");
        }
        let mut other = owned.clone();
        other["data"]["a"] = json!("");
        assert!(!patch.allowed(Some(&owned), Some(&other), &none), "not the data");
    }

    #[test]
    fn a_namespace_that_goes_is_emptied() {
        let user = controllers();
        let objects = Objects::default()
            .with("namespaces", json!({"metadata": {"name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z"}}))
            .with("namespaces", json!({"metadata": {"name": "staying"}}));
        let vm = json!({"metadata": {"name": "x"}});
        for (namespace, allowed) in [("going", true), ("staying", false), ("unknown", false), ("", false)] {
            let collection = Request::new(&user, "deletecollection", "vms").namespace(namespace);
            assert_eq!(collection.decide_with(&objects) == Decision::Allow, allowed, "{namespace}");
            let one = Request::new(&user, "delete", "vms").namespace(namespace).name("x");
            assert_eq!(one.allowed(Some(&vm), None, &objects), allowed, "{namespace}");
        }
    }
}
