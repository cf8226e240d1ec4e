//! Kinds that come and go at run time, over the wire: defined, served, changed, deleted; by one server and by two.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::BodyExt as _;
use kube::{Client, CustomResourceExt as _};
use serde_json::{Value, json};
use ucloud_machinery::storage::{MemoryStorage, Storage as _};

use crate::support::{Harness, PATIENCE, Widget, eventually, raw, request};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const GADGETS: &str = "/apis/shop.example.com/v1/namespaces/default/gadgets";
const PREFIX: &str = "/registry/shop.example.com/gadgets/";

/// A definition with one of everything.
pub fn gadgets() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "description": "What it should be.", "required": ["color"], "properties": {
            "color": {"type": "string", "description": "Its colour.", "enum": ["red", "blue"]},
            "replicas": {"type": "integer", "default": 1, "minimum": 0},
            "size": {"type": "string", "nullable": true, "default": "m"},
            "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true},
        }},
        "status": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "selector": {"type": "string"},
        }},
    }});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.shop.example.com"},
        "spec": {
            "group": "shop.example.com", "scope": "Namespaced",
            "names": {"kind": "Gadget", "plural": "gadgets", "shortNames": ["gd"], "categories": ["wares"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {
                    "specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                    "labelSelectorPath": ".status.selector",
                }},
                "additionalPrinterColumns": [
                    {"name": "Color", "type": "string", "jsonPath": ".spec.color"},
                    {"name": "Seen", "type": "integer", "jsonPath": ".status.replicas", "priority": 1},
                ],
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

fn gadget(name: &str, color: &str) -> Value {
    json!({"apiVersion": "shop.example.com/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": {"color": color}})
}

/// A client that speaks JSON.
struct Wire(Client);

impl Wire {
    async fn of(harness: &Harness) -> Self {
        Self(harness.client("admin").await)
    }

    async fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let content_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (code, _, answer) = raw(&self.0, request(method, path, content_type, &body)).await;
        (code, serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{method} {path}: {answer}")))
    }

    /// A call that must succeed.
    async fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (code, answer) = self.call(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer}");
        answer
    }

    async fn get(&self, path: &str) -> Value {
        self.ok("GET", path, &Value::Null).await
    }

    async fn condition(&self, crd: &str, type_: &str) -> Value {
        let crd = self.get(&format!("{CRDS}/{crd}")).await;
        let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default()
    }

    /// Defines a kind and waits until it is established.
    async fn define(&self, crd: &Value) {
        self.ok("POST", CRDS, crd).await;
        self.established(crd["metadata"]["name"].as_str().unwrap()).await;
    }

    async fn established(&self, crd: &str) {
        eventually("the kind is established", async || self.condition(crd, "Established").await["status"] == "True")
            .await;
    }

    async fn is_gone(&self, path: &str) -> bool {
        self.call("GET", path, &Value::Null).await.0 == 404
    }

    /// Deletes a definition and waits until it is gone.
    async fn undefine(&self, crd: &str) {
        let path = format!("{CRDS}/{crd}");
        self.ok("DELETE", &path, &Value::Null).await;
        eventually("the definition is gone", async || self.is_gone(&path).await).await;
    }
}

async fn stored(storage: &MemoryStorage) -> usize {
    storage.list(PREFIX).await.unwrap().values.len()
}

#[tokio::test]
async fn a_kind_comes_is_used_and_goes() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    assert!(wire.is_gone(GADGETS).await);
    wire.define(&gadgets()).await;
    let crd = wire.get(&format!("{CRDS}/gadgets.shop.example.com")).await;
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(
        crd["status"]["acceptedNames"],
        json!({"kind": "Gadget", "listKind": "GadgetList", "plural": "gadgets", "singular": "gadget",
            "shortNames": ["gd"], "categories": ["wares"]})
    );

    let created = wire.ok("POST", GADGETS, &gadget("a", "red")).await;
    assert_eq!(created["spec"], json!({"color": "red", "replicas": 1, "size": "m"}));
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(wire.get(&format!("{GADGETS}/a")).await, created);
    wire.ok("POST", GADGETS, &gadget("b", "blue")).await;
    let list = wire.get(&format!("{GADGETS}?fieldSelector=spec.color%3Dblue")).await;
    assert_eq!((list["kind"].as_str(), list["items"][0]["metadata"]["name"].as_str()), (Some("GadgetList"), Some("b")));
    assert_eq!(list["items"].as_array().unwrap().len(), 1);

    let patched = wire.ok("PATCH", &format!("{GADGETS}/a"), &json!({"spec": {"replicas": 3}})).await;
    assert_eq!((&patched["spec"]["replicas"], &patched["metadata"]["generation"]), (&json!(3), &json!(2)));
    let told = json!({"status": {"replicas": 2}, "spec": {"color": "blue"}});
    let told = wire.ok("PATCH", &format!("{GADGETS}/a/status"), &told).await;
    assert_eq!((&told["status"]["replicas"], &told["spec"]["color"]), (&json!(2), &json!("red")));

    let (_, table) = {
        let request = http::Request::get(GADGETS).header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        let (code, _, body) = raw(&wire.0, request.body(Vec::new()).unwrap()).await;
        (code, serde_json::from_str::<Value>(&body).unwrap())
    };
    let headings: Vec<(&str, i64)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (column["name"].as_str().unwrap(), column["priority"].as_i64().unwrap()))
        .collect();
    assert_eq!(headings, [("Name", 0), ("Color", 0), ("Seen", 1)]);
    assert_eq!(table["rows"][0]["cells"], json!(["a", "red", 2]));

    wire.undefine("gadgets.shop.example.com").await;
    assert!(wire.is_gone(GADGETS).await);
    assert_eq!(stored(&harness.storage).await, 0);
    assert!(!wire.get("/apis").await.to_string().contains("shop.example.com"));
    assert!(!wire.get("/openapi/v3").await.to_string().contains("shop.example.com"));

    // another kind under the same name
    let mut other = gadgets();
    other["spec"]["scope"] = "Cluster".into();
    other["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"] =
        json!({"type": "object", "properties": {"weight": {"type": "integer"}}});
    other["spec"]["versions"][0]["selectableFields"] = json!([]);
    wire.define(&other).await;
    let object = json!({"metadata": {"name": "a"}, "spec": {"weight": 4, "color": "red"}});
    let created = wire.ok("POST", "/apis/shop.example.com/v1/gadgets", &object).await;
    assert_eq!(created["spec"], json!({"weight": 4}));
}

#[tokio::test]
async fn what_the_schema_says_holds() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    wire.define(&gadgets()).await;
    let (code, status) = wire.call("POST", GADGETS, &gadget("a", "green")).await;
    assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some("spec.color")));
    let mut object = gadget("a", "red");
    object["spec"]["bogus"] = 1.into();
    let (code, status) = wire.call("POST", &format!("{GADGETS}?fieldValidation=Strict"), &object).await;
    assert!(code == 400 && status["message"].as_str().unwrap().contains("unknown field \"spec.bogus\""), "{status}");

    object["spec"] =
        json!({"color": "red", "bogus": 1, "replicas": null, "size": null, "extra": {"any": {"thing": 1}}});
    let created = wire.ok("POST", GADGETS, &object).await;
    assert_eq!(created["spec"], json!({"color": "red", "replicas": 1, "size": null, "extra": {"any": {"thing": 1}}}));
    let embedded = json!({"spec": {"template": {"kind": "Pod", "spec": {"x": 1}}}});
    let (code, status) = wire.call("PATCH", &format!("{GADGETS}/a"), &embedded).await;
    assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some("spec.template.apiVersion")));
}

#[tokio::test]
async fn a_watch_of_a_kind_ends_when_the_kind_goes() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    wire.define(&gadgets()).await;
    let watch = http::Request::get(format!("{GADGETS}?watch=true&resourceVersion=0")).body(kube::client::Body::empty());
    let watch = wire.0.send(watch.unwrap()).await.unwrap();
    assert_eq!(watch.status(), 200);
    wire.ok("POST", GADGETS, &gadget("a", "red")).await;
    wire.undefine("gadgets.shop.example.com").await;
    let events = tokio::time::timeout(PATIENCE, watch.into_body().collect()).await.expect("the watch ends").unwrap();
    let events = String::from_utf8(events.to_bytes().to_vec()).unwrap();
    let types: Vec<String> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(types, ["ADDED", "DELETED"]);
}

#[tokio::test]
async fn scale() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    wire.define(&gadgets()).await;
    wire.ok("POST", GADGETS, &gadget("a", "red")).await;
    wire.ok("PATCH", &format!("{GADGETS}/a/status"), &json!({"status": {"replicas": 2, "selector": "app=a"}})).await;
    let path = format!("{GADGETS}/a/scale");
    let mut scale = wire.get(&path).await;
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(
        (&scale["spec"], &scale["status"]),
        (&json!({"replicas": 1}), &json!({"replicas": 2, "selector": "app=a"}))
    );
    scale["spec"]["replicas"] = 4.into();
    let answer = wire.ok("PUT", &path, &scale).await;
    assert_eq!(answer["spec"]["replicas"], 4);
    // the resource version is that of before
    assert_eq!(wire.call("PUT", &path, &scale).await.0, 409);
    let answer = wire.ok("PATCH", &path, &json!({"spec": {"replicas": 5}})).await;
    assert_eq!(answer["spec"]["replicas"], 5);
    assert_eq!(wire.get(&format!("{GADGETS}/a")).await["spec"]["replicas"], 5);
    assert_eq!(wire.call("PATCH", &path, &json!({"spec": {"replicas": -1}})).await.0, 422);
    let discovery = wire.get("/apis/shop.example.com/v1").await;
    let entry = discovery["resources"].as_array().unwrap().iter().find(|entry| entry["name"] == "gadgets/scale");
    let entry = entry.unwrap();
    assert_eq!(
        (&entry["group"], &entry["version"], &entry["kind"]),
        (&json!("autoscaling"), &json!("v1"), &json!("Scale"))
    );
}

#[tokio::test]
async fn a_changed_definition_takes_effect() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    wire.define(&gadgets()).await;
    let before = wire.ok("POST", GADGETS, &gadget("a", "red")).await;
    let path = format!("{CRDS}/gadgets.shop.example.com");
    let mut crd = wire.get(&path).await;
    let mut second = crd["spec"]["versions"][0].clone();
    second["name"] = "v2".into();
    second["storage"] = true.into();
    second["additionalPrinterColumns"] = json!([{"name": "Weight", "type": "integer", "jsonPath": ".spec.weight"}]);
    second["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["weight"] =
        json!({"type": "integer", "default": 9});
    second["selectableFields"] = json!([{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.weight"}]);
    crd["spec"]["versions"][0]["storage"] = false.into();
    crd["spec"]["versions"].as_array_mut().unwrap().push(second);
    let crd = wire.ok("PUT", &path, &crd).await;
    assert_eq!(crd["status"]["storedVersions"], json!(["v1", "v2"]));

    let v2 = GADGETS.replace("/v1/", "/v2/");
    eventually("the second version is served", async || !wire.is_gone(&format!("{v2}/a")).await).await;
    let object = wire.get(&format!("{v2}/a")).await;
    assert_eq!((&object["apiVersion"], &object["spec"]["weight"]), (&json!("shop.example.com/v2"), &json!(9)));
    assert_eq!(wire.get(&format!("{GADGETS}/a")).await, before, "the first version shows what it showed");
    let found = wire.get(&format!("{v2}?fieldSelector=spec.weight%3D9")).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let group = wire.get("/apis/shop.example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let document = wire.get("/openapi/v3/apis/shop.example.com/v2").await;
    assert!(document.to_string().contains("weight"));

    // written through one version, read through the other
    wire.ok("PATCH", &format!("{GADGETS}/a"), &json!({"spec": {"color": "blue"}})).await;
    assert_eq!(wire.get(&format!("{v2}/a")).await["spec"]["color"], "blue");
    // v1 is stored in still
    let mut crd = wire.get(&path).await;
    crd["spec"]["versions"].as_array_mut().unwrap().remove(0);
    let (code, status) = wire.call("PUT", &path, &crd).await;
    assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some("status.storedVersions[0]")));
}

#[tokio::test]
async fn a_definition_waits_for_objects_that_are_held() {
    let mut harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    wire.define(&gadgets()).await;
    let mut held = gadget("held", "red");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    wire.ok("POST", GADGETS, &held).await;
    wire.ok("POST", GADGETS, &gadget("free", "red")).await;
    let path = format!("{CRDS}/gadgets.shop.example.com");
    wire.ok("DELETE", &path, &Value::Null).await;
    eventually("the condition tells who holds it", async || {
        let condition = wire.condition("gadgets.shop.example.com", "Terminating").await;
        condition["message"]
            .as_str()
            .is_some_and(|text| text.contains("default/held is held by the finalizer example.com/hold"))
    })
    .await;
    assert!(wire.is_gone(&format!("{GADGETS}/free")).await);
    let (code, status) = wire.call("POST", GADGETS, &gadget("late", "red")).await;
    assert_eq!(code, 405, "{status}");
    // another server goes on
    harness.stop().await;
    let harness = Harness::start_with(harness.storage.clone()).await;
    let wire = Wire::of(&harness).await;
    // nobody takes the finalizer off but the server
    wire.ok("PATCH", &path, &json!({"metadata": {"finalizers": null}})).await;
    assert!(!wire.is_gone(&path).await);

    wire.ok("PATCH", &format!("{GADGETS}/held"), &json!({"metadata": {"finalizers": null}})).await;
    eventually("the definition is gone", async || wire.is_gone(&path).await).await;
    assert_eq!(stored(&harness.storage).await, 0);
}

#[tokio::test]
async fn of_two_kinds_with_one_name_one_is_served() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    wire.define(&gadgets()).await;
    let mut second = gadgets();
    second["metadata"]["name"] = "gizmos.shop.example.com".into();
    second["spec"]["names"] = json!({"kind": "Gadget", "plural": "gizmos"});
    wire.ok("POST", CRDS, &second).await;
    eventually("the conflict is told", async || {
        wire.condition("gizmos.shop.example.com", "NamesAccepted").await["reason"] == "SingularConflict"
    })
    .await;
    assert!(wire.is_gone("/apis/shop.example.com/v1/gizmos").await);
    wire.undefine("gadgets.shop.example.com").await;
    wire.established("gizmos.shop.example.com").await;
    wire.get("/apis/shop.example.com/v1/gizmos").await;
}

#[tokio::test]
async fn what_is_built_in_cannot_be_defined() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    let widgets = serde_json::to_value(Widget::crd()).unwrap();
    let (code, status) = wire.call("POST", CRDS, &widgets).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("is built into this server"), "{status}");
    let mut other = gadgets();
    other["metadata"]["name"] = "wonders.test.example.com".into();
    other["spec"]["group"] = "test.example.com".into();
    other["spec"]["names"] = json!({"kind": "Widget", "plural": "wonders", "singular": "wonder"});
    wire.ok("POST", CRDS, &other).await;
    eventually("the conflict is told", async || {
        wire.condition("wonders.test.example.com", "NamesAccepted").await["message"] == "\"Widget\" is already in use"
    })
    .await;
    assert_eq!(wire.condition("wonders.test.example.com", "Established").await["status"], "False");
    wire.undefine("wonders.test.example.com").await;
}

#[tokio::test]
async fn rules_and_webhooks_are_answered_clearly() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    let mut crd = gadgets();
    crd["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"]}});
    let (code, status) = wire.call("POST", CRDS, &crd).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("this server calls no conversion webhooks"), "{status}");
}

#[tokio::test]
async fn two_servers_serve_the_same_kinds() {
    let first = Harness::start().await;
    let second = Harness::start_with(first.storage.clone()).await;
    let (a, b) = (Wire::of(&first).await, Wire::of(&second).await);
    for _ in 0..5 {
        a.define(&gadgets()).await;
        // at once: the other server has the definition at the latest when it is asked for the kind. It may still serve the
        // kind's forerunner, but then says so
        eventually("the object is created", async || match b.call("POST", GADGETS, &gadget("x", "red")).await {
            (201, _) => true,
            (503, status) if status["message"].as_str().unwrap().contains("defined anew") => false,
            (code, status) => panic!("{code} {status}"),
        })
        .await;
        assert_eq!(a.get(&format!("{GADGETS}/x")).await["spec"]["color"], "red");
        b.undefine("gadgets.shop.example.com").await;
        assert!(a.is_gone(GADGETS).await || a.get(GADGETS).await["items"] == json!([]));
        assert_eq!(stored(&first.storage).await, 0);
    }
}

#[tokio::test]
async fn a_server_that_starts_knows_the_kinds_and_their_objects() {
    let mut first = Harness::start().await;
    let wire = Wire::of(&first).await;
    wire.define(&gadgets()).await;
    let before = wire.ok("POST", GADGETS, &gadget("a", "red")).await;
    first.stop().await;
    let second = Harness::start_with(first.storage.clone()).await;
    let wire = Wire::of(&second).await;
    assert_eq!(wire.get(&format!("{GADGETS}/a?resourceVersion=0")).await, before);
    // what no server can read goes too
    second.storage.create(&format!("{PREFIX}default/garbage"), "garbage".into(), None, &[]).await.unwrap();
    wire.undefine("gadgets.shop.example.com").await;
    assert_eq!(stored(&second.storage).await, 0);
}

/// Clients create objects through two servers while the definition goes, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_created_while_a_kind_goes_leaves_nothing_behind() {
    let first = Harness::start().await;
    let second = Harness::start_with(first.storage.clone()).await;
    let wire = Wire::of(&first).await;
    for round in 0..5 {
        wire.define(&gadgets()).await;
        let other = Wire::of(&second).await;
        eventually("the second server knows the kind", async || !other.is_gone(GADGETS).await).await;
        let created: Arc<[AtomicUsize; 4]> = Arc::default();
        let mut creators = Vec::new();
        for (index, harness) in [&first, &second, &first, &second].into_iter().enumerate() {
            let (wire, created) = (Wire::of(harness).await, Arc::clone(&created));
            creators.push(tokio::spawn(async move {
                for n in 0.. {
                    let (code, status) = wire.call("POST", GADGETS, &gadget(&format!("g-{index}-{n}"), "red")).await;
                    match code {
                        201 => _ = created[index].fetch_add(1, Ordering::Relaxed),
                        404 | 405 => break,
                        _ => panic!("{code} {status}"),
                    }
                }
            }));
        }
        let all_create = async || created.iter().all(|created| created.load(Ordering::Relaxed) > 2);
        eventually("each creates objects", all_create).await;
        wire.undefine("gadgets.shop.example.com").await;
        for creator in creators {
            tokio::time::timeout(PATIENCE, creator).await.expect("the creator stops").unwrap();
        }
        assert_eq!(stored(&first.storage).await, 0, "round {round}");
    }
}

/// One script, against a kind that is built in and against the same kind as a definition.
#[tokio::test]
async fn a_built_in_kind_and_a_defined_one_are_alike() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    let mut crd = serde_json::to_value(Widget::crd()).unwrap();
    crd["metadata"]["name"] = "gimmicks.test.example.com".into();
    crd["spec"]["names"] =
        json!({"kind": "Gimmick", "plural": "gimmicks", "shortNames": ["gk"], "categories": ["toys"]});
    // defaults are the one thing that is not alike: for kinds that are built in, whoever reads the spec applies them
    remove_defaults(&mut crd);
    wire.define(&crd).await;
    let built_in = script(&wire, "Widget", "widgets").await;
    let defined = script(&wire, "Gimmick", "gimmicks").await;
    assert!(built_in.len() > 20);
    for (built_in, defined) in built_in.iter().zip(&defined) {
        assert_eq!(built_in, defined);
    }
}

fn remove_defaults(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.remove("default");
            map.values_mut().for_each(remove_defaults);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_defaults),
        _ => {}
    }
}

/// What a client sees of a kind, with what differs from run to run taken out.
async fn script(wire: &Wire, kind: &str, plural: &str) -> Vec<String> {
    let base = format!("/apis/test.example.com/v1/namespaces/default/{plural}");
    let object = |name: &str, spec: Value| json!({"apiVersion": "test.example.com/v1", "kind": kind, "metadata": {"name": name, "labels": {"n": name}}, "spec": spec});
    let merge = "application/merge-patch+json";
    let mut seen = Vec::new();
    for (method, path, content_type, body) in [
        ("POST", "", "application/json", object("a", json!({"color": "red", "parts": [{"size": 1}]}))),
        ("POST", "", "application/json", object("a", json!({"color": "red"}))),
        ("POST", "", "application/json", object("b", json!({"color": "red", "count": 11, "parts": [{"size": "x"}]}))),
        ("POST", "", "application/json", object("B", json!({}))),
        ("POST", "?fieldValidation=Strict", "application/json", object("c", json!({"color": "red", "colour": 1}))),
        (
            "POST",
            "?fieldValidation=Ignore",
            "application/json",
            object("c", json!({"color": "blue", "colour": 1, "count": null})),
        ),
        ("POST", "?dryRun=All", "application/json", object("d", json!({"color": "red"}))),
        ("POST", "", "application/json", json!({"kind": "Other", "metadata": {"name": "e"}})),
        ("GET", "/a", "", Value::Null),
        ("GET", "/d", "", Value::Null),
        ("GET", "", "", Value::Null),
        ("GET", "?fieldSelector=spec.color%3Dblue", "", Value::Null),
        ("GET", "?fieldSelector=spec.other%3Dblue", "", Value::Null),
        ("GET", "?labelSelector=n%20in%20(a)", "", Value::Null),
        ("PUT", "/a", "application/json", object("a", json!({"color": "red", "count": 2}))),
        ("PATCH", "/a", merge, json!({"spec": {"count": 3}, "status": {"host": "h"}})),
        ("PATCH", "/a", merge, json!({"spec": {"count": 3}})),
        ("PATCH", "/a", merge, json!({"spec": {"count": 100}})),
        ("PATCH", "/a", "application/strategic-merge-patch+json", json!({"spec": {"count": 4}})),
        ("PATCH", "/a", "application/json-patch+json", json!([{"op": "test", "path": "/spec/count", "value": 9}])),
        ("PATCH", "/a/status", merge, json!({"status": {"host": "h1", "bogus": 1}, "spec": {"count": 9}})),
        ("GET", "/a/status", "", Value::Null),
        ("DELETE", "/a/status", "", Value::Null),
        ("GET", "/a/scale", "", Value::Null),
        ("GET", "?watch=true&resourceVersion=0&timeoutSeconds=1", "", Value::Null),
        ("DELETE", "/a", "application/json", json!({"preconditions": {"uid": "other"}})),
        ("DELETE", "/a", "", Value::Null),
        ("DELETE", "?labelSelector=n%3Dc", "", Value::Null),
        ("GET", "", "", Value::Null),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        for accept in ["application/json", "application/json;as=Table;v=v1;g=meta.k8s.io"] {
            if method != "GET" && accept != "application/json" {
                continue;
            }
            let mut request = request(method, &format!("{base}{path}"), content_type, &body);
            request.headers_mut().insert("accept", accept.parse().unwrap());
            let (code, headers, answer) = raw(&wire.0, request).await;
            let warnings: Vec<_> = headers.get_all("warning").iter().collect();
            let answer = neutral(&answer).replace(kind, "KIND").replace(plural, "PLURAL");
            let answer = answer.replace(&kind.to_lowercase(), "SINGULAR");
            seen.push(format!("{method} {path} {body}: {code} {warnings:?} {answer}").replace(kind, "KIND"));
        }
    }
    seen
}

/// An answer, a document or several, without UIDs, versions and times.
fn neutral(answer: &str) -> String {
    fn clean(value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (name, value) in map.iter_mut() {
                    match name.as_str() {
                        "uid" | "resourceVersion" | "creationTimestamp" | "time" if value.is_string() => {
                            *value = "?".into();
                        }
                        // the age
                        "cells" => drop(value.as_array_mut().unwrap().pop()),
                        "message" => {
                            let text = value.as_str().unwrap_or_default();
                            let words: Vec<&str> =
                                text.split(' ').filter(|word| !(word.len() >= 36 && word.contains('-'))).collect();
                            *value = words.join(" ").into();
                        }
                        _ => clean(value),
                    }
                }
            }
            Value::Array(list) => list.iter_mut().for_each(clean),
            _ => {}
        }
    }
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_str(answer).into_iter::<Value>() {
        let mut document = document.unwrap_or_else(|error| panic!("{error}: {answer}"));
        clean(&mut document);
        documents.push(document.to_string());
    }
    documents.join("\n")
}

/// A definition as GitOps tools bring them: an inventory of what was applied, with conditions.
#[tokio::test]
async fn an_inventory_of_good_size() {
    let harness = Harness::start().await;
    let wire = Wire::of(&harness).await;
    let reference = json!({"type": "object", "required": ["group", "kind", "name", "namespace"], "properties": {
        "group": {"type": "string"}, "kind": {"type": "string"}, "name": {"type": "string"}, "namespace": {"type": "string"},
    }});
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": {
        "lastTransitionTime": {"type": "string", "format": "date-time"},
        "message": {"type": "string", "maxLength": 32768}, "reason": {"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]}, "type": {"type": "string", "maxLength": 316},
    }});
    let mut reported = reference.clone();
    reported["properties"]["conditions"] = json!({"type": "array", "items": condition,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]});
    let schema = json!({"type": "object", "description": "What was applied.", "properties": {
        "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"},
        "spec": {"type": "object", "properties": {
            "interval": {"type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$", "default": "5m"},
            "resources": {"type": "array", "items": reference},
            "values": {"x-kubernetes-preserve-unknown-fields": true},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        }},
        "status": {"type": "object", "default": {"observedGeneration": -1}, "properties": {
            "observedGeneration": {"type": "integer", "format": "int64"},
            "conditions": {"type": "array", "items": condition},
            "resourceStatuses": {"type": "array", "items": reported},
        }},
    }});
    let crd = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "inventories.gitops.example.com", "annotations": {"controller-gen.kubebuilder.io/version": "v0.16.0"}},
        "spec": {"group": "gitops.example.com", "scope": "Namespaced",
            "names": {"kind": "Inventory", "plural": "inventories", "singular": "inventory", "listKind": "InventoryList"},
            "versions": [{"name": "v1beta1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [
                    {"name": "Reconciling", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Reconciling\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}],
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    });
    wire.define(&crd).await;
    let base = "/apis/gitops.example.com/v1beta1/namespaces/default/inventories";
    let resources: Vec<Value> = (0..2000)
        .map(|n| json!({"group": "apps", "kind": "Deployment", "name": format!("d-{n}"), "namespace": "default"}))
        .collect();
    let object = json!({"metadata": {"name": "all"}, "spec": {"resources": resources, "port": "http", "values": [1, {"a": null}]}});
    wire.ok("POST", base, &object).await;
    let found = wire.get(&format!("{base}/all")).await;
    assert_eq!(found["spec"]["resources"].as_array().unwrap().len(), 2000);
    assert_eq!((&found["spec"]["interval"], &found["spec"]["values"]), (&json!("5m"), &json!([1, {"a": null}])));
    assert_eq!(
        found["status"],
        json!({"observedGeneration": -1}),
        "a default shows before anybody has written a status"
    );
    let twice = json!({"status": {"resourceStatuses": [{"group": "", "kind": "", "name": "", "namespace": "",
        "conditions": [{"type": "A", "status": "True"}, {"type": "A", "status": "False"}]}]}});
    let (code, status) = wire.call("PATCH", &format!("{base}/all/status"), &twice).await;
    let field = status["details"]["causes"][0]["field"].as_str();
    assert_eq!((code, field), (422, Some("status.resourceStatuses[0].conditions[1]")));
    tokio::time::timeout(Duration::from_secs(20), wire.undefine("inventories.gitops.example.com")).await.unwrap();
}
