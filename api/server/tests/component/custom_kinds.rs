//! Kinds that administrators define: who may, and what they may not be.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::json;

use crate::fixtures::{refused, start};

fn definitions(client: &Client) -> Api<CustomResourceDefinition> {
    Api::all(client.clone())
}

fn toys() -> CustomResourceDefinition {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
    serde_json::from_value(json!({
        "metadata": {"name": "toys.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"kind": "Toy", "plural": "toys"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]},
    }))
    .unwrap()
}

#[tokio::test]
async fn administrators_define_kinds_and_nobody_else() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    let (controllers, agent) = (api.controllers().await.unwrap(), api.agent("h1").await.unwrap());
    for client in [&controllers, &agent] {
        assert_eq!(refused(definitions(client).create(&PostParams::default(), &toys()).await).code, 403);
    }
    definitions(&admin).create(&PostParams::default(), &toys()).await.unwrap();
    definitions(&controllers).list(&ListParams::default()).await.unwrap();
    assert_eq!(refused(definitions(&agent).list(&ListParams::default()).await).code, 403);
    for client in [&controllers, &agent] {
        let deleted = definitions(client).delete("toys.example.com", &DeleteParams::default()).await;
        assert_eq!(refused(deleted.map(|_| ())).code, 403);
    }
}

#[tokio::test]
async fn the_exported_definitions_of_ucloud_are_refused_clearly() {
    let api = start().await;
    let admin = api.admin().await.unwrap();
    for definition in ucloud_types::definitions() {
        let status = refused(definitions(&admin).create(&PostParams::default(), &definition).await);
        assert_eq!(status.code, 422);
        assert!(
            status.message.contains("is built into this server: it needs no CustomResourceDefinition"),
            "{}",
            status.message
        );
    }
}
