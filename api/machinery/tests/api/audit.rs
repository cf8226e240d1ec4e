//! The audit trail: every write is in it, with the object's name, also when nobody waited for its end.

use kube::ResourceExt as _;
use kube::api::PostParams;
use serde_json::Value;

use crate::log::Log;
use crate::support::{Harness, Slow, Widget, eventually, failure, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

/// Verb, name and code of each write of a widget.
fn writes(log: &Log) -> Vec<(String, String, u64)> {
    let text = log.text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .filter(|line| line["target"] == "audit" && line["fields"]["resource"] == "widgets")
        .map(|line| {
            let fields = &line["fields"];
            let text = |field: &str| fields[field].as_str().unwrap().to_owned();
            (text("verb"), text("name"), fields["code"].as_u64().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn every_write_is_told_with_the_name_of_its_object() {
    let log = Log::begin();
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    let mut nameless = widget("", "red");
    nameless.metadata.name = None;
    nameless.metadata.generate_name = Some("web-".to_owned());
    let generated = widgets.create(&PostParams::default(), &nameless).await.unwrap().name_any();
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    raw(&client, request("PATCH", &format!("{PATH}/a"), "application/merge-patch+json", "{")).await;
    raw(&client, request("DELETE", &format!("{PATH}/a"), "application/json", "")).await;
    let expected =
        [("create", generated.as_str(), 201), ("create", "a", 201), ("patch", "a", 400), ("delete", "a", 200)];
    let told = writes(&log);
    let told: Vec<_> = told.iter().map(|(verb, name, code)| (verb.as_str(), name.as_str(), *code)).collect();
    assert_eq!(told, expected);
}

#[tokio::test]
async fn what_was_refused_is_told() {
    let log = Log::begin();
    let harness = Harness::start().await;
    let denied = failure(harness.client("viewer").await.request_text(request("DELETE", PATH, "", "")).await);
    assert_eq!(denied.code, 403);
    let stranger = harness.client("").await;
    failure(stranger.request_text(request("GET", PATH, "", "")).await);
    harness.widgets().await.get_opt("none").await.unwrap();
    let text = log.text();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> =
        lines.filter(|line| line["target"] == "audit" && line["fields"]["resource"] == "widgets").collect();
    let verdicts: Vec<&Value> = told.iter().map(|line| &line["fields"]["verdict"]).collect();
    assert_eq!(verdicts, ["denied", "unauthenticated"], "reads that are allowed are no news");
    assert_eq!((&told[0]["fields"]["user"], &told[1]["fields"]["user"]), (&"viewer".into(), &"".into()));
    assert!(told.iter().all(|line| !line["fields"]["audit_id"].as_str().unwrap().is_empty()));
}

#[tokio::test]
async fn a_write_whose_client_went_away_goes_on_to_its_end() {
    let log = Log::begin();
    let (slow, harness) = Slow::start().await;
    let gone = harness.widgets().await;
    let request = tokio::spawn(async move { gone.create(&PostParams::default(), &widget("a", "red")).await });
    slow.arrived.acquire().await.unwrap().forget();
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled(), "the client is gone");
    // another connection is answered: by then the server has seen the end of the first one
    let widgets: kube::Api<Widget> = harness.widgets().await;
    assert!(widgets.get_opt("a").await.unwrap().is_none());
    slow.released.add_permits(1);
    eventually("the object is there", async || widgets.get_opt("a").await.unwrap().is_some()).await;
    eventually("the write is told", async || !writes(&log).is_empty()).await;
    assert_eq!(writes(&log), [("create".to_owned(), "a".to_owned(), 201)]);
}
