//! Namespaces that go are emptied first.

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::json;
use ucloud_types::{Network, VM};

use crate::support::{Cloud, create, delete, eventually, patch, until, until_gone, vm_spec};

fn message(namespace: &Namespace, type_: &str) -> Option<String> {
    let conditions = namespace.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == type_ && c.status == "True")?.message.clone()
}

async fn project(cloud: &Cloud, name: &str) -> (Api<Namespace>, Api<VM>, Api<Network>) {
    let namespaces: Api<Namespace> = Api::all(cloud.admin.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let vms = Api::namespaced(cloud.admin.clone(), name);
    (namespaces, vms, Api::namespaced(cloud.admin.clone(), name))
}

#[tokio::test]
async fn an_empty_namespace_goes_at_once() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let (namespaces, ..) = project(&cloud, "p").await;
    delete(&namespaces, "p").await;
    until_gone(&namespaces, "p").await;
}

#[tokio::test]
async fn a_namespace_goes_with_everything_in_it_and_says_what_is_left() {
    let cloud = Cloud::start().await;
    cloud.network_pool("default", 10).await;
    cloud.host("h1", 8, "16Gi").await;
    let _controllers = cloud.controllers().await;
    let (namespaces, vms, networks) = project(&cloud, "p").await;
    let (_, other_vms, _) = project(&cloud, "q").await;
    create(&networks, "net", json!({})).await;
    create(&vms, "web", vm_spec("1Gi", &["net"])).await;
    create(&other_vms, "web", vm_spec("1Gi", &[])).await;
    let bound = |vm: &VM| vm.status.as_ref().is_some_and(|status| status.binding.is_some());
    until(&vms, "web", "it is bound", bound).await;

    delete(&namespaces, "p").await;
    let waits = |namespace: &Namespace| {
        message(namespace, "NamespaceFinalizersRemaining").is_some_and(|m| m.contains("ucloud.ungleich.ch/agent in 1"))
    };
    let namespace = until(&namespaces, "p", "it waits for the agent", waits).await;
    let content = message(&namespace, "NamespaceContentRemaining").unwrap();
    assert!(content.contains("vms.ucloud.ungleich.ch has 1 resource instances"), "{content}");
    assert!(vms.get("web").await.unwrap().metadata.deletion_timestamp.is_some());

    patch(&vms, "web", json!({"metadata": {"finalizers": null}})).await;
    until_gone(&namespaces, "p").await;
    eventually("the network's allocation is given back", async || cloud.allocated().await.is_empty()).await;
    let others = other_vms.list(&ListParams::default()).await.unwrap().items;
    assert!(others.iter().all(|vm| vm.metadata.deletion_timestamp.is_none()) && others.len() == 1);
}

#[tokio::test]
async fn kinds_that_no_controller_knows_go_too() {
    let cloud = Cloud::start().await;
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(cloud.admin.clone(), "p");
    let (namespaces, ..) = project(&cloud, "p").await;
    create(&leases, "some-lease", json!({"holderIdentity": "x"})).await;
    let _controllers = cloud.controllers().await;
    delete(&namespaces, "p").await;
    until_gone(&namespaces, "p").await;
    assert!(leases.list(&ListParams::default()).await.unwrap().items.is_empty());
}
