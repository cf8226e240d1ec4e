//! Who am I, and what may I do: questions that are asked by creating objects.

use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::authorization::v1::{SelfSubjectAccessReview, SubjectAccessReview};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::support::{Harness, failure, raw, request};

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

async fn may(harness: &Harness, user: &str, spec: Value) -> SelfSubjectAccessReview {
    let api: Api<SelfSubjectAccessReview> = Api::all(harness.client(user).await);
    let review = serde_json::from_value(json!({"spec": spec})).unwrap();
    api.create(&PostParams::default(), &review).await.unwrap()
}

#[tokio::test]
async fn the_servers_own_authorizer_answers() {
    let harness = Harness::start().await;
    let about =
        |verb: &str| json!({"resourceAttributes": {"verb": verb, "group": "test.example.com", "resource": "widgets"}});
    let status = may(&harness, "admin", about("create")).await.status.unwrap();
    assert!(status.allowed);
    let api: Api<SubjectAccessReview> = Api::all(harness.client("admin").await);
    for (groups, allowed) in [(json!(["masters"]), true), (json!(["others"]), false)] {
        let mut spec = about("create");
        spec["user"] = "somebody".into();
        spec["groups"] = groups;
        let review = serde_json::from_value(json!({"spec": spec})).unwrap();
        let status = api.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        assert_eq!(status.allowed, allowed);
        assert_eq!(status.reason.as_deref(), (!allowed).then_some("viewers only look"));
    }
    let neither = serde_json::from_value(json!({"spec": {"user": "x"}})).unwrap();
    assert_eq!(failure(api.create(&PostParams::default(), &neither).await).code, 422);
    let nobody = serde_json::from_value(json!({"spec": about("get")})).unwrap();
    assert_eq!(failure(api.create(&PostParams::default(), &nobody).await).code, 422);
    assert!(
        may(&harness, "admin", json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}))
            .await
            .status
            .unwrap()
            .allowed
    );
}

#[tokio::test]
async fn a_caller_is_told_who_they_are() {
    let harness = Harness::start().await;
    let api: Api<SelfSubjectReview> = Api::all(harness.client("admin").await);
    let me = api.create(&PostParams::default(), &SelfSubjectReview::default()).await.unwrap();
    let user = me.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("admin"));
    assert_eq!(user.groups.unwrap(), ["masters", "system:authenticated"]);
}

#[tokio::test]
async fn questions_are_answered_and_not_kept() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let get = async |path: &str| raw(&client, request("GET", path, "", "")).await;
    assert_eq!(get(REVIEWS).await.0, 405);
    assert_eq!(get(&format!("{REVIEWS}?watch=true")).await.0, 405);
    let (_, _, list) = get("/apis/authorization.k8s.io/v1").await;
    let list: Value = serde_json::from_str(&list).unwrap();
    for resource in list["resources"].as_array().unwrap() {
        assert_eq!(resource["verbs"], json!(["create"]), "{resource}");
    }
    let bad = json!({"spec": {"resourceAttributes": 3}}).to_string();
    assert_eq!(raw(&client, request("POST", REVIEWS, "application/json", &bad)).await.0, 422);
    let other = json!({"kind": "Pod", "spec": {}}).to_string();
    assert_eq!(raw(&client, request("POST", REVIEWS, "application/json", &other)).await.0, 400);
}
