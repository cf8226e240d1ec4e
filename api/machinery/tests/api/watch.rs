//! Watches: events by selector, resuming, bookmarks, 410, and the end.

use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::{Value, json};
use ucloud_machinery::storage::{MemoryStorage, Storage as _};

use crate::support::{Harness, PATIENCE, Widget, eventually, failure, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

/// A watch as it comes over the wire.
struct Lines(futures::stream::BoxStream<'static, std::io::Result<String>>);

impl Lines {
    async fn open(client: &Client, query: &str, accept: &str) -> Self {
        Self::open_at(client, &format!("{PATH}?watch=true&{query}"), accept).await
    }

    async fn open_at(client: &Client, path: &str, accept: &str) -> Self {
        let request = http::Request::get(path).header("accept", accept);
        let lines = client.request_stream(request.body(Vec::new()).unwrap()).await.unwrap().lines();
        Self(lines.boxed())
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        let line = tokio::time::timeout(PATIENCE, self.0.try_next()).await.expect("an event in time").unwrap()?;
        let event: Value = serde_json::from_str(&line).unwrap();
        Some((event["type"].as_str().unwrap().to_owned(), event["object"].clone()))
    }

    /// The stream consists of one event: the client has to list again, and why.
    async fn expired(&mut self, why: &str) {
        let (type_, status) = self.next().await.expect("an event");
        assert_eq!((type_.as_str(), &status["kind"]), ("ERROR", &json!("Status")));
        assert_eq!((&status["code"], &status["reason"]), (&json!(410), &json!("Expired")));
        assert!(status["message"].as_str().unwrap().starts_with(why), "{status}");
        assert!(self.next().await.is_none(), "nothing follows");
    }

    /// Type and name of the next event that is no bookmark.
    async fn change(&mut self) -> (String, String) {
        loop {
            let (type_, object) = self.next().await.expect("another event");
            if type_ != "BOOKMARK" {
                return (type_, object["metadata"]["name"].as_str().unwrap_or_default().to_owned());
            }
        }
    }
}

fn change(type_: &str, name: &str) -> (String, String) {
    (type_.to_owned(), name.to_owned())
}

#[tokio::test]
async fn changes_arrive_in_order_and_resume() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    let before = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let mut state = Lines::open(&client, "", "application/json").await;
    assert_eq!(state.change().await, change("ADDED", "a"), "without a version the present state comes first");

    widgets.create(&PostParams::default(), &widget("b", "red")).await.unwrap();
    let patch = json!({"spec": {"count": 2}});
    let patched = widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    widgets.delete("b", &DeleteParams::default()).await.unwrap();
    for expected in [change("ADDED", "b"), change("MODIFIED", "a"), change("DELETED", "b")] {
        assert_eq!(state.change().await, expected);
    }

    let query = format!("resourceVersion={}", before.resource_version().unwrap());
    let mut resumed = Lines::open(&client, &query, "application/json").await;
    for expected in [change("ADDED", "b"), change("MODIFIED", "a"), change("DELETED", "b")] {
        assert_eq!(resumed.change().await, expected);
    }
    let query = format!("resourceVersion={}", patched.resource_version().unwrap());
    let mut later = Lines::open(&client, &query, "application/json").await;
    let (type_, object) = later.next().await.unwrap();
    assert_eq!(type_, "DELETED");
    let version: u64 = object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(version > patched.resource_version().unwrap().parse().unwrap(), "a deletion has a version of its own");
}

#[tokio::test]
async fn a_selector_sees_objects_come_and_go() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    for name in ["a", "b"] {
        widgets.create(&PostParams::default(), &widget(name, "red")).await.unwrap();
    }
    let mut by_host = Lines::open(&client, "fieldSelector=status.host%3Dh1", "application/json").await;
    let mut by_label = Lines::open(&client, "labelSelector=on", "application/json").await;
    let host = async |name: &str, host: Value| {
        let patch = json!({"status": {"host": host}});
        widgets.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    host("a", json!("h1")).await;
    host("b", json!("h2")).await;
    let patch = json!({"spec": {"count": 3}});
    widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    host("a", Value::Null).await;
    host("b", json!("h1")).await;
    widgets.delete("b", &DeleteParams::default()).await.unwrap();
    for expected in [
        change("ADDED", "a"),
        change("MODIFIED", "a"),
        change("DELETED", "a"),
        change("ADDED", "b"),
        change("DELETED", "b"),
    ] {
        assert_eq!(by_host.change().await, expected);
    }
    for label in [json!("x"), Value::Null] {
        let patch = json!({"metadata": {"labels": {"on": label}}});
        widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
    assert_eq!(by_label.change().await, change("ADDED", "a"));
    assert_eq!(by_label.change().await, change("DELETED", "a"));
}

#[tokio::test]
async fn a_single_object_can_be_watched() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    for name in ["a", "b"] {
        widgets.create(&PostParams::default(), &widget(name, "red")).await.unwrap();
    }
    let old = "/apis/test.example.com/v1/watch/namespaces/default/widgets";
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let by_field = format!("{PATH}?watch=1&fieldSelector=metadata.name%3Db");
    let mut watches = Vec::new();
    for path in [by_field.clone(), format!("{old}/b"), format!("{old}?fieldSelector=metadata.name%3Db")] {
        watches.push(Lines::open_at(&client, &path, "application/json").await);
    }
    let mut rows = Lines::open_at(&client, &by_field, table).await;
    let patch = json!({"spec": {"count": 2}});
    for name in ["a", "b"] {
        widgets.patch(name, &PatchParams::default(), &Patch::Merge(patch.clone())).await.unwrap();
    }
    for watch in &mut watches {
        assert_eq!(watch.change().await, change("ADDED", "b"));
        assert_eq!(watch.change().await, change("MODIFIED", "b"));
    }
    for (type_, columns) in [("ADDED", 5), ("MODIFIED", 0)] {
        let (told, object) = rows.next().await.unwrap();
        assert_eq!((told.as_str(), &object["kind"]), (type_, &json!("Table")));
        assert_eq!(object["columnDefinitions"].as_array().unwrap().len(), columns);
        assert_eq!(object["rows"][0]["object"]["metadata"]["name"], "b");
    }
    let (code, _, _) = raw(&client, request("DELETE", &format!("{old}/b"), "", "")).await;
    assert_eq!(code, 405, "such a path is for watches");
}

#[tokio::test]
async fn a_head_has_no_body() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    for path in [PATH, "/api/v1/namespaces/default", "/openapi/v3", "/version"] {
        let (code, headers, body) = raw(&client, request("HEAD", path, "", "")).await;
        assert_eq!((code, body.as_str(), &headers["content-type"]), (200, "", &"application/json".parse().unwrap()));
    }
    let metadata =
        http::Request::get(PATH).header("accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let (code, _, body) = raw(&client, metadata.body(Vec::new()).unwrap()).await;
    assert_eq!(code, 406, "a list is no single object: {body}");
}

#[tokio::test]
async fn bookmarks_move_on_while_nothing_happens_to_the_kind() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let query = format!("allowWatchBookmarks=true&resourceVersion={}", created.resource_version().unwrap());
    let mut watch = Lines::open(&client, &query, "application/json").await;
    // a write to another kind
    let namespace = r#"{"metadata": {"name": "n1"}}"#;
    let (_, _, body) = raw(&client, request("POST", "/api/v1/namespaces", "application/json", namespace)).await;
    let other: Value = serde_json::from_str(&body).unwrap();
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    loop {
        let (type_, object) = watch.next().await.unwrap();
        assert_eq!((type_.as_str(), object["kind"].as_str().unwrap()), ("BOOKMARK", "Widget"));
        if version(&object) >= version(&other) {
            break;
        }
    }
}

#[tokio::test]
async fn the_initial_state_can_be_streamed() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    for name in ["a", "b"] {
        widgets.create(&PostParams::default(), &widget(name, "red")).await.unwrap();
    }
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = Lines::open(&client, query, "application/json").await;
    assert_eq!(watch.change().await, change("ADDED", "a"));
    assert_eq!(watch.change().await, change("ADDED", "b"));
    let (type_, object) = watch.next().await.unwrap();
    assert_eq!(type_, "BOOKMARK");
    assert_eq!(object["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_version_from_before_the_server_is_gone() {
    let storage = MemoryStorage::new();
    fill(&storage, 3, 10).await;
    let harness = Harness::start_with(storage).await;
    let client = harness.client("admin").await;
    let mut watch = Lines::open(&client, "resourceVersion=1", "application/json").await;
    watch.expired("too old resource version: 1 (").await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let mut slow = Lines::open(&client, "resourceVersion=0", "application/json").await;
    // more than the history, one unsent batch and the sockets' buffers hold
    let last = fill(&harness.storage, 12_000, 6_000).await;
    let at_last = format!("{PATH}/w0?resourceVersion={last}");
    eventually("the cache has seen it all", async || raw(&client, request("GET", &at_last, "", "")).await.0 == 200)
        .await;
    let mut events = 0;
    let error = loop {
        match slow.next().await.expect("an error before the end") {
            (type_, object) if type_ == "ERROR" => break object,
            _ => events += 1,
        }
    };
    assert!(events < 12_000, "the server did not buffer it all");
    assert_eq!((error["code"].as_u64(), error["reason"].as_str()), (Some(410), Some("Expired")));
    assert!(slow.next().await.is_none());
}

/// Writes widgets of so many bytes past the server; answers the last revision.
pub async fn fill(storage: &MemoryStorage, count: usize, size: usize) -> u64 {
    let mut last = 0;
    for index in 0..count {
        let name = format!("w{index}");
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"color": "x".repeat(size)}});
        let key = format!("/registry/test.example.com/widgets/default/{name}");
        last = storage.create(&key, object.to_string().into(), None, &[]).await.unwrap().0;
    }
    last
}

#[tokio::test]
async fn a_version_from_the_future_is_too_large() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let (code, _, body) = raw(&client, request("GET", &format!("{PATH}?resourceVersion=999999"), "", "")).await;
    assert_eq!(code, 504, "{body}");
    assert!(body.contains("ResourceVersionTooLarge"), "{body}");
    let mut watch = Lines::open(&client, "resourceVersion=999999", "application/json").await;
    watch.expired("Too large resource version: 999999, current: ").await;
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_up() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let mut watch = Lines::open(&client, "timeoutSeconds=1&resourceVersion=0", "application/json").await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_watch_ends_when_the_server_stops() {
    let mut harness = Harness::start().await;
    let client = harness.client("admin").await;
    let mut watch = Lines::open(&client, "resourceVersion=0", "application/json").await;
    harness.stop().await;
    let end = tokio::time::timeout(PATIENCE, watch.0.try_next()).await.expect("an end");
    assert!(matches!(end, Ok(None)), "a clean end, not {end:?}");
}

#[tokio::test]
async fn kubes_watcher_follows() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut objects = std::pin::pin!(watcher(widgets.clone(), config).applied_objects());
        let first: Widget = tokio::time::timeout(PATIENCE, objects.try_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(first.name_any(), "a");
        let count = first.spec.count.unwrap_or_default() + 1;
        let patch = json!({"spec": {"count": count}});
        widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        let second: Widget = tokio::time::timeout(PATIENCE, objects.try_next()).await.unwrap().unwrap().unwrap();
        assert_eq!(second.spec.count, Some(count));
    }
}

#[tokio::test]
async fn typed_events_of_kube() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let version = created.resource_version().unwrap();
    let mut events = widgets.watch(&WatchParams::default(), &version).await.unwrap().boxed();
    widgets.delete("a", &DeleteParams::default()).await.unwrap();
    loop {
        match tokio::time::timeout(PATIENCE, events.try_next()).await.unwrap().unwrap().unwrap() {
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Deleted(gone) => {
                assert_eq!(gone.uid(), created.uid());
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test]
async fn objects_that_other_servers_write_are_seen() {
    let storage = MemoryStorage::new();
    let one = Harness::start_with(storage.clone()).await;
    let two = Harness::start_with(storage.clone()).await;
    let mut watch = Lines::open(&two.client("admin").await, "", "application/json").await;
    let (here, there) = (one.widgets().await, two.widgets().await);
    let created = here.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    assert_eq!(there.get("a").await.unwrap().uid(), created.uid(), "a read without a version is consistent");
    assert_eq!(watch.change().await, change("ADDED", "a"));
    let mut stale = created.clone();
    let patch = json!({"spec": {"count": 2}});
    there.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    stale.spec.count = Some(3);
    assert_eq!(failure(here.replace("a", &PostParams::default(), &stale).await).code, 409);
    // an outsider deletes the key
    let key = "/registry/test.example.com/widgets/default/a";
    let stored = storage.get(key).await.unwrap().unwrap();
    storage.delete(key, stored.mod_revision, &[]).await.unwrap();
    eventually("it is gone", async || here.get_opt("a").await.unwrap().is_none()).await;
}
