//! Lists in pages: one state, whatever happens between the pages.

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use ucloud_machinery::storage::Revision;

use crate::support::{Harness, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

async fn list(client: &Client, query: &str) -> (u16, Value) {
    let (code, _, body) = raw(client, request("GET", &format!("{PATH}?{query}"), "", "")).await;
    (code, serde_json::from_str(&body).unwrap())
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn token(list: &Value) -> &str {
    list["metadata"]["continue"].as_str().unwrap_or_default()
}

async fn create(harness: &Harness, names: &[&str]) {
    let widgets = harness.widgets().await;
    for name in names {
        let mut widget = widget(name, "red");
        widget.labels_mut().insert("odd".to_owned(), (*name > "c").to_string());
        widgets.create(&PostParams::default(), &widget).await.unwrap();
    }
}

#[tokio::test]
async fn pages_show_one_state_whatever_happens() {
    let harness = Harness::start().await;
    let (client, widgets) = (harness.client("admin").await, harness.widgets().await);
    create(&harness, &["a", "b", "c", "d", "e"]).await;
    let (code, first) = list(&client, "limit=2").await;
    assert_eq!((code, names(&first)), (200, vec!["a", "b"]));
    assert_eq!(first["metadata"]["remainingItemCount"], 3);

    widgets.delete("c", &DeleteParams::default()).await.unwrap();
    widgets.create(&PostParams::default(), &widget("bb", "red")).await.unwrap();
    let patch = json!({"spec": {"count": 7}});
    widgets.patch("d", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let (_, second) = list(&client, &format!("limit=2&continue={}", token(&first))).await;
    assert_eq!(names(&second), ["c", "d"]);
    assert!(second["items"][1]["spec"]["count"].is_null(), "as it was");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let (_, last) = list(&client, &format!("limit=2&continue={}", token(&second))).await;
    assert_eq!(names(&last), ["e"]);
    assert!(last["metadata"].get("continue").is_none() && last["metadata"].get("remainingItemCount").is_none());
    let (_, rest) = list(&client, &format!("continue={}", token(&first))).await;
    assert_eq!(names(&rest), ["c", "d", "e"], "without a limit, all that follows");

    // over all namespaces, and as a Table
    let everywhere = "/apis/test.example.com/v1/widgets?limit=4";
    let table = http::Request::get(everywhere).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
    let (_, _, table) = raw(&client, table.body(Vec::new()).unwrap()).await;
    let table: Value = serde_json::from_str(&table).unwrap();
    assert_eq!((table["rows"].as_array().unwrap().len(), &table["metadata"]["remainingItemCount"]), (4, &json!(1)));
    let next = format!("{everywhere}&continue={}", token(&table));
    let next: Value = serde_json::from_str(&raw(&client, request("GET", &next, "", "")).await.2).unwrap();
    assert_eq!(names(&next), ["e"]);
}

#[tokio::test]
async fn selectors_page_without_a_count() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    create(&harness, &["a", "b", "c", "d", "e", "f"]).await;
    let (_, first) = list(&client, "limit=2&labelSelector=odd%3Dtrue").await;
    assert_eq!(names(&first), ["d", "e"]);
    assert!(first["metadata"].get("remainingItemCount").is_none());
    let (_, last) = list(&client, &format!("limit=2&labelSelector=odd%3Dtrue&continue={}", token(&first))).await;
    assert_eq!((names(&last), token(&last)), (vec!["f"], ""));
}

#[tokio::test]
async fn a_server_that_was_started_meanwhile_goes_on_until_storage_has_forgotten() {
    let one = Harness::start().await;
    create(&one, &["a", "b", "c"]).await;
    let (_, first) = list(&one.client("admin").await, "limit=1").await;
    let widgets = one.widgets().await;
    widgets.delete("b", &DeleteParams::default()).await.unwrap();

    let two = Harness::start_with(one.storage.clone()).await;
    let client = two.client("admin").await;
    let next = format!("limit=1&continue={}", token(&first));
    let (code, second) = list(&client, &next).await;
    assert_eq!((code, names(&second)), (200, vec!["b"]), "{second}");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);

    let created = widgets.create(&PostParams::default(), &widget("bb", "red")).await.unwrap();
    let now: u64 = created.resource_version().unwrap().parse().unwrap();
    two.storage.compact(Revision(now));
    let (code, expired) = list(&client, &next).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")), "{expired}");
    assert!(expired["message"].as_str().unwrap().starts_with("The provided continue parameter is too old"));
    let (code, rest) = list(&client, &format!("limit=1&continue={}", token(&expired))).await;
    assert_eq!((code, names(&rest)), (200, vec!["bb"]), "the present, behind the last one seen: {rest}");
    assert_ne!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let exact = format!(
        "resourceVersion={}&resourceVersionMatch=Exact",
        first["metadata"]["resourceVersion"].as_str().unwrap()
    );
    let (code, expired) = list(&client, &exact).await;
    assert_eq!((code, &expired["message"]), (410, &json!("The resourceVersion for the provided list is too old.")));
}

#[tokio::test]
async fn tokens_and_versions_are_checked() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    create(&harness, &["a", "b"]).await;
    let (_, first) = list(&client, "limit=1").await;
    for (query, code) in [
        ("continue=rubbish", 400),
        (format!("continue={}&resourceVersion=5", token(&first)).as_str(), 400),
        (format!("continue={}&resourceVersionMatch=Exact&resourceVersion=5", token(&first)).as_str(), 422),
        ("limit=x", 400),
        ("sendInitialEvents=true", 422),
    ] {
        assert_eq!(list(&client, query).await.0, code, "{query}");
    }
    let (_, all) = list(&client, "limit=1&resourceVersion=0").await;
    assert_eq!(names(&all), ["a", "b"], "whoever takes any state takes it whole");
}

#[tokio::test]
async fn collections_are_deleted_page_by_page() {
    let harness = Harness::start().await;
    let (client, widgets) = (harness.client("admin").await, harness.widgets().await);
    create(&harness, &["a", "b", "c"]).await;
    let delete = async |query: &str| {
        let (code, _, body) = raw(&client, request("DELETE", &format!("{PATH}?{query}"), "", "")).await;
        assert_eq!(code, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()
    };
    let first = delete("limit=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    let left = widgets.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"]);
    assert_eq!(names(&delete(&format!("limit=2&continue={}", token(&first))).await), ["c"]);
}
