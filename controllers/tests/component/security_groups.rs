//! Security groups know their members' addresses.

use serde_json::json;
use ucloud_types::SecurityGroup;

use kube::Api;

use crate::support::{Cloud, create, delete, set_status, until, vm_spec};

#[tokio::test]
async fn members_come_and_go() {
    let cloud = Cloud::start().await;
    let _controllers = cloud.controllers().await;
    let groups: Api<SecurityGroup> = Api::namespaced(cloud.admin.clone(), "default");
    create(&groups, "web", json!({"ingress": [{"from": [{"group": "web"}]}]})).await;
    let addresses = |expected: &'static [&'static str]| {
        move |group: &SecurityGroup| {
            let status = group.status.clone().unwrap_or_default();
            let found: Vec<String> = status.addresses.iter().map(ToString::to_string).collect();
            found == expected && status.members == Some(u32::from(!expected.is_empty()))
        }
    };
    until(&groups, "web", "the members", addresses(&[])).await;
    let mut spec = vm_spec("1Gi", &[]);
    spec["networks"] =
        json!([{"name": "eth0", "network": "lan", "securityGroups": ["web"], "addresses": ["fd00:1234::5"]}]);
    create(&cloud.vms(), "a", spec).await;
    until(&groups, "web", "the members", addresses(&["fd00:1234::5"])).await;
    let seen = json!({"interfaces": [{"name": "eth0", "network": "lan", "mac": "02:00:00:00:00:01",
        "addresses": [{"address": "fd00:1234::9", "source": "Learnt"}]}]});
    set_status(&cloud.vms(), "a", seen).await;
    until(&groups, "web", "the members", addresses(&["fd00:1234::5", "fd00:1234::9"])).await;
    delete(&cloud.vms(), "a").await;
    until(&groups, "web", "the members", addresses(&[])).await;
}
