//! Tables and metadata-only answers, of lists, single objects and watches.

use kube::api::PostParams;
use serde_json::{Value, json};

use crate::support::{Harness, raw, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn get(harness: &Harness, path: &str, accept: &str) -> Value {
    let request = http::Request::get(path).header("accept", accept).body(Vec::new()).unwrap();
    let (code, _, body) = raw(&harness.client("admin").await, request).await;
    assert_eq!(code, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test]
async fn a_list_is_a_table() {
    let harness = Harness::start().await;
    harness.widgets().await.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let table = get(&harness, PATH, TABLE).await;
    assert_eq!((table["kind"].as_str(), table["apiVersion"].as_str()), (Some("Table"), Some("meta.k8s.io/v1")));
    let columns: Vec<(&str, u64)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (column["name"].as_str().unwrap(), column["priority"].as_u64().unwrap()))
        .collect();
    assert_eq!(columns, [("Name", 0), ("Color", 0), ("Ready", 0), ("Host", 1), ("Age", 0)]);
    let row = &table["rows"][0];
    assert_eq!(row["cells"][0], "a");
    assert_eq!(row["cells"][1], "red");
    assert_eq!(row["cells"][2], Value::Null);
    assert!(row["cells"][4].as_str().unwrap().ends_with('s'));
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(row["object"]["metadata"]["name"], "a");
    assert_eq!(row["object"].get("spec"), None);

    let whole = get(&harness, &format!("{PATH}?includeObject=Object"), TABLE).await;
    assert_eq!(whole["rows"][0]["object"]["spec"]["color"], "red");
    let none = get(&harness, &format!("{PATH}/a?includeObject=None"), TABLE).await;
    assert_eq!(none["rows"][0].get("object"), None);
    assert_eq!(none["rows"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn metadata_alone() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let one = widgets.get_metadata("a").await.unwrap();
    assert_eq!(one.metadata.name.as_deref(), Some("a"));
    let list = widgets.list_metadata(&kube::api::ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
}

#[tokio::test]
async fn a_long_list_is_whole() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    // together more than one piece of the answer
    let annotation = "x".repeat(20_000);
    for index in 0..20 {
        let mut widget = widget(&format!("w{index:02}"), "red");
        widget.metadata.annotations = Some([("a".to_owned(), annotation.clone())].into());
        widgets.create(&PostParams::default(), &widget).await.unwrap();
    }
    let list = get(&harness, PATH, "application/json").await;
    let names: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names.len(), 20);
    assert_eq!(names[19], &json!("w19"));
    assert_eq!(get(&harness, PATH, TABLE).await["rows"].as_array().unwrap().len(), 20);
}
