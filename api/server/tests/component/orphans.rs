//! Orphans: whose something is the server knows, and it says so to hosts.

use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use ucloud_types::{
    OrphanSpec,
    orphan::{OrphanKind, OwnerReview},
};

use crate::fixtures::{create, create_vm, fields, refused, start, untyped, vm_spec};

async fn ask(agent: &Client, host: &str, uids: &[&str]) -> Result<Vec<String>, kube::Error> {
    let review = OwnerReview::of(uids.iter().map(|uid| (*uid).to_owned()).collect());
    let path = format!("/apis/ucloud.ungleich.ch/v1alpha1/hosts/{host}/owners");
    let request = http::Request::post(path).header("content-type", "application/json");
    let answer: OwnerReview = agent.request(request.body(serde_json::to_vec(&review).unwrap()).unwrap()).await?;
    Ok(answer.status.unwrap().missing)
}

#[tokio::test]
async fn a_host_is_told_of_which_uids_there_is_no_object() {
    let api = start().await;
    let (admin, agent) = (api.admin().await.unwrap(), api.agent("h1").await.unwrap());
    create(&agent, "Host", "hosts", "h1", json!({})).await.unwrap();
    let vm = create_vm(&admin, "web", vm_spec()).await;
    let uid = vm.metadata.uid.as_deref().unwrap();
    assert_eq!(ask(&agent, "h1", &[uid, "nobody"]).await.unwrap(), ["nobody"]);
    assert_eq!(ask(&agent, "h1", &[]).await.unwrap(), [""; 0]);
    assert_eq!(refused(ask(&agent, "h2", &[uid]).await).code, 403, "another host asks for itself");
    assert_eq!(refused(ask(&admin, "h3", &[uid]).await).code, 404);
}

#[tokio::test]
async fn what_a_live_object_names_is_not_ordered_away() {
    let api = start().await;
    let (admin, controllers) = (api.admin().await.unwrap(), api.controllers().await.unwrap());
    let vm = create_vm(&admin, "web", vm_spec()).await;
    let orphan = |uid: &str| OrphanSpec {
        kind: OrphanKind::Domain,
        uid: uid.into(),
        name: None,
        pool: None,
        host: Some("h1".into()),
        destroy: false,
        adopt: None,
    };
    let (theirs, nobodys) = (orphan(vm.metadata.uid.as_deref().unwrap()), orphan("nobody"));
    for spec in [&theirs, &nobodys] {
        let value: Value = serde_json::to_value(spec).unwrap();
        create(&controllers, "Orphan", "orphans", &spec.object_name(), value).await.unwrap();
    }
    let orphans = untyped(&admin, "Orphan", "orphans");
    let destroy = Patch::Merge(json!({"spec": {"destroy": true}}));
    let status = refused(orphans.patch(&theirs.object_name(), &PatchParams::default(), &destroy).await);
    assert_eq!((status.code, fields(&status)), (422, vec!["spec.destroy"]));
    assert!(status.message.contains("it belongs to VM default/web, which is there"), "{}", status.message);
    orphans.patch(&nobodys.object_name(), &PatchParams::default(), &destroy).await.unwrap();
    let adopt = Patch::Merge(json!({"spec": {"destroy": false, "adopt": {"namespace": "default", "volume": "data"}}}));
    let status = refused(orphans.patch(&nobodys.object_name(), &PatchParams::default(), &adopt).await);
    assert!(status.message.contains("only disks can be adopted"), "{}", status.message);
}
