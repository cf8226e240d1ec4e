//! Discovery, plain and aggregated, OpenAPI and the version.

use serde_json::{Value, json};

use crate::support::{Harness, raw};

async fn get(harness: &Harness, path: &str, accept: &str) -> (u16, http::HeaderMap, Value) {
    let request = http::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
    let (code, headers, body) = raw(&harness.client("admin").await, request).await;
    (code, headers, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn kinds_are_found_group_by_group() {
    let harness = Harness::start().await;
    let plain = async |path: &str| get(&harness, path, "application/json").await.2;
    assert_eq!(plain("/api").await["versions"], json!(["v1"]));
    let groups = plain("/apis").await;
    let names: Vec<&Value> = groups["groups"].as_array().unwrap().iter().map(|group| &group["name"]).collect();
    let expected = [
        "apiextensions.k8s.io",
        "authentication.k8s.io",
        "authorization.k8s.io",
        "coordination.k8s.io",
        "events.k8s.io",
        "test.example.com",
    ];
    assert_eq!(names, expected);
    assert_eq!(plain("/apis/test.example.com").await["preferredVersion"]["groupVersion"], "test.example.com/v1");
    let resources = plain("/apis/test.example.com/v1").await;
    let names: Vec<&Value> = resources["resources"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["widgets", "widgets/status", "widgets/bind"]);
    assert_eq!(resources["resources"][0]["shortNames"], json!(["wd"]));
    assert_eq!(resources["resources"][2]["verbs"], json!(["create"]));
    let core = plain("/api/v1").await;
    assert!(core["resources"].as_array().unwrap().iter().any(|entry| entry["name"] == "namespaces/finalize"));
    assert_eq!(get(&harness, "/apis/none.example.com", "application/json").await.0, 404);
    assert_eq!(plain("/version").await["gitVersion"], "v1.33.0+test-1.0");
}

#[tokio::test]
async fn kinds_are_found_at_once() {
    let harness = Harness::start().await;
    for version in ["v2", "v2beta1"] {
        let accept =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList,application/json");
        let (_, headers, body) = get(&harness, "/apis", &accept).await;
        assert_eq!(
            headers["content-type"],
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList")
        );
        assert_eq!(body["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
        let group =
            body["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "test.example.com").unwrap();
        let widgets = &group["versions"][0]["resources"][0];
        assert_eq!(widgets["responseKind"]["kind"], "Widget");
        assert_eq!(widgets["scope"], "Namespaced");
        assert_eq!(widgets["categories"], json!(["toys"]));
        assert_eq!(widgets["subresources"][0]["subresource"], "status");
    }
}

#[tokio::test]
async fn kube_discovers() {
    let harness = Harness::start().await;
    let discovery = kube::discovery::Discovery::new(harness.client("admin").await).run().await.unwrap();
    let group = discovery.get("test.example.com").unwrap();
    let (resource, capabilities) = group.recommended_kind("Widget").unwrap();
    assert_eq!(resource.plural, "widgets");
    assert!(capabilities.supports_operation("watch"));
}

#[tokio::test]
async fn schemas_are_served() {
    let harness = Harness::start().await;
    let (_, _, index) = get(&harness, "/openapi/v3", "application/json").await;
    let url = index["paths"]["apis/test.example.com/v1"]["serverRelativeURL"].as_str().unwrap();
    let (_, _, document) = get(&harness, url, "application/json").await;
    let schema = &document["components"]["schemas"]["com.example.test.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["description"], "The colour that it has.");
    let (_, _, document) = get(&harness, "/openapi/v2", "application/json").await;
    let schema = &document["definitions"]["com.example.test.v1.Widget"];
    assert_eq!(schema["properties"]["spec"]["properties"]["color"]["description"], "The colour that it has.");
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
}
