//! Quotas: what is used is counted when a quota comes, and kept from then on.

use k8s_openapi::api::core::v1::{ConfigMap, ResourceQuota, Secret};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use ucloud_types::{File, VM, Volume};

use crate::support::{Cloud, create, delete, until, until_gone, vm_spec};

fn quotas(cloud: &Cloud) -> Api<ResourceQuota> {
    Api::namespaced(cloud.admin.clone(), "default")
}

fn used(quota: &ResourceQuota, name: &str) -> Option<String> {
    Some(quota.status.as_ref()?.used.as_ref()?.get(name)?.0.clone())
}

async fn until_used(cloud: &Cloud, name: &str, resource: &str, amount: &str) -> ResourceQuota {
    let is = |quota: &ResourceQuota| used(quota, resource).as_deref() == Some(amount);
    until(&quotas(cloud), name, &format!("{resource} is {amount}"), is).await
}

fn sized(memory: &str, size: &str) -> Value {
    let mut spec = vm_spec(memory, &[]);
    spec["disks"][0]["size"] = size.into();
    spec
}

/// Kubernetes' conformance tests "should create a ResourceQuota and ensure its status is promptly calculated", "... capture
/// the life of a configMap", "... of a secret", "... be able to update and delete ResourceQuota".
#[tokio::test]
async fn the_life_of_a_quota() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let maps: Api<ConfigMap> = Api::namespaced(cloud.admin.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(cloud.admin.clone(), "default");
    let before = json!({"metadata": {"name": "before"}});
    maps.create(&PostParams::default(), &serde_json::from_value(before).unwrap()).await.unwrap();
    let hard = json!({"configmaps": "3", "secrets": "10", "pods": "5", "resourcequotas": "2"});
    create(&quotas(&cloud), "q", json!({"hard": hard})).await;
    let quota = until_used(&cloud, "q", "configmaps", "1").await;
    assert_eq!(quota.status.as_ref().unwrap().hard, quota.spec.as_ref().unwrap().hard);
    assert_eq!(used(&quota, "secrets").as_deref(), Some("0"));
    assert_eq!(used(&quota, "pods").as_deref(), Some("0"));
    assert_eq!(used(&quota, "resourcequotas").as_deref(), Some("1"));

    for name in ["a", "b"] {
        let object = json!({"metadata": {"name": name}});
        maps.create(&PostParams::default(), &serde_json::from_value(object.clone()).unwrap()).await.unwrap();
        secrets.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();
    }
    until_used(&cloud, "q", "configmaps", "3").await;
    until_used(&cloud, "q", "secrets", "2").await;
    delete(&secrets, "a").await;
    until_used(&cloud, "q", "secrets", "1").await;

    create(&quotas(&cloud), "other", json!({"hard": {"pods": "1"}})).await;
    until_used(&cloud, "q", "resourcequotas", "2").await;
    delete(&quotas(&cloud), "other").await;
    until_used(&cloud, "q", "resourcequotas", "1").await;

    let less = Patch::Merge(
        json!({"spec": {"hard": {"configmaps": "2", "pods": null, "count/leases.coordination.k8s.io": "1"}}}),
    );
    quotas(&cloud).patch("q", &PatchParams::default(), &less).await.unwrap();
    let quota = until_used(&cloud, "q", "count/leases.coordination.k8s.io", "0").await;
    assert_eq!(used(&quota, "configmaps").as_deref(), Some("3"), "what is there stays");
    assert_eq!(used(&quota, "pods"), None);
    let one_more = serde_json::from_value(json!({"metadata": {"name": "c"}})).unwrap();
    assert!(maps.create(&PostParams::default(), &one_more).await.is_err());
    delete(&quotas(&cloud), "q").await;
    until_gone(&quotas(&cloud), "q").await;
    maps.create(&PostParams::default(), &one_more).await.unwrap();
}

#[tokio::test]
async fn vms_take_cpus_memory_and_storage() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    create(&cloud.vms(), "before", sized("1Gi", "10Gi")).await;
    let hard = json!({"requests.cpu": "4", "requests.memory": "4Gi", "requests.storage": "40Gi",
                      "count/vms.ucloud.ungleich.ch": "3"});
    create(&quotas(&cloud), "q", json!({"hard": hard})).await;
    let quota = until_used(&cloud, "q", "requests.memory", "1Gi").await;
    assert_eq!(used(&quota, "requests.cpu").as_deref(), Some("1"));
    assert_eq!(used(&quota, "requests.storage").as_deref(), Some("10Gi"));
    assert_eq!(used(&quota, "count/vms.ucloud.ungleich.ch").as_deref(), Some("1"));

    let refused = |spec: Value| {
        let vms = cloud.vms();
        async move {
            let vm: VM = serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM", "metadata": {"name": "more"}, "spec": spec,
            }))
            .unwrap();
            match vms.create(&PostParams::default(), &vm).await {
                Err(kube::Error::Api(status)) => status.message,
                other => panic!("{other:?}"),
            }
        }
    };
    assert!(refused(sized("4Gi", "10Gi")).await.contains(
        "exceeded quota: q, requested: requests.memory=4Gi, used: requests.memory=1Gi, limited: requests.memory=4Gi"
    ));
    assert!(refused(vm_spec("1Gi", &[])).await.contains("failed quota: q: must specify spec.disks[0].size"));
    create(&cloud.vms(), "more", sized("3Gi", "30Gi")).await;
    until_used(&cloud, "q", "requests.memory", "4Gi").await;
    let grow = Patch::Merge(json!({"spec": {"memory": "4Gi"}}));
    let result = cloud.vms().patch("more", &PatchParams::default(), &grow).await;
    assert!(matches!(&result, Err(kube::Error::Api(status)) if status.code == 403), "{result:?}");
    let shrink = Patch::Merge(json!({"spec": {"memory": "2Gi"}}));
    cloud.vms().patch("more", &PatchParams::default(), &shrink).await.unwrap();
    until_used(&cloud, "q", "requests.memory", "3Gi").await;
    delete(&cloud.vms(), "before").await;
    until_used(&cloud, "q", "requests.memory", "2Gi").await;
}

#[tokio::test]
async fn files_take_storage() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let files: Api<File> = Api::namespaced(cloud.admin.clone(), "default");
    create(&files, "before", json!({"size": "10Gi"})).await;
    create(&quotas(&cloud), "q", json!({"hard": {"requests.storage": "12Gi"}})).await;
    until_used(&cloud, "q", "requests.storage", "10Gi").await;
    create(&files, "small", json!({"size": "1Gi"})).await;
    until_used(&cloud, "q", "requests.storage", "11Gi").await;
    let large = serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "File", "metadata": {"name": "large"},
        "spec": {"size": "2Gi"},
    }));
    assert!(files.create(&PostParams::default(), &large.unwrap()).await.is_err());
}

#[tokio::test]
async fn volumes_take_storage_and_cannot_outgrow_it() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let volumes: Api<Volume> = Api::namespaced(cloud.admin.clone(), "default");
    create(&volumes, "before", json!({"size": "10Gi"})).await;
    create(&quotas(&cloud), "q", json!({"hard": {"requests.storage": "12Gi"}})).await;
    until_used(&cloud, "q", "requests.storage", "10Gi").await;
    // a disk that is a volume is counted once
    let mut spec = sized("1Gi", "1Gi");
    spec["disks"].as_array_mut().unwrap().push(json!({"name": "data", "volume": "before"}));
    create(&cloud.vms(), "web", spec).await;
    until_used(&cloud, "q", "requests.storage", "11Gi").await;
    let grow = |size: &str| Patch::Merge(json!({"spec": {"size": size}}));
    assert!(volumes.patch("before", &PatchParams::default(), &grow("12Gi")).await.is_err());
    volumes.patch("before", &PatchParams::default(), &grow("11Gi")).await.unwrap();
    until_used(&cloud, "q", "requests.storage", "12Gi").await;
}
