//! What the agent of a host may do: see and report on the VMs bound to its host, the Volumes that these have, the Files
//! that it keeps, the Orphans that it is to see to, its Host object and its heartbeat.
//!
//! A host that has fallen into wrong hands must not reach further than the VMs that it runs. So an agent never changes
//! anything that decides which VMs come to it (its Host's labels, roles and owner), and sees no VM of other hosts.
//! Networks, security groups, images, volumes and storage pools it may read in all namespaces: which of them its VMs need
//! changes from moment to moment.

use serde::Deserialize as _;
use serde_json::Value;
use ucloud_machinery::{
    auth::{Attributes, UserInfo},
    meta,
    strategy::Lister,
};
use ucloud_types::{
    GROUP, VM, Volume,
    meta::{AGENT_FINALIZER, AGENTS_GROUP, AGENTS_WITH_ROLES_PREFIX, HOSTS_NAMESPACE},
    orphan::OwnerReview,
};

use super::{NO_RULE, Refusal, change::only_removes_finalizer, volume};

const HOST_OF_VM: &str = "status.binding.host";
const STATUS_HOST: &str = "status.host";

/// Whether the user's certificate is that of an agent.
pub fn is_one(user: &UserInfo) -> bool {
    user.groups.iter().any(|group| group == AGENTS_GROUP || group.starts_with(AGENTS_WITH_ROLES_PREFIX))
}

pub fn authorize(host: &str, request: &Attributes<'_>, lister: &dyn Lister) -> Result<(), Refusal> {
    match (request.group, request.resource, request.subresource, request.verb) {
        (GROUP, "vms", "", "list" | "watch") => {
            let selected = request.field_selector.required_value(HOST_OF_VM) == Some(host);
            require(selected, || format!("an agent sees the VMs of its host alone: select {HOST_OF_VM}={host}"))
        }
        (GROUP, "vms", "" | "status", "get" | "update" | "patch") => {
            let vm = lister.get(GROUP, "vms", Some(request.namespace), request.name);
            require_bound(host, vm.as_ref())
        }
        (GROUP, "files", "", "list" | "watch") => {
            let selected = request.field_selector.required_value(STATUS_HOST) == Some(host);
            require(selected, || format!("an agent sees the Files on its host alone: select {STATUS_HOST}={host}"))
        }
        (GROUP, "files", "" | "status", "get" | "update" | "patch") => {
            let file = lister.get(GROUP, "files", Some(request.namespace), request.name);
            require_kept(host, file.as_ref())
        }
        (GROUP, "snapshots", "", "list" | "watch") => {
            let selected = request.field_selector.required_value(STATUS_HOST) == Some(host);
            require(selected, || format!("an agent sees the Snapshots of its host alone: select {STATUS_HOST}={host}"))
        }
        (GROUP, "snapshots", "status", "get" | "update" | "patch") => {
            let snapshot = lister.get(GROUP, "snapshots", Some(request.namespace), request.name);
            require_taken_here(host, snapshot.as_ref())
        }
        (GROUP, "orphans", "", "list" | "watch") => {
            let selected = request.field_selector.required_value(STATUS_HOST) == Some(host);
            require(selected, || format!("an agent sees the Orphans of its host alone: select {STATUS_HOST}={host}"))
        }
        (GROUP, "orphans", "", "get") => {
            let orphan = lister.get(GROUP, "orphans", None, request.name);
            let own = orphan.as_ref().and_then(|orphan| orphan.pointer("/status/host")).and_then(Value::as_str);
            require(own == Some(host), || format!("host {host:?} has to see to no such Orphan"))
        }
        (GROUP, "hosts", OwnerReview::SUBRESOURCE, "create") => require_own(host, request.name),
        (GROUP, "files", "content", "get") => require_source(host, request.namespace, request.name, lister),
        (GROUP, "hosts", "", "list" | "watch") => {
            let selected = request.field_selector.required_value("metadata.name") == Some(host);
            require(selected, || format!("an agent sees its own Host alone: select metadata.name={host}"))
        }
        (GROUP, "hosts", "", "get") | (GROUP, "hosts", "status", "get" | "update" | "patch") => {
            require_own(host, request.name)
        }
        (GROUP, "hosts", "", "update" | "patch") => {
            Err("an agent writes nothing of its Host but the status".to_owned())
        }
        ("coordination.k8s.io", "leases", "", "get" | "update" | "patch") if request.namespace == HOSTS_NAMESPACE => {
            require_own(host, request.name)
        }
        (GROUP, "networks" | "images" | "securitygroups" | "storagepools" | "volumes", "", "get" | "list" | "watch")
        // whom and what these name is judged with the objects
        | (GROUP, "volumes", "" | "status", "get" | "update" | "patch")
        | (GROUP, "hosts", "", "create")
        | ("coordination.k8s.io", "leases", "", "create")
        | ("" | "events.k8s.io", "events", "", "create" | "patch") => Ok(()),
        _ => Err(NO_RULE),
    }
}

pub fn authorize_object(
    host: &str,
    request: &Attributes<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    lister: &dyn Lister,
) -> Result<(), Refusal> {
    match (request.resource, request.subresource, old, new) {
        ("vms", "status", Some(old), Some(_)) => require_bound(host, Some(old)),
        ("vms", "", Some(old), Some(new)) => {
            require_bound(host, Some(old))?;
            require_release("VM", old, new)
        }
        // which host keeps a File is the controllers' to say
        ("files", "status", Some(old), Some(new)) => {
            require_kept(host, Some(old))?;
            require_kept(host, Some(new))
        }
        ("files", "", Some(old), Some(new)) => {
            require_kept(host, Some(old))?;
            require_release("File", old, new)
        }
        // which host takes a snapshot is the controllers' to say, and what it is made of
        ("snapshots", "status", Some(old), Some(new)) => {
            require_taken_here(host, Some(old))?;
            require_taken_here(host, Some(new))?;
            let decided =
                |snapshot: &Value| (snapshot["status"]["disks"].clone(), snapshot["status"]["sourceUid"].clone());
            require(decided(old) == decided(new), || "an agent does not decide what a snapshot is made of".to_owned())
        }
        ("volumes", "status", Some(old), Some(new)) => volume::check_status(host, request.namespace, old, new, lister),
        ("volumes", "", Some(old), Some(new)) => volume::check_release(host, old, new),
        ("hosts", "", None, Some(new)) => {
            require_own(host, request.name)?;
            let decided = ["labels", "ownerReferences", "finalizers"];
            let given = decided.into_iter().find(|field| new.pointer(&format!("/metadata/{field}")).is_some());
            require(given.is_none(), || {
                format!("an agent cannot set metadata.{} of its Host; an administrator can", given.unwrap_or_default())
            })?;
            require_roles(request, new)
        }
        ("hosts", "status", Some(_), Some(_)) => require_own(host, request.name),
        ("leases", "", old, Some(new)) => {
            let place = request.namespace == HOSTS_NAMESPACE;
            require(place, || format!("heartbeats are in the namespace {HOSTS_NAMESPACE}"))?;
            require_own(host, request.name)?;
            require_unbound_life(old, new)
        }
        ("events", "", old, Some(new)) => {
            require_unbound_life(old, new)?;
            [old, Some(new)].into_iter().flatten().try_for_each(|event| require_own_event(host, event, lister))
        }
        _ => Err("an agent has no part in it".to_owned()),
    }
}

fn require(holds: bool, why: impl FnOnce() -> String) -> Result<(), Refusal> {
    if holds { Ok(()) } else { Err(why()) }
}

fn require_own(host: &str, name: &str) -> Result<(), Refusal> {
    require(name == host, || format!("this agent is that of host {host:?}"))
}

fn require_release(kind: &str, old: &Value, new: &Value) -> Result<(), Refusal> {
    let leaves = meta::is_terminating(old) && only_removes_finalizer(old, new, AGENT_FINALIZER);
    require(leaves, || {
        format!(
            "an agent changes nothing of a {kind} but its status, and removes {AGENT_FINALIZER} once the {kind} is being deleted"
        )
    })
}

/// A host takes no role but those in its agent's certificate: as a router it would carry other people's traffic.
fn require_roles(request: &Attributes<'_>, host: &Value) -> Result<(), Refusal> {
    let roles = host.pointer("/spec/roles").and_then(Value::as_array).into_iter().flatten();
    let mut names = roles.map(|role| role.as_str().unwrap_or_default());
    let groups = request.user.groups.iter().filter_map(|group| group.strip_prefix(AGENTS_WITH_ROLES_PREFIX));
    let allowed: Vec<&str> = groups.flat_map(|roles| roles.split(',')).collect();
    let foreign = names.find(|role| !allowed.contains(role));
    require(foreign.is_none(), || {
        format!(
            "this agent's certificate does not allow the role {:?}; `ucloud-api pki agent --roles` makes one that does",
            foreign.unwrap_or_default()
        )
    })
}

/// An agent does not decide how long its objects stay: neither by finalizers nor by owners.
fn require_unbound_life(old: Option<&Value>, new: &Value) -> Result<(), Refusal> {
    let field = |object: &Value, name: &str| object.get("metadata").and_then(|metadata| metadata.get(name)).cloned();
    let changed = ["finalizers", "ownerReferences"]
        .into_iter()
        .find(|name| field(new, name) != old.and_then(|old| field(old, name)));
    require(changed.is_none(), || format!("an agent cannot set metadata.{}", changed.unwrap_or_default()))
}

/// The same words whether the VM is another host's or is not there: which of the two is not for the agent to know.
fn require_bound(host: &str, vm: Option<&Value>) -> Result<(), Refusal> {
    require(vm.is_some_and(|vm| is_bound(host, vm)), || format!("no such VM is bound to host {host:?}"))
}

/// The same of a File.
fn require_kept(host: &str, file: Option<&Value>) -> Result<(), Refusal> {
    let kept = file.and_then(|file| file.pointer("/status/host")).and_then(Value::as_str) == Some(host);
    require(kept, || format!("no such File is on host {host:?}"))
}

/// The same of a Snapshot.
fn require_taken_here(host: &str, snapshot: Option<&Value>) -> Result<(), Refusal> {
    let here = snapshot.and_then(|snapshot| snapshot.pointer("/status/host")).and_then(Value::as_str) == Some(host);
    require(here, || format!("host {host:?} takes no such Snapshot"))
}

/// The bytes of a File are for those hosts alone that import an image of it, or run a VM with a disk or a Volume of one.
fn require_source(host: &str, namespace: &str, file: &str, lister: &dyn Lister) -> Result<(), Refusal> {
    let images = lister.list(GROUP, "images", Some(namespace));
    let of_it = |image: &&Value| image.pointer("/spec/source/upload/file").and_then(Value::as_str) == Some(file);
    let vms = lister.list(GROUP, "vms", None);
    let bound: Vec<VM> = vms.iter().filter(|vm| is_bound(host, vm)).filter_map(|vm| VM::deserialize(vm).ok()).collect();
    let needed = images.iter().filter(of_it).any(|image| {
        let uses = |vm: &VM| uses(vm, (namespace, meta::text(image, "name")), lister);
        image.pointer("/status/importer").and_then(Value::as_str) == Some(host) || bound.iter().any(uses)
    });
    require(needed, || format!("host {host:?} needs no image of this File"))
}

/// Whether a disk of the VM is a clone of the image, or a Volume that is one in the beginning.
fn uses(vm: &VM, image: (&str, &str), lister: &dyn Lister) -> bool {
    let from = vm.metadata.namespace.as_deref().unwrap_or_default();
    vm.spec.disks.iter().any(|disk| {
        let volume = disk.volume.as_ref().and_then(|name| lister.get(GROUP, "volumes", Some(from), name));
        let volume = volume.and_then(|volume| Volume::deserialize(volume).ok());
        let source = volume.as_ref().and_then(Volume::image);
        disk.is_clone_of(from, image) || source.is_some_and(|source| source.resolve(from) == image)
    })
}

fn is_bound(host: &str, vm: &Value) -> bool {
    vm.pointer("/status/binding/host").and_then(Value::as_str) == Some(host)
}

/// An event must be about the host itself or about a VM that is bound to it.
fn require_own_event(host: &str, event: &Value, lister: &dyn Lister) -> Result<(), Refusal> {
    let about = |field: &str| event["involvedObject"][field].as_str().unwrap_or_default();
    let is_ours = about("apiVersion").split('/').next() == Some(GROUP);
    let own = is_ours
        && match about("kind") {
            "Host" => about("name") == host,
            "VM" => lister
                .get(GROUP, "vms", Some(about("namespace")), about("name"))
                .is_some_and(|vm| is_bound(host, &vm) && meta::text(&vm, "uid") == about("uid")),
            _ => false,
        };
    require(own, || format!("an agent reports events of host {host:?} and of the VMs bound to it alone"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ucloud_machinery::{auth::Decision, selector::FieldSelector};
    use ucloud_types::meta::SYSTEM_NAMESPACE;

    use super::super::test_support::{Objects, Request, user};
    use super::*;

    fn agent() -> UserInfo {
        user("ucloud:agent:h1", &["ucloud:agents:compute"])
    }

    fn vm(name: &str, host: Option<&str>) -> Value {
        let mut vm = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "finalizers": [AGENT_FINALIZER, "other"]}, "spec": {"cpus": 1}, "status": {}});
        if let Some(host) = host {
            vm["status"]["binding"] = json!({"host": host, "epoch": 1});
        }
        vm
    }

    fn objects() -> Objects {
        Objects::default()
            .with("vms", vm("mine", Some("h1")))
            .with("vms", vm("theirs", Some("h2")))
            .with("vms", vm("free", None))
    }

    #[test]
    fn it_sees_the_vms_of_its_host_alone() {
        let user = agent();
        for verb in ["list", "watch"] {
            for (selector, allowed) in [
                ("status.binding.host=h1", true),
                ("metadata.name=x,status.binding.host==h1", true),
                ("", false),
                ("status.binding.host=h2", false),
                ("status.binding.host=", false),
                ("status.binding.host!=h1", false),
                ("metadata.name=h1", false),
            ] {
                let selector = FieldSelector::parse(selector).unwrap();
                let decision = Request::new(&user, verb, "vms").selector(&selector).decide();
                assert_eq!(decision == Decision::Allow, allowed, "{verb} {selector:?}");
            }
        }
        for (name, allowed) in [("mine", true), ("theirs", false), ("free", false), ("absent", false)] {
            let request = Request::new(&user, "get", "vms").namespace("default").name(name);
            assert_eq!(request.decide_with(&objects()) == Decision::Allow, allowed, "{name}");
        }
    }

    #[test]
    fn it_sees_reports_on_and_lets_go_the_files_on_its_host_alone() {
        let user = agent();
        for (selector, allowed) in [("status.host=h1", true), ("", false), ("status.host=h2", false)] {
            let selector = FieldSelector::parse(selector).unwrap();
            let decision = Request::new(&user, "list", "files").selector(&selector).decide();
            assert_eq!(decision == Decision::Allow, allowed, "{selector:?}");
        }
        let file = |host: Option<&str>, finalizers: &[&str]| {
            json!({"metadata": {"name": "iso", "namespace": "default", "finalizers": finalizers,
                "deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"size": "1"}, "status": {"host": host}})
        };
        for (host, own) in [(Some("h1"), true), (Some("h2"), false), (None, false)] {
            let held = file(host, &[AGENT_FINALIZER]);
            let objects = Objects::default().with("files", held.clone());
            let patch = Request::new(&user, "patch", "files").namespace("default").name("iso");
            assert_eq!(patch.allowed(Some(&held), Some(&file(host, &[])), &objects), own, "{host:?}");
            assert_eq!(patch.subresource("status").allowed(Some(&held), Some(&held), &objects), own, "{host:?}");
            let elsewhere = file(Some("h3"), &[AGENT_FINALIZER]);
            assert!(!patch.subresource("status").allowed(Some(&held), Some(&elsewhere), &objects));
            let mut larger = file(host, &[]);
            larger["spec"]["size"] = json!("2");
            assert!(!patch.allowed(Some(&held), Some(&larger), &objects));
        }
    }

    #[test]
    fn it_reports_on_the_snapshots_that_its_host_takes_and_decides_nothing_of_them() {
        let user = agent();
        for (selector, allowed) in [("status.host=h1", true), ("", false), ("status.host=h2", false)] {
            let selector = FieldSelector::parse(selector).unwrap();
            let decision = Request::new(&user, "watch", "snapshots").selector(&selector).decide();
            assert_eq!(decision == Decision::Allow, allowed, "{selector:?}");
        }
        let snapshot = |host: &str, disk: &str| {
            json!({"metadata": {"name": "kept", "namespace": "default"}, "spec": {"vm": "web"},
                "status": {"host": host, "sourceUid": "vm-uid", "disks": [{"name": disk}]}})
        };
        let old = snapshot("h1", "root");
        let objects = Objects::default().with("snapshots", old.clone());
        let status =
            |verb| Request::new(&user, verb, "snapshots").subresource("status").namespace("default").name("kept");
        assert_eq!(status("get").decide_with(&objects), Decision::Allow);
        assert!(status("patch").allowed(Some(&old), Some(&old), &objects));
        for new in [snapshot("h2", "root"), snapshot("h1", "other")] {
            assert!(!status("patch").allowed(Some(&old), Some(&new), &objects), "{new}");
        }
        let theirs = snapshot("h2", "root");
        let objects = Objects::default().with("snapshots", theirs.clone());
        assert_ne!(status("get").decide_with(&objects), Decision::Allow);
        assert!(!status("patch").allowed(Some(&theirs), Some(&theirs), &objects));
        for verb in ["patch", "delete", "create", "get"] {
            let request = Request::new(&user, verb, "snapshots").namespace("default").name("kept");
            assert_ne!(request.decide_with(&objects), Decision::Allow, "{verb}");
        }
    }

    #[test]
    fn it_sees_the_orphans_that_it_is_to_see_to_and_changes_none() {
        let user = agent();
        for (selector, allowed) in [("status.host=h1", true), ("", false), ("status.host=h2", false)] {
            let selector = FieldSelector::parse(selector).unwrap();
            let decision = Request::new(&user, "watch", "orphans").selector(&selector).decide();
            assert_eq!(decision == Decision::Allow, allowed, "{selector:?}");
        }
        let orphan = |name: &str, host: &str| json!({"metadata": {"name": name}, "spec": {}, "status": {"host": host}});
        let objects = Objects::default().with("orphans", orphan("mine", "h1")).with("orphans", orphan("theirs", "h2"));
        for (name, allowed) in [("mine", true), ("theirs", false), ("absent", false)] {
            let get = Request::new(&user, "get", "orphans").name(name);
            assert_eq!(get.decide_with(&objects) == Decision::Allow, allowed, "{name}");
        }
        for verb in ["create", "update", "patch", "delete"] {
            let request = Request::new(&user, verb, "orphans").name("mine");
            assert_ne!(request.decide_with(&objects), Decision::Allow, "{verb}");
            assert_ne!(request.subresource("status").decide_with(&objects), Decision::Allow, "{verb}");
        }
        for (host, allowed) in [("h1", true), ("h2", false)] {
            let ask = Request::new(&user, "create", "hosts").name(host).subresource("owners");
            assert_eq!(ask.decide() == Decision::Allow, allowed, "{host}");
        }
    }

    #[test]
    fn it_reads_the_bytes_of_files_that_it_imports_or_runs_images_of() {
        let image = |name: &str, file: &str, importer: &str| {
            json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"source": {"upload": {"file": file}}},
                "status": {"importer": importer}})
        };
        let with_disk = |host: &str, disk: Value| {
            json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
                "metadata": {"name": "web", "namespace": "default"},
                "spec": {"cpus": 1, "memory": "1Gi", "disks": [disk]},
                "status": {"binding": {"host": host, "epoch": 1}}})
        };
        let vm = |host: &str, image: &str| with_disk(host, json!({"name": "root", "image": image}));
        let volume = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
            "metadata": {"name": "data", "namespace": "default"},
            "spec": {"size": "1Gi", "source": {"image": "fourth"}}});
        let objects = Objects::default()
            .with("images", image("first", "imported", "h1"))
            .with("images", image("second", "run", "h2"))
            .with("images", image("third", "other", "h2"))
            .with("images", image("fourth", "attached", "h2"))
            .with("volumes", volume)
            .with("vms", with_disk("h1", json!({"name": "data", "volume": "data"})))
            .with("vms", vm("h1", "second"))
            .with("vms", vm("h2", "third"));
        let user = agent();
        for (file, verb, allowed) in [
            ("imported", "get", true),
            ("run", "get", true),
            ("attached", "get", true),
            ("other", "get", false),
            ("imported", "update", false),
        ] {
            let request = Request::new(&user, verb, "files").subresource("content").namespace("default").name(file);
            assert_eq!(request.decide_with(&objects) == Decision::Allow, allowed, "{verb} {file}");
        }
        let elsewhere = Request::new(&user, "get", "files").subresource("content").namespace("p").name("imported");
        assert_ne!(elsewhere.decide_with(&objects), Decision::Allow);
        for (kind, name) in [("images", "first"), ("volumes", "data")] {
            let disk = Request::new(&user, "get", kind).subresource("content").namespace("default").name(name);
            assert_ne!(disk.decide_with(&objects), Decision::Allow, "a host gives disks, and asks for none");
        }
    }

    #[test]
    fn it_reports_on_its_vms_and_lets_them_go() {
        let user = agent();
        for (name, host) in [("mine", Some("h1")), ("theirs", Some("h2")), ("free", None)] {
            let old = vm(name, host);
            let request = Request::new(&user, "patch", "vms").namespace("default").name(name);
            let own = host == Some("h1");
            assert_eq!(request.subresource("status").allowed(Some(&old), Some(&old), &objects()), own, "{name}");

            let mut leaving = old.clone();
            leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            let mut released = leaving.clone();
            released["metadata"]["finalizers"] = json!(["other"]);
            assert_eq!(request.allowed(Some(&leaving), Some(&released), &objects()), own, "{name}");

            let mut early = old.clone();
            early["metadata"]["finalizers"] = json!(["other"]);
            assert!(!request.allowed(Some(&old), Some(&early), &objects()), "{name} is not being deleted");
            released["metadata"]["finalizers"] = json!([]);
            assert!(
                !request.allowed(Some(&leaving), Some(&released), &objects()),
                "the other finalizer is not its own"
            );
            let mut respecified = old.clone();
            respecified["spec"]["cpus"] = json!(64);
            assert!(!request.allowed(Some(&old), Some(&respecified), &objects()), "{name}");
        }
    }

    #[test]
    fn the_store_and_not_the_cache_decides_about_a_write() {
        let user = agent();
        let moved = vm("mine", Some("h2"));
        let request = Request::new(&user, "patch", "vms").namespace("default").name("mine").subresource("status");
        assert!(!request.allowed(Some(&moved), Some(&moved), &objects()));
    }

    #[test]
    fn a_host_cannot_edit_itself_free() {
        let user = agent();
        let create = Request::new(&user, "create", "hosts");
        let host = |metadata: Value| json!({"metadata": metadata, "spec": {"roles": ["compute"]}});
        let none = Objects::default();
        assert!(create.name("h1").allowed(None, Some(&host(json!({"name": "h1"}))), &none));
        assert!(!create.name("h2").allowed(None, Some(&host(json!({"name": "h2"}))), &none));
        for field in [json!({"labels": {"a": "b"}}), json!({"ownerReferences": []}), json!({"finalizers": ["x"]})] {
            assert!(!create.name("h1").allowed(None, Some(&host(field.clone())), &none), "{field}");
        }
        let with_roles = |roles: Value| json!({"metadata": {"name": "h1"}, "spec": {"roles": roles}});
        for (roles, allowed) in [
            (json!([]), true),
            (json!(["compute"]), true),
            (json!(["router"]), false),
            (json!(["compute", "router"]), false),
        ] {
            let given = create.name("h1").allowed(None, Some(&with_roles(roles.clone())), &none);
            assert_eq!(given, allowed, "its certificate says compute alone, not {roles}");
        }
        for (groups, allowed) in
            [(["ucloud:agents:compute,router"], true), ([AGENTS_GROUP], false), (["ucloud:agents:compute,"], false)]
        {
            let user = super::super::test_support::user("ucloud:agent:h1", &groups);
            let create = Request::new(&user, "create", "hosts").name("h1");
            let given = create.allowed(None, Some(&with_roles(json!(["compute", "router"]))), &none);
            assert_eq!(given, allowed, "{groups:?}");
        }
        for verb in ["update", "patch", "delete", "deletecollection"] {
            assert_ne!(Request::new(&user, verb, "hosts").name("h1").decide(), Decision::Allow, "{verb}");
        }
        let old = host(json!({"name": "h1"}));
        let status = Request::new(&user, "patch", "hosts").subresource("status");
        assert!(status.name("h1").allowed(Some(&old), Some(&old), &none));
        assert!(!status.name("h2").allowed(Some(&old), Some(&old), &none));
    }

    #[test]
    fn it_keeps_its_own_heartbeat() {
        let user = agent();
        let lease = json!({"metadata": {"name": "x"}});
        for verb in ["create", "update", "patch"] {
            for (namespace, name, allowed) in
                [(HOSTS_NAMESPACE, "h1", true), (HOSTS_NAMESPACE, "h2", false), (SYSTEM_NAMESPACE, "h1", false)]
            {
                let request =
                    Request::new(&user, verb, "leases").group("coordination.k8s.io").namespace(namespace).name(name);
                let old = (verb != "create").then_some(&lease);
                assert_eq!(
                    request.allowed(old, Some(&lease), &Objects::default()),
                    allowed,
                    "{verb} {namespace}/{name}"
                );
            }
        }
        for metadata in [json!({"finalizers": ["a/b"]}), json!({"ownerReferences": [{"uid": "u"}]})] {
            let held = json!({"metadata": metadata});
            let patch = Request::new(&user, "patch", "leases").group("coordination.k8s.io").namespace(HOSTS_NAMESPACE);
            assert!(!patch.name("h1").allowed(Some(&lease), Some(&held), &Objects::default()), "{held}");
            assert!(patch.name("h1").allowed(Some(&held), Some(&held), &Objects::default()), "it was so before");
        }
        let delete = Request::new(&user, "delete", "leases").group("coordination.k8s.io");
        assert_ne!(delete.namespace(HOSTS_NAMESPACE).name("h1").decide(), Decision::Allow);
    }

    #[test]
    fn its_events_are_about_its_own() {
        let user = agent();
        let event = |kind: &str, namespace: &str, name: &str, uid: &str| {
            json!({"metadata": {"name": "e"}, "involvedObject": {"apiVersion": "ucloud.ungleich.ch/v1alpha1",
                "kind": kind, "namespace": namespace, "name": name, "uid": uid}})
        };
        for (about, allowed) in [
            (event("VM", "default", "mine", "uid-mine"), true),
            (event("VM", "default", "mine", "uid-of-another"), false),
            (event("VM", "default", "theirs", "uid-theirs"), false),
            (event("VM", "default", "absent", ""), false),
            (event("Host", "", "h1", ""), true),
            (event("Host", "", "h2", ""), false),
            (event("Network", "default", "n", ""), false),
        ] {
            for group in ["", "events.k8s.io"] {
                let create = Request::new(&user, "create", "events").group(group).namespace("default").name("e");
                assert_eq!(create.allowed(None, Some(&about), &objects()), allowed, "{about}");
            }
        }
        for field in ["finalizers", "ownerReferences"] {
            let mut held = event("VM", "default", "mine", "uid-mine");
            held["metadata"][field] = json!(["a/b"]);
            let create = Request::new(&user, "create", "events").group("").namespace("default").name("e");
            assert!(!create.allowed(None, Some(&held), &objects()), "{field}");
        }
        let patch = Request::new(&user, "patch", "events").group("").namespace("default").name("e");
        let (mine, theirs) =
            (event("VM", "default", "mine", "uid-mine"), event("VM", "default", "theirs", "uid-theirs"));
        assert!(patch.allowed(Some(&mine), Some(&mine), &objects()));
        assert!(!patch.allowed(Some(&theirs), Some(&mine), &objects()), "it would take over another's event");
        assert!(!patch.allowed(Some(&mine), Some(&theirs), &objects()));
    }

    #[test]
    fn nothing_else() {
        let user = agent();
        for (verb, resource) in [
            ("create", "vms"),
            ("delete", "vms"),
            ("deletecollection", "vms"),
            ("list", "networkpools"),
            ("list", "networkallocations"),
            ("patch", "networks"),
            ("delete", "images"),
            ("patch", "storagepools"),
        ] {
            assert_ne!(
                Request::new(&user, verb, resource).decide_with(&objects()),
                Decision::Allow,
                "{verb} {resource}"
            );
        }
        for subresource in ["binding", "start", "stop", "restart", "restore"] {
            let request =
                Request::new(&user, "create", "vms").namespace("default").name("mine").subresource(subresource);
            assert_ne!(request.decide_with(&objects()), Decision::Allow, "{subresource}");
        }
        for verb in ["get", "list", "watch"] {
            for resource in ["namespaces", "events", "secrets"] {
                assert_ne!(
                    Request::new(&user, verb, resource).group("").decide(),
                    Decision::Allow,
                    "{verb} {resource}"
                );
            }
        }
    }
}
