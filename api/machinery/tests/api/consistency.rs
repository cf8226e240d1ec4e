//! Which reads need storage, what they answer while it is away, and how many writes a write costs.

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use ucloud_machinery::storage::Storage as _;

use crate::support::{Harness, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

#[tokio::test]
async fn a_write_is_one_write() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let mut revision = harness.storage.current_revision().await.unwrap().0;
    let mut expect_writes = async |writes: u64, what: &str| {
        let now = harness.storage.current_revision().await.unwrap().0;
        assert_eq!(now - revision, writes, "{what}");
        revision = now;
    };
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    expect_writes(1, "create").await;
    let patch = Patch::Merge(json!({"spec": {"count": 1}}));
    widgets.patch("a", &PatchParams::default(), &patch).await.unwrap();
    expect_writes(1, "patch").await;
    widgets.patch("a", &PatchParams::default(), &patch).await.unwrap();
    expect_writes(0, "the same patch again").await;
    let status = Patch::Merge(json!({"status": {"host": "h"}}));
    widgets.patch_status("a", &PatchParams::default(), &status).await.unwrap();
    expect_writes(1, "status").await;
    widgets.delete("a", &kube::api::DeleteParams::default()).await.unwrap();
    expect_writes(1, "delete").await;
}

#[tokio::test]
async fn exact_lists_are_exact() {
    let harness = Harness::start().await;
    harness.widgets().await.create(&PostParams::default(), &widget("before", "red")).await.unwrap();
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    let list = widgets.list(&kube::api::ListParams::default()).await.unwrap();
    let version = list.metadata.resource_version.unwrap();
    let exact = format!("{PATH}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(raw(&client, request("GET", &exact, "", "")).await.0, 200);
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let at_least = format!("{PATH}?resourceVersion={}", created.metadata.resource_version.unwrap());
    let (code, _, body) = raw(&client, request("GET", &at_least, "", "")).await;
    assert_eq!(code, 200);
    assert!(body.contains(r#""name":"a""#), "{body}");
    let (code, _, body) = raw(&client, request("GET", &exact, "", "")).await;
    assert_eq!(code, 200, "{body}");
    assert!(body.contains(r#""name":"before""#) && !body.contains(r#""name":"a""#), "as it was then: {body}");
    let future = format!("{PATH}?resourceVersion=999999&resourceVersionMatch=Exact");
    let (code, headers, body) = raw(&client, request("GET", &future, "", "")).await;
    assert_eq!((code, headers["retry-after"].to_str().unwrap()), (504, "1"), "{body}");
    assert!(body.contains("ResourceVersionTooLarge"), "{body}");
}
