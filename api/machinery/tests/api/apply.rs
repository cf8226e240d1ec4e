//! Server-side apply over the wire: who owns what, conflicts, and what a write leaves alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use kube::Client;
use serde_json::{Value, json};
use ucloud_machinery::storage::{
    Guard, Listing, MemoryStorage, Revision, Storage, StorageError, StoredValue, WatchBatches,
};

use crate::support::{Harness, raw, request};

const WIDGETS: &str = "/apis/test.example.com/v1/namespaces/default/widgets";
const WEB: &str = "/apis/test.example.com/v1/namespaces/default/widgets/web";
const APPLY: &str = "application/apply-patch+yaml";

/// A client, and what it does to the widget `web`.
struct User {
    client: Client,
}

impl User {
    async fn of(harness: &Harness) -> Self {
        Self { client: harness.client("admin").await }
    }

    async fn send(&self, method: &str, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let (code, _, text) = raw(&self.client, request(method, path, content_type, &body.to_string())).await;
        (code, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn apply_at(&self, path: &str, query: &str, body: &Value) -> (u16, Value) {
        self.send("PATCH", &format!("{path}?{query}"), APPLY, body).await
    }

    /// Applies a spec as a manager.
    async fn apply(&self, manager: &str, spec: Value) -> (u16, Value) {
        self.apply_at(WEB, &format!("fieldManager={manager}"), &widget(spec)).await
    }

    /// Applies a spec as a manager; it must succeed.
    async fn applied(&self, manager: &str, spec: Value) -> Value {
        let (code, object) = self.apply(manager, spec).await;
        assert!(code < 300, "{object}");
        object
    }

    async fn forced(&self, manager: &str, spec: Value) -> Value {
        let query = format!("fieldManager={manager}&force=true");
        let (code, object) = self.apply_at(WEB, &query, &widget(spec)).await;
        assert_eq!(code, 200, "{object}");
        object
    }

    async fn merge(&self, query: &str, patch: &Value) -> Value {
        let (code, object) = self.send("PATCH", &format!("{WEB}?{query}"), "application/merge-patch+json", patch).await;
        assert_eq!(code, 200, "{object}");
        object
    }

    async fn get(&self, path: &str) -> Value {
        let (code, object) = self.send("GET", path, "application/json", &Value::Null).await;
        assert_eq!(code, 200, "{object}");
        object
    }
}

fn widget(spec: Value) -> Value {
    let mut widget = json!({"apiVersion": "test.example.com/v1", "kind": "Widget", "metadata": {"name": "web"}});
    widget["spec"] = spec;
    widget
}

/// Who owns what, without times and versions.
fn owners(object: &Value) -> Vec<(String, String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries.map(|entry| (text(entry, "manager"), text(entry, "operation"), entry["fieldsV1"].clone())).collect()
}

fn owned(object: &Value, manager: &str) -> Value {
    owners(object).into_iter().find(|(name, ..)| name == manager).map(|(.., fields)| fields).unwrap_or_default()
}

fn causes(status: &Value) -> Vec<&str> {
    status["details"]["causes"].as_array().unwrap().iter().map(|cause| cause["field"].as_str().unwrap()).collect()
}

/// Memory that counts what is written to it.
#[derive(Clone, Default)]
struct Counting {
    memory: MemoryStorage,
    writes: Arc<AtomicUsize>,
}

#[async_trait]
impl Storage for Counting {
    async fn create(
        &self,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.memory.create(key, value, ttl, guards).await
    }
    async fn update(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        ttl: Option<Duration>,
        guards: &[Guard],
    ) -> Result<Revision, StorageError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.memory.update(key, value, expected, ttl, guards).await
    }
    async fn delete(&self, key: &str, expected: Revision, guards: &[Guard]) -> Result<Revision, StorageError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.memory.delete(key, expected, guards).await
    }
    async fn get(&self, key: &str) -> Result<Option<StoredValue>, StorageError> {
        self.memory.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Listing, StorageError> {
        self.memory.list(prefix).await
    }
    async fn current_revision(&self) -> Result<Revision, StorageError> {
        self.memory.current_revision().await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchBatches, StorageError> {
        self.memory.watch(prefix, after).await
    }
}

#[tokio::test]
async fn what_is_not_there_is_created_and_owned() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let mut config = widget(json!({"color": "red", "tags": ["a"], "ports": [{"number": 80}], "limits": {"cpu": 1}}));
    config["metadata"]["labels"] = json!({"app": "web"});
    let (code, made) = user.apply_at(WEB, "fieldManager=me", &config).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["metadata"]["generation"], 1);
    let entry = &made["metadata"]["managedFields"][0];
    assert_eq!(entry["time"], made["metadata"]["creationTimestamp"]);
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert_eq!(entry["apiVersion"], "test.example.com/v1");
    assert_eq!(
        owners(&made),
        [(
            "me".to_owned(),
            "Apply".to_owned(),
            json!({
                "f:metadata": {"f:labels": {"f:app": {}}},
                "f:spec": {
                    "f:color": {}, "f:limits": {"f:cpu": {}}, "f:tags": {"v:\"a\"": {}},
                    "f:ports": {"k:{\"number\":80}": {".": {}, "f:number": {}}},
                },
            })
        )]
    );
}

#[tokio::test]
async fn what_changes_nothing_writes_nothing() {
    let storage = Counting::default();
    let harness = Harness::start_over(storage.clone(), storage.memory.clone()).await;
    let user = User::of(&harness).await;
    let spec = json!({"color": "red", "tags": ["a", "b"], "ports": [{"number": 80, "name": "http"}]});
    let made = user.applied("me", spec.clone()).await;
    let status = json!({"apiVersion": "test.example.com/v1", "kind": "Widget", "status": {"host": "h1"}});
    let (code, _) = user.apply_at(&format!("{WEB}/status"), "fieldManager=agent", &status).await;
    assert_eq!(code, 200);
    let before = storage.writes.load(Ordering::SeqCst);
    let present = user.get(WEB).await;
    for _ in 0..3 {
        assert_eq!(user.applied("me", spec.clone()).await, present);
        assert_eq!(user.forced("me", spec.clone()).await, present);
        let (_, same) = user.apply_at(&format!("{WEB}/status"), "fieldManager=agent", &status).await;
        assert_eq!(same, present);
        // nor does a plain write that changes nothing, whoever sends it
        assert_eq!(user.merge("fieldManager=other", &json!({"spec": {"color": "red"}})).await, present);
    }
    assert_eq!(storage.writes.load(Ordering::SeqCst), before);
    assert_eq!(made["metadata"]["generation"], present["metadata"]["generation"]);
}

#[tokio::test]
async fn a_conflict_names_the_manager_and_the_field() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    user.applied("one", json!({"color": "red", "count": 1})).await;
    let (code, status) = user.apply("two", json!({"count": 2})).await;
    assert_eq!(code, 409, "{status}");
    assert_eq!(status["message"], r#"Apply failed with 1 conflict: conflict with "one": .spec.count"#);
    assert_eq!(status["reason"], "Conflict");
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".spec.count"}])
    );

    user.merge("fieldManager=editor", &json!({"spec": {"count": 3}})).await;
    let (_, status) = user.apply("one", json!({"color": "red", "count": 1})).await;
    assert_eq!(
        status["message"],
        r#"Apply failed with 1 conflict: conflict with "editor" using test.example.com/v1: .spec.count"#
    );
    let taken = user.forced("one", json!({"color": "red", "count": 1})).await;
    assert_eq!(taken["spec"]["count"], 1);
    assert_eq!(owners(&taken).len(), 1, "{taken}");
}

#[tokio::test]
async fn fields_are_shared_and_handed_over() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    user.applied("one", json!({"color": "red", "count": 1, "limits": {"cpu": 1}})).await;
    // the same value is no conflict: both own it
    let shared = user.applied("two", json!({"count": 1, "limits": {"memory": 2}})).await;
    assert_eq!(owned(&shared, "two"), json!({"f:spec": {"f:count": {}, "f:limits": {"f:memory": {}}}}));
    assert_eq!(owned(&shared, "one")["f:spec"]["f:count"], json!({}));
    // what another owns stays, what nobody owns goes
    let handed = user.applied("one", json!({"color": "red"})).await;
    assert_eq!(handed["spec"], json!({"color": "red", "count": 1, "limits": {"memory": 2}}));
    assert_eq!(owned(&handed, "one"), json!({"f:spec": {"f:color": {}}}));
    let (code, changed) = user.apply("two", json!({"count": 5})).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"], json!({"color": "red", "count": 5}));
}

#[tokio::test]
async fn lists_merge_as_the_schema_says() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let one =
        json!({"color": "red", "tags": ["a", "b"], "parts": [{"size": 1}], "ports": [{"number": 80}, {"number": 53}]});
    user.applied("one", one.clone()).await;
    let two = json!({"tags": ["c", "b"], "ports": [{"number": 80, "name": "http"}, {"number": 443}]});
    let merged = user.applied("two", two).await;
    assert_eq!(merged["spec"]["tags"], json!(["a", "c", "b"]));
    assert_eq!(merged["spec"]["ports"], json!([{"number": 80, "name": "http"}, {"number": 53}, {"number": 443}]));
    // an atomic list belongs to one
    let (code, status) = user.apply("two", json!({"parts": [{"size": 2}]})).await;
    assert_eq!((code, causes(&status)), (409, vec![".spec.parts"]));
    // items go with the last who owns them
    let less = user.applied("one", json!({"color": "red", "tags": ["a"]})).await;
    assert_eq!(less["spec"]["tags"], json!(["a", "c", "b"]));
    assert_eq!(less["spec"]["ports"], json!([{"number": 80, "name": "http"}, {"number": 443}]));
    assert_eq!(less["spec"].get("parts"), None);
    let (_, status) = user.apply("one", json!({"color": "red", "ports": [{"number": 80, "name": "web"}]})).await;
    assert_eq!(causes(&status), [".spec.ports[number=80].name"]);
    // an item that cannot be told from another is no configuration
    for (spec, problem) in [
        (json!({"tags": ["x", "x"]}), r#".spec.tags: duplicate entries for key [="x"]"#),
        (
            json!({"ports": [{"name": "x"}]}),
            r#".spec.ports: element 0: associative list with keys has an element that omits key field "number""#,
        ),
    ] {
        let (code, status) = user.apply("one", spec).await;
        assert_eq!(code, 400);
        assert!(status["message"].as_str().unwrap().contains(problem), "{status}");
    }
}

#[tokio::test]
async fn the_status_has_managers_of_its_own() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let condition = |type_: &str, status: &str| json!([{"type": type_, "status": status}]);
    let status = |status: Value| {
        json!({"apiVersion": "test.example.com/v1", "kind": "Widget", "metadata": {"name": "web"},
        "spec": {"color": "blue"}, "status": status})
    };
    let path = format!("{WEB}/status");
    let (code, missing) = user.apply_at(&path, "fieldManager=a", &status(json!({"host": "h1"}))).await;
    assert_eq!(code, 404, "{missing}");
    let made = user.applied("me", json!({"color": "red"})).await;

    let (_, first) = user
        .apply_at(&path, "fieldManager=a", &status(json!({"host": "h1", "conditions": condition("A", "True")})))
        .await;
    assert_eq!(first["spec"]["color"], "red");
    assert_eq!(first["metadata"]["generation"], made["metadata"]["generation"]);
    // writers of one list of conditions do not disturb each other
    let (code, second) =
        user.apply_at(&path, "fieldManager=b", &status(json!({"conditions": condition("B", "False")}))).await;
    assert_eq!(code, 200, "{second}");
    assert_eq!(
        second["status"]["conditions"],
        json!([{"type": "A", "status": "True"}, {"type": "B", "status": "False"}])
    );
    assert_eq!(
        owned(&second, "b"),
        json!({"f:status": {"f:conditions": {"k:{\"type\":\"B\"}": {".": {}, "f:type": {}, "f:status": {}}}}})
    );
    let entry = second["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "b").unwrap();
    assert_eq!(entry["subresource"], "status");
    let (code, refused) =
        user.apply_at(&path, "fieldManager=b", &status(json!({"conditions": condition("A", "False")}))).await;
    assert_eq!(
        refused["message"],
        "Apply failed with 1 conflict: conflict with \"a\" with subresource \"status\": .status.conditions[type=\"A\"].status"
    );
    assert_eq!(code, 409);
    // the status in a configuration of the object itself is neither written nor owned
    let mut config = status(json!({"host": "other"}));
    config["spec"]["color"] = json!("red");
    let (code, same) = user.apply_at(WEB, "fieldManager=me", &config).await;
    assert_eq!((code, &same), (200, &second));
    // gone as it came
    let (_, last) = user.apply_at(&path, "fieldManager=a", &status(json!({}))).await;
    assert_eq!(last["status"], json!({"conditions": [{"type": "B", "status": "False"}]}));
}

#[tokio::test]
async fn every_write_notes_who_made_it() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let body = widget(json!({"color": "red", "tags": ["a"]}));
    let (code, made) = user.send("POST", &format!("{WIDGETS}?fieldManager=maker"), "application/json", &body).await;
    assert_eq!(code, 201);
    assert_eq!(
        owners(&made),
        [(
            "maker".to_owned(),
            "Update".to_owned(),
            json!({"f:spec": {".": {}, "f:color": {}, "f:tags": {".": {}, "v:\"a\"": {}}}})
        )]
    );
    // a client that says no name is known by its user agent
    let mut patch = request("PATCH", WEB, "application/merge-patch+json", r#"{"metadata":{"labels":{"a":"b"}}}"#);
    patch.headers_mut().insert("user-agent", "kubectl/v1.36.0 (linux/amd64) kubernetes/abc".parse().unwrap());
    let (code, _, text) = raw(&user.client, patch).await;
    assert_eq!(code, 200, "{text}");
    let patched: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(owned(&patched, "kubectl"), json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}));
    // a subresource is noted with its name
    let (code, _) =
        user.send("POST", &format!("{WEB}/bind?fieldManager=binder"), "application/json", &json!({"host": "h1"})).await;
    assert_eq!(code, 201);
    let bound = user.get(WEB).await;
    let entry =
        bound["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "binder").unwrap();
    assert_eq!(entry["subresource"], "bind");
    assert_eq!(entry["fieldsV1"], json!({"f:status": {".": {}, "f:host": {}}}));
    // a replacement by a client that does not know of managed fields takes over what it changes, and nothing else
    let mut body = widget(json!({"color": "red", "tags": ["b"]}));
    body["metadata"] = json!({"name": "web", "resourceVersion": bound["metadata"]["resourceVersion"]});
    let (code, replaced) = user.send("PUT", &format!("{WEB}?fieldManager=putter"), "application/json", &body).await;
    assert_eq!(code, 200, "{replaced}");
    assert_eq!(owned(&replaced, "putter"), json!({"f:spec": {"f:tags": {"v:\"b\"": {}}}}));
    assert_eq!(owned(&replaced, "maker"), json!({"f:spec": {".": {}, "f:color": {}, "f:tags": {}}}));
    // what it left out is gone
    assert_eq!(owned(&replaced, "kubectl"), Value::Null);
}

#[tokio::test]
async fn managed_fields_can_be_set_and_reset_but_not_spoilt() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let made = user.applied("me", json!({"color": "red"})).await;
    let set = |managed: Value| json!({"metadata": {"managedFields": managed}});
    // what cannot be read counts as not sent
    let nonsense =
        json!([{"manager": "x", "operation": "Steal", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": {}}]);
    let deep = (0..1000).fold(json!({}), |below, _| json!({"f:a": below}));
    assert_eq!(user.merge("", &set(nonsense)).await["metadata"]["managedFields"], made["metadata"]["managedFields"]);
    let (code, _) = user.send("PATCH", WEB, "application/merge-patch+json", &set(json!([{"fieldsV1": deep}]))).await;
    assert!((400..500).contains(&code), "{code}");
    // another owner, as kubectl makes of one when it moves from client-side to server-side apply
    let entry = json!([{"manager": "you", "operation": "Apply", "apiVersion": "test.example.com/v1", "fieldsType": "FieldsV1",
        "time": "2026-01-02T03:04:05Z", "fieldsV1": {"f:spec": {"f:color": {}}}}]);
    let moved = user.merge("", &set(entry.clone())).await;
    assert_eq!(moved["metadata"]["managedFields"], entry);
    for reset in [json!([]), json!([{}])] {
        let forgotten = user.merge("", &set(reset)).await;
        assert_eq!(forgotten["metadata"].get("managedFields"), None);
        // until somebody applies, nobody counts
        let (code, _) = user.send("PATCH", WEB, "application/merge-patch+json", &json!({"spec": {"count": 1}})).await;
        assert_eq!(code, 200);
        let counted = user.applied("me", json!({"color": "red"})).await;
        assert_eq!(owned(&counted, "me"), json!({"f:spec": {"f:color": {}}}));
        assert_eq!(owned(&counted, "before-first-apply"), json!({"f:spec": {".": {}, "f:color": {}, "f:count": {}}}));
    }
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let (code, shown) = user.apply_at(WEB, "fieldManager=me&dryRun=All", &widget(json!({"color": "red"}))).await;
    assert_eq!((code, &shown["spec"]["color"]), (201, &json!("red")));
    let (code, _) = user.send("GET", WEB, "application/json", &Value::Null).await;
    assert_eq!(code, 404);
    let made = user.applied("me", json!({"color": "red"})).await;
    let (code, shown) =
        user.apply_at(WEB, "fieldManager=me&dryRun=All", &widget(json!({"color": "red", "count": 2}))).await;
    assert_eq!((code, &shown["spec"]["count"]), (200, &json!(2)));
    assert_eq!(user.get(WEB).await, made);
}

#[tokio::test]
async fn what_cannot_be_applied_says_why() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let good = widget(json!({"color": "red"}));
    let with = |pointer: &str, value: Value| {
        let mut config = good.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        config.pointer_mut(parent).unwrap()[field] = value;
        config
    };
    let me = "fieldManager=me";
    for (query, config, code, message) in [
        ("", good.clone(), 422, "fieldManager: Required value: is required for apply patch"),
        ("fieldManager=a%00b", good.clone(), 422, "invalid character U+0000"),
        ("fieldManager=me&force=maybe", good.clone(), 400, "force must be true or false"),
        (me, with("/metadata/managedFields", json!([])), 400, "metadata.managedFields must be nil"),
        (me, with("/kind", json!("Gadget")), 400, "invalid object type: test.example.com/v1, Kind=Gadget"),
        (me, with("/apiVersion", Value::Null), 400, "invalid object type: , Kind=Widget"),
        (me, with("/metadata/name", json!("other")), 400, "does not match the name on the URL (web)"),
        (me, with("/metadata/namespace", json!("other")), 400, "does not match the namespace"),
        (me, with("/spec/colour", json!("red")), 400, ".spec.colour: field not declared in schema"),
        (me, with("/metadata/bogus", json!(1)), 400, ".metadata.bogus: field not declared in schema"),
        (me, with("/metadata/labels", json!({"a": 1})), 422, "metadata.labels[a]"),
        (me, with("/spec/count", json!("many")), 422, "spec.count"),
        (me, with("/spec", json!({})), 422, "spec.color: Required value"),
        (me, with("/metadata/uid", json!("u-1")), 409, "uid mismatch"),
        (me, with("/metadata/resourceVersion", json!("7")), 409, "resourceVersion mismatch"),
        (me, with("/metadata/name", Value::Null), 400, "name must be provided"),
    ] {
        let (got, status) = user.apply_at(WEB, query, &config).await;
        assert_eq!(got, code, "{config}: {status}");
        assert!(status["message"].as_str().unwrap().contains(message), "{status}");
    }
    let (code, status) = user.apply_at(WEB, me, &json!([1])).await;
    assert_eq!(code, 400, "{status}");

    let made = user.applied("me", json!({"color": "red"})).await;
    let (code, _) = user.apply_at(WEB, me, &with("/metadata/resourceVersion", json!("1"))).await;
    assert_eq!(code, 409);
    let (code, _) = user.apply_at(WEB, me, &with("/metadata/uid", json!("other"))).await;
    assert_eq!(code, 409);
    let (code, same) =
        user.apply_at(WEB, me, &with("/metadata/resourceVersion", made["metadata"]["resourceVersion"].clone())).await;
    assert_eq!((code, same), (200, made));
    // of an object that is there, the path is name enough
    let (code, _) = user.apply_at(WEB, me, &with("/metadata/name", Value::Null)).await;
    assert_eq!(code, 200);

    let (code, status) = user.send("PATCH", WEB, "application/apply-patch+cbor", &good).await;
    assert_eq!(code, 415);
    assert!(status["message"].as_str().unwrap().contains(APPLY), "{status}");
    let path = format!("{WEB}?force=true");
    let (code, status) = user.send("PATCH", &path, "application/merge-patch+json", &json!({})).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("may not be specified for non-apply patch"), "{status}");
}

#[tokio::test]
async fn duplicate_fields_of_a_configuration_are_told() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let yaml =
        "apiVersion: test.example.com/v1\nkind: Widget\nmetadata:\n  name: web\nspec:\n  color: red\n  color: red\n";
    let send =
        async |query: &str| raw(&client, request("PATCH", &format!("{WEB}?fieldManager=me{query}"), APPLY, yaml)).await;
    let (code, _, text) = send("&fieldValidation=Strict").await;
    assert_eq!(code, 400);
    assert!(text.contains("spec.color"), "{text}");
    let (code, headers, text) = send("").await;
    assert_eq!(code, 201, "{text}");
    assert!(headers["warning"].to_str().unwrap().contains("spec.color"), "{headers:?}");
}

#[tokio::test]
async fn authorization_and_rules_hold_for_applies() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let viewer = User { client: harness.client("viewer").await };
    assert_eq!(viewer.apply("me", json!({"color": "red"})).await.0, 403);
    let mut forbidden = widget(json!({"color": "red"}));
    forbidden["metadata"]["labels"] = json!({"forbidden": "yes"});
    assert_eq!(user.apply_at(WEB, "fieldManager=me", &forbidden).await.0, 403);
    user.applied("me", json!({"color": "red"})).await;
    assert_eq!(user.apply_at(WEB, "fieldManager=me", &forbidden).await.0, 403);
    // the strategy's rules too: the colour is immutable
    let (code, status) = user.apply("me", json!({"color": "green"})).await;
    assert_eq!(code, 422, "{status}");
    let gone = WEB.replace("/default/", "/nowhere/");
    let (code, status) = user.apply_at(&gone, "fieldManager=me", &widget(json!({"color": "red"}))).await;
    assert_eq!(code, 404, "{status}");
}

#[tokio::test]
async fn kubernetes_own_kinds_are_applied_too() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    let about = json!({"kind": "Widget", "namespace": "default", "name": "web"});
    for (path, config) in [
        (
            "/api/v1/namespaces/blue",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "blue", "labels": {"a": "b"}}}),
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/default/leases/l",
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}}),
        ),
        (
            "/api/v1/namespaces/default/events/core",
            json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "core"}, "involvedObject": about, "message": "m"}),
        ),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events/new",
            json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "new"}, "regarding": about, "note": "n",
                "eventTime": "2026-01-01T00:00:00.000000Z"}),
        ),
    ] {
        let (code, made) = user.apply_at(path, "fieldManager=me", &config).await;
        assert_eq!(code, 201, "{made}");
        let (code, same) = user.apply_at(path, "fieldManager=me", &config).await;
        assert_eq!((code, &same), (200, &made));
        let mut changed = config.clone();
        changed["metadata"]["labels"] = json!({"c": "d"});
        let (code, changed) = user.apply_at(path, "fieldManager=me", &changed).await;
        assert_eq!(code, 200, "{changed}");
        assert_eq!(changed["metadata"]["labels"]["c"], "d");
        assert_eq!(changed["metadata"]["labels"].get("a"), None);
    }
    let event = user.get("/apis/events.k8s.io/v1/namespaces/default/events/new").await;
    assert_eq!(owned(&event, "me")["f:regarding"], json!({}));
    assert_eq!(owned(&event, "me")["f:note"], json!({}));
}

#[tokio::test]
async fn managed_fields_are_bounded() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    user.applied("me", json!({"color": "red"})).await;
    let entry = |index: usize, fields: Value| {
        json!({"manager": format!("m{index}"), "operation": "Apply", "apiVersion": "test.example.com/v1", "fieldsType": "FieldsV1",
            "fieldsV1": fields})
    };
    let many: Vec<Value> = (0..10_000).map(|index| entry(index, json!({"f:a": {}}))).collect();
    let started = Instant::now();
    let patch = json!({"metadata": {"managedFields": many}});
    let (code, status) = user.send("PATCH", WEB, "application/merge-patch+json", &patch).await;
    assert_eq!(code, 422, "{status}");
    assert!(status["message"].as_str().unwrap().contains("metadata.managedFields: Too many: 10000"), "{status}");
    let tags: Vec<String> = (0..20_000).map(|index| format!("tag{index}")).collect();
    let (code, _) = user.apply("me", json!({"color": "red", "tags": tags})).await;
    assert_eq!(code, 200);
    // a key of a megabyte is no worse than any other large value
    let large = json!([entry(0, json!({format!("k:{{\"name\":\"{}\"}}", "x".repeat(1 << 20)): {}}))]);
    let (code, _) =
        user.send("PATCH", WEB, "application/merge-patch+json", &json!({"metadata": {"managedFields": large}})).await;
    assert!(code == 200 || code == 413, "{code}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn the_oldest_of_many_plain_writers_are_joined() {
    let harness = Harness::start().await;
    let user = User::of(&harness).await;
    user.applied("me", json!({"color": "red"})).await;
    let mut last = Value::Null;
    for index in 0..15 {
        let label = json!({"metadata": {"labels": {format!("l{index}"): "x"}}});
        last = user.merge(&format!("fieldManager=m{index}"), &label).await;
    }
    let managers: Vec<(String, String, Value)> = owners(&last);
    assert_eq!(managers.len(), 11, "{managers:?}");
    assert_eq!(managers[0].0, "me");
    let joined = owned(&last, "ancient-changes");
    assert_eq!(joined["f:metadata"]["f:labels"].as_object().unwrap().len(), 7, "{joined}");
}

#[tokio::test]
async fn concurrent_appliers_all_get_their_way() {
    let harness = Harness::start().await;
    let user = Arc::new(User::of(&harness).await);
    user.applied("base", json!({"color": "red"})).await;
    let appliers: Vec<_> = (0..8)
        .map(|index| {
            let user = user.clone();
            tokio::spawn(async move {
                user.applied(&format!("m{index}"), json!({"limits": {format!("l{index}"): index}})).await;
            })
        })
        .collect();
    for applier in appliers {
        applier.await.unwrap();
    }
    let object = user.get(WEB).await;
    assert_eq!(object["spec"]["limits"].as_object().unwrap().len(), 8, "{object}");
    assert_eq!(owners(&object).len(), 9);
}
