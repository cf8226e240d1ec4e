//! Bad input: each is refused with every field at fault and what to do about it.

use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use ucloud_types::VM;

use crate::fixtures::{bind, create, create_host, create_vm, fields, object, refused, start, untyped, vm_spec, vms};

#[tokio::test]
async fn an_unknown_field_is_refused_where_the_client_asks_for_it() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let mut spec = vm_spec();
    spec["memroy"] = json!("1Gi");
    spec["disks"][0]["bus"] = json!("virtio");
    let body = serde_json::to_vec(&object("VM", "web", spec)).unwrap();
    let path = "/apis/ucloud.ungleich.ch/v1alpha1/namespaces/default/vms?fieldValidation=Strict";
    let request = http::Request::post(path).header("content-type", "application/json").body(body).unwrap();
    let status = refused(admin.request::<Value>(request).await);
    assert_eq!(status.code, 400);
    for field in ["spec.memroy", "spec.disks[0].bus"] {
        assert!(status.message.contains(&format!("unknown field \"{field}\"")), "{}", status.message);
    }
}

#[tokio::test]
async fn every_wrong_field_is_named_at_once() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let by_schema = json!({"cpus": 0, "memory": "lots", "disks": [
        {"name": "root", "image": "other/debian"}, {"name": "root", "image": "debian"}]});
    let status = refused(create(&admin, "VM", "vms", "web", by_schema).await);
    assert_eq!(status.code, 422);
    assert_eq!(status.reason, "Invalid");
    for field in ["spec.cpus", "spec.memory", "spec.disks[0].image", "spec.disks[1]"] {
        assert!(fields(&status).contains(&field), "{field} is not in {status:?}");
    }

    let by_rule = json!({"cpus": 1, "memory": "1Mi",
        "disks": [{"name": "root", "image": "debian", "size": "0", "pool": "No Pool"}],
        "networks": [
            {"name": "a", "network": "net", "mac": "02:00:00:00:00:01"},
            {"name": "b", "network": "net", "mac": "02:00:00:00:00:01"},
            {"name": "c", "network": "net", "mac": "00:00:00:00:00:00"},
            {"name": "d", "network": "../net", "addresses": ["fd00::5", "::1"]},
            {"name": "e", "network": "../net", "addresses": ["fd00::5"]}],
        "hostSelector": {"a b": "c"}});
    let status = refused(create(&admin, "VM", "vms", "web", by_rule).await);
    let expected = [
        "spec.memory",
        "spec.disks[0].size",
        "spec.disks[0].pool",
        "spec.networks[3].network",
        "spec.networks[4].network",
        "spec.hostSelector[a b]",
        "spec.networks[2].mac",
        "spec.networks[1].mac",
        "spec.networks[3].addresses[1]",
        "spec.networks[4].addresses[0]",
    ];
    assert_eq!(fields(&status), expected, "{}", status.message);
}

#[tokio::test]
async fn a_wrong_type_and_an_unknown_kind_are_refused() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let mut spec = vm_spec();
    spec["cpus"] = json!("two");
    let status = refused(create(&admin, "VM", "vms", "web", spec).await);
    assert_eq!((status.code, fields(&status)), (422, vec!["spec.cpus"]));
    let status = refused(create(&admin, "Sandwich", "sandwiches", "ham", json!({})).await);
    assert_eq!(status.code, 404);
    assert_eq!(status.message, "the server could not find the requested resource");
}

#[tokio::test]
async fn what_no_host_has_is_still_a_valid_wish() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let mut spec = vm_spec();
    spec["memory"] = json!("10Ti");
    let vm = create_vm(&admin, "huge", spec).await;
    assert_eq!(vm.spec.memory.to_string(), "10Ti");
}

#[tokio::test]
async fn a_new_vm_is_pending_whatever_its_author_says() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let mut vm = object("VM", "web", vm_spec());
    vm.data["status"] = json!({"phase": "Running", "binding": {"host": "h1", "epoch": 9}});
    untyped(&admin, "VM", "vms").create(&PostParams::default(), &vm).await.unwrap();
    let stored = untyped(&admin, "VM", "vms").get("web").await.unwrap();
    assert_eq!(stored.data["status"], json!({"phase": "Pending"}));
    assert_eq!(stored.data["spec"], vm_spec(), "no default is written into a spec");
}

#[tokio::test]
async fn a_status_update_reaches_neither_binding_nor_power_request() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_host(&admin, "h1").await;
    let vm = create_vm(&admin, "web", vm_spec()).await;
    bind(&admin, &vm, "h1").await.unwrap();
    for (patch, kind) in [
        (json!({"status": {"phase": "Running", "binding": {"host": "h2", "epoch": 7}}}), "another"),
        (json!({"status": {"binding": null, "powerRequest": {"id": 99, "action": "Stop"}}}), "none"),
    ] {
        let after = vms(&admin).patch_status("web", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let status = after.status.unwrap();
        assert_eq!(status.binding.map(|binding| (binding.host, binding.epoch)), Some(("h1".into(), 1)), "{kind}");
        assert_eq!(status.power_request, None);
        assert_eq!(status.phase, Some(ucloud_types::vm::VMPhase::Running));
    }
}

#[tokio::test]
async fn a_status_that_clients_could_not_read_is_refused() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_vm(&admin, "web", vm_spec()).await;
    let patch = json!({"status": {"disks": [{"name": "root", "pool": "default", "size": "99999999Ei"}]}});
    let status = refused(vms(&admin).patch_status("web", &PatchParams::default(), &Patch::Merge(&patch)).await);
    assert_eq!((status.code, fields(&status)), (422, vec!["status.disks[0].size"]));
    let patch = json!({"status": "fine"});
    let status = refused(vms(&admin).patch_status("web", &PatchParams::default(), &Patch::Merge(&patch)).await);
    assert_eq!(status.code, 422, "{status:?}");
}

fn with_mac(mac: &str, network: &str) -> Value {
    let mut spec = vm_spec();
    spec["networks"] = json!([{"name": "eth0", "network": network, "mac": mac}]);
    spec
}

#[tokio::test]
async fn two_vms_on_one_network_cannot_have_one_mac() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_vm(&admin, "first", with_mac("02:00:00:00:00:01", "net")).await;
    let status = refused(create(&admin, "VM", "vms", "second", with_mac("02:00:00:00:00:01", "net")).await);
    assert_eq!(fields(&status), ["spec.networks[0].mac"]);
    assert!(status.message.contains("VM \"first\" has it on network \"net\""), "{}", status.message);
    // another network is another wire
    create_vm(&admin, "third", with_mac("02:00:00:00:00:01", "other")).await;

    // an address that another VM derives is taken as well
    let mut spec = vm_spec();
    spec["networks"] = json!([{"name": "eth0", "network": "net"}]);
    let derived = create_vm(&admin, "derived", spec).await;
    let mac = derived.spec.networks[0].effective_mac(derived.metadata.uid.as_deref().unwrap()).to_string();
    let status = refused(create(&admin, "VM", "vms", "fourth", with_mac(&mac, "net")).await);
    assert!(status.message.contains("VM \"derived\""), "{}", status.message);

    // a VM may keep what it has, and take what is free
    let patch = json!({"spec": {"cpus": 2}});
    vms(&admin).patch("first", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let patch = json!({"spec": with_mac("02:00:00:00:00:01", "net")});
    let status = refused(vms(&admin).patch("third", &PatchParams::default(), &Patch::Merge(&patch)).await);
    assert_eq!(fields(&status), ["spec.networks[0].mac"]);
}

fn with_addresses(network: &str, addresses: &[&str]) -> Value {
    let mut spec = vm_spec();
    spec["networks"] = json!([{"name": "eth0", "network": network, "addresses": addresses}]);
    spec
}

#[tokio::test]
async fn declared_addresses_fit_their_network_and_are_one_vms_alone() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create(&admin, "Network", "networks", "net", json!({"ipam": "Manual"})).await.unwrap();
    // before the network has its prefix nobody knows better
    create_vm(&admin, "early", with_addresses("net", &["2001:db8::5"])).await;
    let status = json!({"status": {"prefix": "fd00::/64", "gateway": "fd00::1"}});
    let networks = untyped(&admin, "Network", "networks");
    networks.patch_status("net", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();

    let spec = with_addresses("net", &["fd00::5", "fd00::1", "2001:db8::6"]);
    let status = refused(create(&admin, "VM", "vms", "first", spec).await);
    assert_eq!(fields(&status), ["spec.networks[0].addresses[2]", "spec.networks[0].addresses[1]"], "{status:?}");
    assert!(status.message.contains("is not in the network's prefix fd00::/64"), "{}", status.message);
    create_vm(&admin, "first", with_addresses("net", &["fd00::5"])).await;
    let status = refused(create(&admin, "VM", "vms", "second", with_addresses("net", &["fd00::5"])).await);
    assert!(status.message.contains("VM \"first\" has it on network \"net\""), "{}", status.message);
    create_vm(&admin, "third", with_addresses("other", &["fd00::5"])).await;

    // what a VM has does not keep it from other changes
    let patch = json!({"spec": {"cpus": 2}});
    vms(&admin).patch("early", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
}

/// Changes one field of an object and gives the field errors.
async fn change(api: &Api<kube::api::DynamicObject>, name: &str, spec: Value) -> (Vec<String>, String) {
    let status = refused(api.patch(name, &PatchParams::default(), &Patch::Merge(&json!({"spec": spec}))).await);
    (fields(&status).into_iter().map(str::to_owned).collect(), status.message.clone())
}

#[tokio::test]
async fn the_type_of_a_network_changes_with_all_that_depends_on_it() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create(&admin, "Network", "networks", "lan", json!({"dns": {"servers": ["fd00::53"]}})).await.unwrap();
    let objects = untyped(&admin, "Network", "networks");
    let (found, message) = change(&objects, "lan", json!({"ipam": "Manual"})).await;
    assert_eq!(found, ["spec.dns"], "{message}");
    for spec in [json!({"ipam": "Manual", "dns": null}), json!({"ipam": "None"}), json!({"ipam": null})] {
        objects.patch("lan", &PatchParams::default(), &Patch::Merge(&json!({"spec": spec}))).await.unwrap();
    }
}

#[tokio::test]
async fn what_cannot_change_says_so_and_what_to_do_instead() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    for (kind, plural, spec, other, paths) in [
        ("Network", "networks", json!({"mtu": 1500}), json!({"pool": "other"}), vec!["spec.pool"]),
        (
            "Image",
            "images",
            json!({"source": {"http": {"url": "https://h/a"}}, "format": "qcow2"}),
            json!({"source": {"http": {"url": "https://h/b"}}, "format": "raw", "pool": "other",
                "checksum": format!("sha256:{}", "0".repeat(64))}),
            vec!["spec.source", "spec.format", "spec.checksum", "spec.pool"],
        ),
        (
            "StoragePool",
            "storagepools",
            json!({"directory": {"path": "/srv/a"}}),
            json!({"directory": {"path": "/srv/b"}}),
            vec!["spec.directory.path"],
        ),
        (
            "NetworkPool",
            "networkpools",
            json!({"prefix": "fd00:1::/48", "vniRange": {"first": 1, "last": 9}}),
            json!({"prefix": "fd00:2::/48", "vniRange": {"last": 10}}),
            vec!["spec.prefix", "spec.vniRange"],
        ),
    ] {
        create(&admin, kind, plural, "it", spec.clone()).await.unwrap();
        let objects = untyped(&admin, kind, plural);
        let (found, message) = change(&objects, "it", other).await;
        assert_eq!(found, paths, "{kind}");
        assert!(message.contains("field is immutable; make a "), "{message}");
        // what is equal is no change, also where a default is written out
        let same =
            json!({"spec": if kind == "Network" { json!({"ipam": "Automatic", "pool": "default"}) } else { spec }});
        objects.patch("it", &PatchParams::default(), &Patch::Merge(&same)).await.unwrap();
    }
}

#[tokio::test]
async fn the_generation_counts_changes_of_the_spec() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let generation = |vm: &VM| vm.metadata.generation;
    let vm = create_vm(&admin, "web", vm_spec()).await;
    assert_eq!(generation(&vm), Some(1));
    let patch = Patch::Merge(json!({"spec": {"cpus": 2}}));
    let vm = vms(&admin).patch("web", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(generation(&vm), Some(2));
    let patch = Patch::Merge(json!({"status": {"phase": "Running"}}));
    let vm = vms(&admin).patch_status("web", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(generation(&vm), Some(2));
}

#[tokio::test]
async fn an_image_of_a_file_names_one() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let image = |source: Value| json!({"format": "raw", "source": source});
    let status = refused(create(&admin, "Image", "images", "a", image(json!({"upload": {"file": "../iso"}}))).await);
    assert_eq!(fields(&status), ["spec.source.upload.file"]);
    let both = json!({"upload": {"file": "iso"}, "file": {"name": "iso"}});
    assert_eq!(refused(create(&admin, "Image", "images", "a", image(both)).await).code, 422);
    create(&admin, "Image", "images", "a", image(json!({"upload": {"file": "iso"}}))).await.unwrap();
}

#[tokio::test]
async fn a_files_spec_is_sound_and_stays() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    for (spec, field) in [
        (json!({}), "spec.size"),
        (json!({"size": "0"}), "spec.size"),
        (json!({"size": "-1"}), "spec.size"),
        (json!({"size": "1", "sha256": "sha256:../../etc/passwd"}), "spec.sha256"),
        (json!({"size": "1", "pool": "../pool"}), "spec.pool"),
    ] {
        let status = refused(create(&admin, "File", "files", "iso", spec).await);
        assert_eq!((status.code, fields(&status)), (422, vec![field]), "{}", status.message);
    }
    for name in ["../iso", "a/b", "ISO"] {
        let status = refused(create(&admin, "File", "files", name, json!({"size": "1"})).await);
        assert_eq!(fields(&status), ["metadata.name"], "{name}");
    }
    let sum = format!("sha256:{}", "0a".repeat(32));
    create(&admin, "File", "files", "iso", json!({"size": "1Ki", "sha256": sum})).await.unwrap();
    let files = untyped(&admin, "File", "files");
    let change = |spec: Value| Patch::Merge(json!({"spec": spec}));
    for (spec, field) in [
        (json!({"size": "2Ki"}), "spec.size"),
        (json!({"sha256": null}), "spec.sha256"),
        (json!({"pool": "other"}), "spec.pool"),
    ] {
        let status = refused(files.patch("iso", &PatchParams::default(), &change(spec)).await);
        assert_eq!(fields(&status), [field], "{}", status.message);
    }
    files.patch("iso", &PatchParams::default(), &change(json!({"size": 1024, "pool": "default"}))).await.unwrap();
}

#[tokio::test]
async fn a_volume_grows_and_is_else_what_it_was() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let wrong = json!({"size": "0", "pool": "No Pool", "source": {"image": "a..b"}});
    let status = refused(create(&admin, "Volume", "volumes", "data", wrong).await);
    assert_eq!(fields(&status), ["spec.size", "spec.source.image", "spec.pool"], "{}", status.message);
    let status = refused(create(&admin, "Volume", "volumes", "data", json!({"size": "1Gi", "source": {}})).await);
    assert_eq!(fields(&status), ["spec.source"], "{}", status.message);

    create(&admin, "Volume", "volumes", "data", json!({"size": "2Gi"})).await.unwrap();
    let volumes = untyped(&admin, "Volume", "volumes");
    for (spec, field) in [
        (json!({"size": "1Gi"}), "spec.size"),
        (json!({"pool": "fast"}), "spec.pool"),
        (json!({"source": {"image": "debian"}}), "spec.source"),
    ] {
        let (found, message) = change(&volumes, "data", spec).await;
        assert_eq!(found, [field], "{message}");
        assert!(message.contains("make a new volume instead"), "{message}");
    }
    let (_, message) = change(&volumes, "data", json!({"size": "1Gi"})).await;
    assert!(message.contains("\"1Gi\": a volume never shrinks, and this one has 2Gi"), "{message}");
    let grown = json!({"spec": {"size": "3Gi", "pool": "default", "reclaimPolicy": "Delete"}});
    volumes.patch("data", &PatchParams::default(), &Patch::Merge(grown)).await.unwrap();
}

#[tokio::test]
async fn a_volume_goes_from_vm_to_vm_by_way_of_none() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create(&admin, "Volume", "volumes", "data", json!({"size": "1Gi"})).await.unwrap();
    let volumes = untyped(&admin, "Volume", "volumes");
    let attach = async |attachment: Value| {
        let patch = Patch::Merge(json!({"status": {"attachment": attachment}}));
        volumes.patch_status("data", &PatchParams::default(), &patch).await
    };
    let by = |vm: &str| json!({"vm": vm, "vmUid": format!("uid-{vm}"), "host": "h1", "epoch": 1});
    attach(by("web")).await.unwrap();
    let status = refused(attach(by("db")).await);
    assert_eq!((status.code, fields(&status)), (422, vec!["status.attachment"]));
    assert!(status.message.contains("VM web (UID uid-web) has the volume"), "{}", status.message);
    attach(Value::Null).await.unwrap();
    attach(by("db")).await.unwrap();

    let held = json!({"metadata": {"finalizers": ["ucloud.ungleich.ch/agent"]}});
    volumes.patch("data", &PatchParams::default(), &Patch::Merge(held)).await.unwrap();
    let _ = volumes.delete("data", &kube::api::DeleteParams::default()).await.unwrap();
    attach(by("db")).await.unwrap();
    attach(Value::Null).await.unwrap();
    let status = refused(attach(by("db")).await);
    assert!(status.message.contains("the volume is being deleted"), "{}", status.message);
}

#[tokio::test]
async fn a_disk_is_a_clone_or_a_volume() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let with = |disks: Value| json!({"cpus": 1, "memory": "512Mi", "disks": disks});
    for disk in [json!({"name": "a"}), json!({"name": "a", "image": "debian", "volume": "data"})] {
        let status = refused(create(&admin, "VM", "vms", "web", with(json!([disk]))).await);
        assert_eq!(fields(&status), ["spec.disks[0]"], "{}", status.message);
        assert!(status.message.contains("exactly one of the fields image, volume"), "{}", status.message);
    }
    let disks = json!([
        {"name": "a", "volume": "data", "size": "1Gi", "pool": "fast"},
        {"name": "b", "volume": "data"},
        {"name": "c", "volume": "../data"}]);
    let status = refused(create(&admin, "VM", "vms", "web", with(disks)).await);
    let expected = ["spec.disks[0].size", "spec.disks[0].pool", "spec.disks[1].volume", "spec.disks[2].volume"];
    assert_eq!(fields(&status), expected, "{}", status.message);
    assert!(status.message.contains("its size is in Volume \"data\""), "{}", status.message);
    for field in ["image", "volume"] {
        let status = refused(create(&admin, "VM", "vms", "web", with(json!([{"name": "a", field: null}]))).await);
        assert_eq!(fields(&status), [format!("spec.disks[0].{field}")], "{}", status.message);
    }
    let disks = json!([{"name": "root", "image": "debian"}, {"name": "data", "volume": "data"}]);
    create_vm(&admin, "web", with(disks)).await;
}
