//! A restore of a VM's disks, as a user asks for it.

use kube::{
    Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use ucloud_types::vm::RestoreRequest;

use crate::fixtures::{create, create_vm, object, post, refused, start, untyped, vm_spec, vms};

async fn set_status(client: &Client, (kind, plural, name): (&str, &str, &str), status: Value) {
    let patch = Patch::Merge(json!({ "status": status }));
    untyped(client, kind, plural).patch_status(name, &PatchParams::default(), &patch).await.unwrap();
}

/// The snapshot `kept` of this VM, with its disk root.
async fn kept(client: &Client, vm_uid: &str) {
    create(client, "Snapshot", "snapshots", "kept", json!({"vm": "web"})).await.unwrap();
    let root = json!({"name": "root", "pool": "default", "size": "1Gi", "image": "kept-root"});
    let old = json!({"name": "old", "pool": "default", "size": "1Gi", "image": "kept-old"});
    let status = json!({"phase": "Ready", "sourceUid": vm_uid, "host": "h1", "disks": [root, old]});
    set_status(client, ("Snapshot", "snapshots", "kept"), status).await;
}

async fn ask(client: &Client, snapshot: &str) -> kube::Result<Value> {
    let body = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VMRestore", "snapshot": snapshot});
    post(client, "web", "restore", &body).await
}

async fn refusal(client: &Client, code: u16) -> String {
    let status = refused(ask(client, "kept").await);
    assert_eq!(status.code, code, "{}", status.message);
    status.message.clone()
}

#[tokio::test]
async fn only_what_stands_still_is_restored_and_from_its_own_snapshot() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let vm = create_vm(&admin, "web", vm_spec()).await;
    assert!(refusal(&admin, 422).await.contains("kept"), "there is no such snapshot");
    kept(&admin, "another").await;
    assert!(refusal(&admin, 409).await.contains("spec.runStrategy is Halted"));

    post(&admin, "web", "stop", &Value::Null).await.unwrap();
    assert!(refusal(&admin, 409).await.contains("has not stopped yet"));
    let generation = vms(&admin).get("web").await.unwrap().metadata.generation;
    let running = json!({"phase": "Running", "observedGeneration": generation});
    set_status(&admin, ("VM", "vms", "web"), running).await;
    assert!(refusal(&admin, 409).await.contains("has not stopped yet"));
    let stopped = json!({"phase": "Stopped", "observedGeneration": generation});
    set_status(&admin, ("VM", "vms", "web"), stopped).await;

    assert!(refusal(&admin, 409).await.contains("is not of this VM"));
    let own = json!({"sourceUid": vm.metadata.uid});
    set_status(&admin, ("Snapshot", "snapshots", "kept"), own).await;
    assert!(refusal(&admin, 409).await.contains("image kept-root is gone"));
    let source = json!({"source": {"snapshot": {"name": "kept", "disk": "root"}}, "format": "raw"});
    let snapshot = untyped(&admin, "Snapshot", "snapshots").get("kept").await.unwrap();
    let owner = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Snapshot", "name": "kept", "uid": snapshot.metadata.uid});
    let mut image = object("Image", "kept-root", source);
    image.metadata.owner_references = Some(vec![serde_json::from_value(owner).unwrap()]);
    let controllers = api.controllers().await.unwrap();
    let image = untyped(&controllers, "Image", "images").create(&PostParams::default(), &image).await.unwrap();

    for id in [1, 2] {
        let answer = ask(&admin, "kept").await.unwrap();
        let request: RestoreRequest = serde_json::from_value(answer["status"]["restoreRequest"].clone()).unwrap();
        assert_eq!((request.id, request.snapshot.as_str()), (id, "kept"));
        let disks: Vec<_> = request.disks.iter().map(|disk| (disk.name.as_str(), Some(&disk.image_uid))).collect();
        assert_eq!(disks, [("root", image.metadata.uid.as_ref())], "the VM has no disk `old`");
    }
    let edited = json!({"restoreRequest": {"id": 3, "snapshot": "kept", "disks": []}});
    set_status(&admin, ("VM", "vms", "web"), edited).await;
    let status = vms(&admin).get("web").await.unwrap().status.unwrap();
    assert_eq!(status.restore_request.map(|request| request.id), Some(2), "nobody writes it by hand");
}
