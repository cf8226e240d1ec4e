//! Who may open an interface, and what agents see of security groups.

use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use ucloud_types::{SecurityGroup, VM, meta::PORT_SECURITY_LABEL};

use crate::fixtures::{create, start, vm_spec, vms};

fn spec(port_security: bool) -> Value {
    let mut spec = vm_spec();
    spec["networks"] = json!([{"name": "eth0", "network": "lan", "portSecurity": port_security}]);
    spec
}

#[tokio::test]
async fn only_a_project_that_may_opens_an_interface() {
    let server = start().await;
    let admin = server.admin().await.unwrap();
    create(&admin, "VM", "vms", "guarded", spec(true)).await.unwrap();
    let refused = create(&admin, "VM", "vms", "open", spec(false)).await.unwrap_err().to_string();
    assert!(refused.contains("spec.networks[0].portSecurity") && refused.contains(PORT_SECURITY_LABEL), "{refused}");
    let change = Patch::Merge(json!({"spec": spec(false)}));
    assert!(vms(&admin).patch("guarded", &PatchParams::default(), &change).await.is_err());

    let allow = |value: Value| Patch::Merge(json!({"metadata": {"labels": {PORT_SECURITY_LABEL: value}}}));
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    namespaces.patch("default", &PatchParams::default(), &allow(json!("true"))).await.unwrap();
    create(&admin, "VM", "vms", "open", spec(false)).await.unwrap();
    // taken back, it keeps no other change of what was allowed
    namespaces.patch("default", &PatchParams::default(), &allow(Value::Null)).await.unwrap();
    let more = Patch::Merge(json!({"spec": {"cpus": 2}}));
    let changed: VM = vms(&admin).patch("open", &PatchParams::default(), &more).await.unwrap();
    assert_eq!((changed.spec.cpus, changed.spec.networks[0].effective_port_security()), (2, false));
    assert!(vms(&admin).patch("guarded", &PatchParams::default(), &change).await.is_err());
}

#[tokio::test]
async fn agents_read_security_groups_and_change_none() {
    let server = start().await;
    let admin = server.admin().await.unwrap();
    create(&admin, "SecurityGroup", "securitygroups", "web", json!({"ingress": [{"protocol": "TCP"}]})).await.unwrap();
    let agent = server.agent("h1").await.unwrap();
    let all: Api<SecurityGroup> = Api::all(agent.clone());
    assert_eq!(all.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let groups: Api<SecurityGroup> = Api::namespaced(agent, "default");
    let change = Patch::Merge(json!({"spec": {"ingress": []}, "status": {"addresses": ["fd00::1"]}}));
    assert!(groups.patch("web", &PatchParams::default(), &change).await.is_err());
    assert!(groups.patch_status("web", &PatchParams::default(), &change).await.is_err());
}
