//! Who may do what, over the wire. The rules themselves have their tests beside them; here is what they protect.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Event, Namespace},
};
use kube::{
    Api, Client, Resource as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::events::{self as recorder, Recorder},
};
use serde_json::{Value, json};
use ucloud_api::{
    in_process::InProcess,
    pki::{Subject, directory},
};
use ucloud_types::{Host, Image, Network, StoragePool, VM, Volume, host::HostRole, meta::HOSTS_NAMESPACE};

use crate::fixtures::{bind, create, create_host, create_vm, post, refused, start, untyped, vm_spec, vms};

fn merge(patch: Value) -> (PatchParams, Patch<Value>) {
    (PatchParams::default(), Patch::Merge(patch))
}

/// A server with the hosts h1 and h2, and a VM bound to each.
async fn two_hosts() -> (InProcess, Client) {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    for (host, vm) in [("h1", "mine"), ("h2", "theirs")] {
        create_host(&admin, host).await;
        let vm = create_vm(&admin, vm, vm_spec()).await;
        bind(&admin, &vm, host).await.unwrap();
    }
    create_vm(&admin, "free", vm_spec()).await;
    (api, admin)
}

#[tokio::test]
async fn an_agent_sees_its_own_vms_alone() {
    let (api, admin) = two_hosts().await;
    let agent = api.agent("h1").await.unwrap();
    let all: Api<VM> = Api::all(agent.clone());
    let own = ListParams::default().fields("status.binding.host=h1");
    let listed = all.list(&own).await.unwrap();
    assert_eq!(listed.items.iter().filter_map(|vm| vm.metadata.name.as_deref()).collect::<Vec<_>>(), ["mine"]);
    for selector in ["", "status.binding.host=h2", "status.binding.host!=h1", "metadata.name=theirs"] {
        let status = refused(all.list(&ListParams::default().fields(selector)).await);
        assert_eq!(status.code, 403, "{selector}");
    }
    assert!(vms(&agent).get("mine").await.is_ok());
    for name in ["theirs", "free", "absent"] {
        let status = refused(vms(&agent).get(name).await);
        assert_eq!(status.code, 403, "{name}");
        let expected = format!(
            "vms.ucloud.ungleich.ch {name:?} is forbidden: User \"ucloud:agent:h1\" cannot get resource \"vms\" \
             in API group \"ucloud.ungleich.ch\" in the namespace \"default\": no such VM is bound to host \"h1\""
        );
        assert_eq!(status.message, expected);
    }

    let status = refused(all.watch(&WatchParams::default(), "0").await.map(|_| ()));
    assert_eq!(status.code, 403);
    let params = WatchParams::default().fields("status.binding.host=h1");
    let version = listed.metadata.resource_version.unwrap();
    let mut events = all.watch(&params, &version).await.unwrap().boxed();
    // what happens to others is not seen; what comes to the host is
    let patch = merge(json!({"metadata": {"labels": {"a": "b"}}}));
    vms(&admin).patch("theirs", &patch.0, &patch.1).await.unwrap();
    let free = vms(&admin).get("free").await.unwrap();
    bind(&admin, &free, "h1").await.unwrap();
    match events.try_next().await.unwrap() {
        Some(WatchEvent::Added(vm)) => assert_eq!(vm.metadata.name.as_deref(), Some("free")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_agent_reports_on_its_own_vms_alone() {
    let (api, admin) = two_hosts().await;
    let agent = api.agent("h1").await.unwrap();
    let running = merge(json!({"status": {"phase": "Running", "binding": {"host": "h1", "epoch": 99}}}));
    let vm = vms(&agent).patch_status("mine", &running.0, &running.1).await.unwrap();
    assert_eq!(vm.status.and_then(|status| status.binding).map(|binding| binding.epoch), Some(1));
    for name in ["theirs", "free"] {
        assert_eq!(refused(vms(&agent).patch_status(name, &running.0, &running.1).await).code, 403, "{name}");
    }
    for patch in [
        json!({"spec": {"cpus": 64}}),
        json!({"metadata": {"labels": {"a": "b"}}}),
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "x"}]}}),
        json!({"metadata": {"finalizers": []}}),
    ] {
        let (params, patch) = merge(patch);
        let status = refused(vms(&agent).patch("mine", &params, &patch).await);
        assert_eq!(status.code, 403, "{patch:?}: {}", status.message);
    }
    assert_eq!(refused(vms(&agent).delete("mine", &DeleteParams::default()).await).code, 403);
    for subresource in ["start", "stop", "restart", "restore", "binding"] {
        assert_eq!(refused(post(&agent, "mine", subresource, &json!({})).await).code, 403, "{subresource}");
    }

    // once it is being deleted, the agent lets go of its own VM and of no other
    for name in ["mine", "theirs"] {
        vms(&admin).delete(name, &DeleteParams::default()).await.unwrap();
    }
    let released = merge(json!({"metadata": {"finalizers": []}}));
    assert_eq!(refused(vms(&agent).patch("theirs", &released.0, &released.1).await).code, 403);
    vms(&agent).patch("mine", &released.0, &released.1).await.unwrap();
    assert_eq!(vms(&admin).get_opt("mine").await.unwrap(), None);
}

#[tokio::test]
async fn a_host_cannot_edit_itself_free() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let agent = api.agent("h1").await.unwrap();
    let hosts: Api<Host> = Api::all(agent.clone());
    let host = |name: &str, metadata: Value| -> Host {
        let mut object = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": metadata,
            "spec": {"roles": ["compute"]}});
        object["metadata"]["name"] = name.into();
        serde_json::from_value(object).unwrap()
    };
    let create = PostParams::default();
    assert_eq!(refused(hosts.create(&create, &host("h2", json!({}))).await).code, 403, "another host");
    for metadata in [json!({"labels": {"zone": "a"}}), json!({"finalizers": ["x.example/y"]})] {
        assert_eq!(refused(hosts.create(&create, &host("h1", metadata.clone())).await).code, 403, "{metadata}");
    }
    hosts.create(&create, &host("h1", json!({}))).await.unwrap();
    create_host(&admin, "h2").await;

    for patch in [
        json!({"metadata": {"labels": {"zone": "a"}}}),
        json!({"metadata": {"finalizers": ["x.example/y"]}}),
        json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Namespace", "name": "x", "uid": "x"}]}}),
        json!({"spec": {"unschedulable": false}}),
        json!({"spec": {"roles": ["compute", "router"]}}),
    ] {
        let (params, patch) = merge(patch);
        assert_eq!(refused(hosts.patch("h1", &params, &patch).await).code, 403, "{patch:?}");
    }
    let status = merge(json!({"metadata": {"labels": {"zone": "a"}}, "spec": {"roles": []},
        "status": {"bootID": "b1", "capacity": {"cpus": 4, "memory": "8Gi"}}}));
    let reported = hosts.patch_status("h1", &status.0, &status.1).await.unwrap();
    assert_eq!(reported.status.and_then(|status| status.boot_id).as_deref(), Some("b1"));
    assert_eq!(reported.metadata.labels, None, "a status update changes the status alone");
    assert_eq!(reported.spec.roles.len(), 1);
    assert_eq!(refused(hosts.patch_status("h2", &status.0, &status.1).await).code, 403);
    assert_eq!(refused(hosts.get("h2").await).code, 403);
    assert_eq!(refused(hosts.list(&ListParams::default()).await).code, 403);
    let own = hosts.list(&ListParams::default().fields("metadata.name=h1")).await.unwrap();
    assert_eq!(own.items.len(), 1);
    assert_eq!(refused(hosts.delete("h1", &DeleteParams::default()).await).code, 403);
}

#[tokio::test]
async fn a_host_takes_the_roles_that_its_certificate_allows() {
    let api = start().await;
    let subject = directory::agent(&"h1".parse().unwrap(), &[HostRole::Compute]);
    let hosts: Api<Host> = Api::all(api.client(&subject).await.unwrap());
    let host = |roles: Value| -> Host {
        serde_json::from_value(json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host",
            "metadata": {"name": "h1"}, "spec": {"roles": roles}}))
        .unwrap()
    };
    let status = refused(hosts.create(&PostParams::default(), &host(json!(["compute", "router"]))).await);
    assert_eq!(status.code, 403);
    assert!(status.message.contains("does not allow the role \"router\""), "{}", status.message);
    hosts.create(&PostParams::default(), &host(json!(["compute"]))).await.unwrap();
}

#[tokio::test]
async fn an_agent_keeps_its_own_heartbeat_and_reports_its_own_events() {
    let (api, _admin) = two_hosts().await;
    let agent = api.agent("h1").await.unwrap();
    let leases: Api<Lease> = Api::namespaced(agent.clone(), HOSTS_NAMESPACE);
    let lease = |name: &str| -> Lease {
        serde_json::from_value(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name}, "spec": {"holderIdentity": name, "leaseDurationSeconds": 40}}))
        .unwrap()
    };
    leases.create(&PostParams::default(), &lease("h1")).await.unwrap();
    assert_eq!(refused(leases.create(&PostParams::default(), &lease("h2")).await).code, 403);
    let renewed = merge(json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}));
    leases.patch("h1", &renewed.0, &renewed.1).await.unwrap();
    assert_eq!(refused(leases.patch("h2", &renewed.0, &renewed.1).await).code, 403);
    assert_eq!(refused(leases.list(&ListParams::default()).await).code, 403);

    let events: Api<Event> = Api::namespaced(agent.clone(), "default");
    for (name, allowed) in [("mine", true), ("theirs", false), ("free", false)] {
        let uid = vms(&api.admin().await.unwrap()).get(name).await.unwrap().metadata.uid;
        let event: Event = serde_json::from_value(json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": "e-"}, "reason": "Started", "type": "Normal", "message": "started",
            "involvedObject": {"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM", "namespace": "default",
                "name": name, "uid": uid}}))
        .unwrap();
        let result = events.create(&PostParams::default(), &event).await;
        assert_eq!(result.is_ok(), allowed, "{name}: {result:?}");
    }
}

#[tokio::test]
async fn the_usual_recorder_of_events_works_for_agents() {
    let (api, admin) = two_hosts().await;
    let recorder = Recorder::new(api.agent("h1").await.unwrap(), "ucloud-agent".into());
    let event = |reason: &str| recorder::Event {
        type_: recorder::EventType::Normal,
        reason: reason.to_owned(),
        note: None,
        action: "Starting".to_owned(),
        secondary: None,
    };
    let vm = vms(&admin).get("mine").await.unwrap();
    let host: Host = Api::all(admin.clone()).get("h1").await.unwrap();
    for reference in [vm.object_ref(&()), host.object_ref(&())] {
        recorder.publish(&event("Seen"), &reference).await.unwrap();
        // the second of its kind is counted in the first
        recorder.publish(&event("Seen"), &reference).await.unwrap();
    }
    let theirs = vms(&admin).get("theirs").await.unwrap();
    assert_eq!(refused(recorder.publish(&event("Seen"), &theirs.object_ref(&())).await).code, 403);
    let events = Api::<Event>::namespaced(admin, "default").list(&ListParams::default()).await.unwrap();
    assert_eq!(events.items.len(), 2, "{:?}", events.items);
}

#[tokio::test]
async fn an_agent_reads_what_its_vms_need() {
    let api = start().await;
    let agent = api.agent("h1").await.unwrap();
    Api::<Network>::all(agent.clone()).list(&ListParams::default()).await.unwrap();
    Api::<Image>::all(agent.clone()).list(&ListParams::default()).await.unwrap();
    Api::<StoragePool>::all(agent.clone()).list(&ListParams::default()).await.unwrap();
    Api::<Volume>::all(agent.clone()).list(&ListParams::default()).await.unwrap();
    assert_eq!(refused(Api::<Namespace>::all(agent.clone()).list(&ListParams::default()).await).code, 403);
    assert_eq!(refused(untyped(&agent, "NetworkPool", "networkpools").list(&ListParams::default()).await).code, 403);
    let status = refused(create(&agent, "Image", "images", "x", json!({})).await);
    assert_eq!(status.code, 403, "who may not write is not told what is wrong with it");
}

#[tokio::test]
async fn an_agent_has_the_volumes_of_its_own_vms_alone() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    for (host, vm) in [("h1", "mine"), ("h2", "theirs")] {
        create_host(&admin, host).await;
        let mut spec = vm_spec();
        spec["disks"] = json!([{"name": "data", "volume": "data"}]);
        let vm = create_vm(&admin, vm, spec).await;
        bind(&admin, &vm, host).await.unwrap();
    }
    create(&admin, "Volume", "volumes", "data", json!({"size": "1Gi"})).await.unwrap();
    let of = |client: &Client| -> Api<Volume> { Api::namespaced(client.clone(), "default") };
    let held = merge(json!({"metadata": {"finalizers": ["ucloud.ungleich.ch/agent"]}}));
    of(&admin).patch("data", &held.0, &held.1).await.unwrap();
    let (first, second) = (of(&api.agent("h1").await.unwrap()), of(&api.agent("h2").await.unwrap()));
    let mut uids = Vec::new();
    for vm in ["mine", "theirs"] {
        uids.push(vms(&admin).get(vm).await.unwrap().metadata.uid.unwrap());
    }
    // as agents write: their part of the status, server-side, on the version that they know
    let write = async |agent: &Api<Volume>, status: Value| {
        let version = agent.get("data").await.unwrap().metadata.resource_version;
        let config = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume",
            "metadata": {"name": "data", "resourceVersion": version}, "status": status});
        agent.patch_status("data", &PatchParams::apply("ucloud-agent").force(), &Patch::Apply(config)).await
    };
    let claim = |vm: usize, host: &str, epoch: u64| {
        let name = ["mine", "theirs"][vm];
        json!({"attachment": {"vm": name, "vmUid": uids[vm], "host": host, "epoch": epoch}, "host": host})
    };
    assert_eq!(refused(write(&first, claim(1, "h2", 1)).await).code, 403, "another host's VM");
    assert_eq!(refused(write(&first, claim(1, "h1", 1)).await).code, 403, "another host's VM as its own");
    assert_eq!(refused(write(&first, claim(0, "h1", 2)).await).code, 403, "an epoch that is not");
    write(&first, claim(0, "h1", 1)).await.unwrap();
    assert_eq!(refused(write(&second, claim(1, "h2", 1)).await).code, 422, "it would steal the volume");
    assert_eq!(refused(write(&second, json!({"host": "h1"})).await).code, 403, "it would give it back for the other");
    let mut made = claim(0, "h1", 1);
    made["size"] = json!("1Gi");
    let status = write(&first, made).await.unwrap().status.unwrap();
    assert_eq!((status.size, status.host.as_deref()), ("1Gi".parse().ok(), Some("h1")));

    let released = merge(json!({"metadata": {"finalizers": []}}));
    assert_eq!(refused(first.patch("data", &released.0, &released.1).await).code, 403, "nobody deletes it");
    of(&admin).delete("data", &DeleteParams::default()).await.unwrap();
    assert_eq!(refused(first.patch("data", &released.0, &released.1).await).code, 403, "a VM has it");
    write(&first, json!({"host": "h1", "size": "1Gi"})).await.unwrap();
    assert_eq!(refused(second.patch("data", &released.0, &released.1).await).code, 403, "its bytes are elsewhere");
    let spec = merge(json!({"spec": {"size": "9Gi"}}));
    assert_eq!(refused(first.patch("data", &spec.0, &spec.1).await).code, 403, "not the spec");
    first.patch("data", &released.0, &released.1).await.unwrap();
    assert_eq!(of(&admin).get_opt("data").await.unwrap(), None);
    assert_eq!(refused(first.delete("data", &DeleteParams::default()).await).code, 403);
}

#[tokio::test]
async fn controllers_never_write_a_spec() {
    let (api, admin) = two_hosts().await;
    let controllers = api.controllers().await.unwrap();
    let spec = merge(json!({"spec": {"cpus": 64}}));
    let status = refused(vms(&controllers).patch("free", &spec.0, &spec.1).await);
    assert_eq!(status.code, 403);
    assert!(status.message.contains("nothing of it but the finalizers"), "{}", status.message);
    let finalizers = merge(json!({"metadata": {"finalizers": ["ucloud.ungleich.ch/test"]}}));
    vms(&controllers).patch("free", &finalizers.0, &finalizers.1).await.unwrap();
    let scheduled = merge(json!({"status": {"conditions": [{"type": "Scheduled", "status": "False",
        "reason": "NoHost", "message": "0/2 hosts fit", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}));
    vms(&controllers).patch_status("free", &scheduled.0, &scheduled.1).await.unwrap();
    assert_eq!(refused(vms(&controllers).delete("free", &DeleteParams::default()).await).code, 403);
    let namespaces: Api<Namespace> = Api::all(admin);
    let project = serde_json::from_value(json!({"metadata": {"name": "project"}})).unwrap();
    namespaces.create(&PostParams::default(), &project).await.unwrap();
    let images = |client: &Client| Api::<Image>::namespaced(client.clone(), "project");
    let image: Image = serde_json::from_value(json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Image",
        "metadata": {"name": "i"}, "spec": {"source": {"file": {"name": "f"}}, "format": "raw"}}))
    .unwrap();
    images(&api.admin().await.unwrap()).create(&PostParams::default(), &image).await.unwrap();
    let everything = ListParams::default();
    let denied = images(&controllers).delete_collection(&DeleteParams::default(), &everything).await.map(|_| ());
    assert_eq!(refused(denied).code, 403, "the namespace stays");
    namespaces.delete("project", &DeleteParams::default()).await.unwrap();
    let _ = images(&controllers).delete_collection(&DeleteParams::default(), &everything).await.unwrap();
    assert_eq!(images(&controllers).list(&everything).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn a_stranger_may_discover_and_no_more() {
    let api = start().await;
    let stranger = api.client(&Subject::client("somebody", None)).await.unwrap();
    stranger.list_api_groups().await.unwrap();
    assert_eq!(refused(vms(&stranger).list(&ListParams::default()).await).code, 403);
    assert_eq!(refused(vms(&stranger).get("web").await).code, 403);
}
