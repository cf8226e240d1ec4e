//! What the controllers may do: read everything, and write the parts that are theirs. Never a spec.

use serde_json::Value;
use ucloud_machinery::{auth::Attributes, meta, strategy::Lister};
use ucloud_types::{GROUP, meta::SYSTEM_NAMESPACE};

use super::{NO_RULE, Refusal, change::only_finalizers};

/// Kinds on which controllers hold finalizers: what else changes in them is judged with the objects.
const HELD: [&str; 3] = ["vms", "networks", "images"];

/// What they may write anywhere: group, resources, verbs.
const WRITES: [(&str, &[&str], &[&str]); 7] = [
    (
        GROUP,
        &[
            "hosts/status",
            "images/status",
            "networkpools/status",
            "networks/status",
            "storagepools/status",
            "vms/status",
        ],
        &["update", "patch"],
    ),
    (GROUP, &HELD, &["update", "patch"]),
    (GROUP, &["vms/binding"], &["create"]),
    (GROUP, &["networkallocations"], &["create", "delete"]),
    ("", &["events"], &["create", "update", "patch"]),
    ("events.k8s.io", &["events"], &["create", "update", "patch"]),
    ("", &["namespaces/status", "namespaces/finalize"], &["update", "patch"]),
];

pub fn authorize(request: &Attributes<'_>, lister: &dyn Lister) -> Result<(), Refusal> {
    let resource = match request.subresource {
        "" => request.resource.to_owned(),
        subresource => format!("{}/{subresource}", request.resource),
    };
    let allowed = match (request.group, resource.as_str(), request.verb) {
        (_, _, "get" | "list" | "watch") => true,
        // leader election; hosts' heartbeats are the agents'
        ("coordination.k8s.io", "leases", "create" | "update" | "patch") => request.namespace == SYSTEM_NAMESPACE,
        (group, resource, verb) => {
            WRITES.iter().any(|(in_group, resources, verbs)| {
                *in_group == group && resources.contains(&resource) && verbs.contains(&verb)
            }) || (matches!(verb, "delete" | "deletecollection") && is_terminating(request.namespace, lister))
        }
    };
    if allowed { Ok(()) } else { Err(NO_RULE) }
}

pub fn authorize_object(request: &Attributes<'_>, old: Option<&Value>, new: Option<&Value>) -> Result<(), Refusal> {
    match (request.group, request.subresource, old, new) {
        (GROUP, "", Some(old), Some(new)) if HELD.contains(&request.resource) && !only_finalizers(old, new) => {
            Err("controllers change nothing of it but the finalizers and the status".to_owned())
        }
        _ => Ok(()),
    }
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
        for request in [
            Request::new(&user, "create", "vms").subresource("binding"),
            Request::new(&user, "patch", "vms").subresource("status"),
            Request::new(&user, "patch", "hosts").subresource("status"),
            Request::new(&user, "create", "networkallocations"),
            Request::new(&user, "delete", "networkallocations"),
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
        for request in [
            Request::new(&user, "create", "vms").namespace("default"),
            Request::new(&user, "create", "vms").namespace("default").subresource("start"),
            Request::new(&user, "delete", "vms").namespace("default"),
            Request::new(&user, "deletecollection", "vms").namespace("default"),
            Request::new(&user, "delete", "hosts"),
            Request::new(&user, "patch", "hosts"),
            Request::new(&user, "patch", "networkpools"),
            Request::new(&user, "patch", "networkallocations"),
            Request::new(&user, "patch", "leases").group("coordination.k8s.io").namespace(HOSTS_NAMESPACE),
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
    fn a_namespace_that_goes_is_emptied() {
        let user = controllers();
        let objects = Objects::default()
            .with("namespaces", json!({"metadata": {"name": "going", "deletionTimestamp": "2026-01-01T00:00:00Z"}}))
            .with("namespaces", json!({"metadata": {"name": "staying"}}));
        for (namespace, allowed) in [("going", true), ("staying", false), ("unknown", false), ("", false)] {
            for verb in ["delete", "deletecollection"] {
                let request = Request::new(&user, verb, "vms").namespace(namespace);
                assert_eq!(request.decide_with(&objects) == Decision::Allow, allowed, "{verb} {namespace}");
            }
        }
    }
}
