//! The server's own life: what is there when it begins, and what clients see when it stops and comes back.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams},
    runtime::{WatchStreamExt as _, reflector, watcher},
};
use serde_json::json;
use ucloud_api::in_process::InProcess;
use ucloud_types::{Host, VM};

use crate::fixtures::{bind, create_host, create_vm, eventually, refused, start, vm_spec, vms};

#[tokio::test]
async fn ucloud_has_its_namespaces_and_keeps_them() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(admin);
    for name in ["default", "images", "ucloud-system", "ucloud-hosts"] {
        namespaces.get(name).await.unwrap();
        assert_eq!(refused(namespaces.delete(name, &DeleteParams::default()).await).code, 403, "{name}");
    }
}

#[tokio::test]
async fn a_host_stays_while_vms_are_bound_to_it() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    create_host(&admin, "h1").await;
    let vm = create_vm(&admin, "web", vm_spec()).await;
    bind(&admin, &vm, "h1").await.unwrap();
    let hosts: Api<Host> = Api::all(admin.clone());
    let status = refused(hosts.delete("h1", &DeleteParams::default()).await);
    assert_eq!(status.code, 409);
    assert!(status.message.contains("the host has VM default/web; delete them first"), "{}", status.message);
    vms(&admin).delete("web", &DeleteParams::default()).await.unwrap();
    let released = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    vms(&admin).patch("web", &PatchParams::default(), &released).await.unwrap();
    hosts.delete("h1", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_when_the_server_comes_back() {
    let mut api = start().await;
    let admin = api.admin().await.unwrap();
    create_vm(&admin, "before", vm_spec()).await;
    let seen = watcher(vms(&admin), watcher::Config::default()).default_backoff().applied_objects();
    let mut names = Box::pin(seen.map_ok(|vm| vm.metadata.name.unwrap_or_default()).filter_map(async |seen| seen.ok()));
    assert_eq!(names.next().await.as_deref(), Some("before"));
    api.stop().await;
    assert!(vms(&admin).get("before").await.is_err(), "nobody answers");
    api.resume().await.unwrap();
    create_vm(&admin, "after", vm_spec()).await;
    let reached = async { while names.next().await.as_deref() != Some("after") {} };
    tokio::time::timeout(std::time::Duration::from_secs(30), reached).await.expect("the watch did not come back");
}

#[tokio::test]
async fn a_watch_catches_up_with_what_was_written_while_its_server_was_away() {
    let mut api = start().await;
    let admin = api.admin().await.unwrap();
    create_vm(&admin, "before", vm_spec()).await;
    create_vm(&admin, "gone", vm_spec()).await;
    let (reader, writer) = reflector::store();
    let seen = reflector(writer, watcher(vms(&admin), watcher::Config::default()).default_backoff());
    let following = tokio::spawn(seen.for_each(async |_| ()));
    let names = || {
        let mut names: Vec<String> = reader.state().iter().map(|vm: &Arc<VM>| vm.name_any()).collect();
        names.sort();
        names
    };
    eventually("the watch has begun", || names() == ["before", "gone"]).await;
    api.stop().await;
    // another replica writes; the one that comes back has no history of it
    let other = InProcess::over(api.storage().clone()).await.unwrap();
    let elsewhere = other.admin().await.unwrap();
    create_vm(&elsewhere, "meanwhile", vm_spec()).await;
    vms(&elsewhere).delete("gone", &DeleteParams::default()).await.unwrap();
    api.resume().await.unwrap();
    eventually("the watch has caught up", || names() == ["before", "meanwhile"]).await;
    following.abort();
}
