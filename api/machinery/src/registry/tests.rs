//! The pure part of writes: admission, preparation, deletion.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::admit::{Admitted, FieldValidation, admit};
use super::deletion::{DeleteOptions, Deletion, plan_deletion};
use super::prepare::{self, Ownership, Part, is_unchanged};
use super::{Resource, ResourceDescription};
use crate::apply::Writer;
use crate::auth::UserInfo;
use crate::decode::Decoded;
use crate::status::{ApiError, FieldError, FieldPath};
use crate::strategy::{Context, Lister, Strategy};

struct Empty;

impl Lister for Empty {
    fn get(&self, _: &str, _: &str, _: Option<&str>, _: &str) -> Option<Value> {
        None
    }
    fn list(&self, _: &str, _: &str, _: Option<&str>) -> Vec<Value> {
        Vec::new()
    }
}

/// Marks what it prepared; forbids `spec.a == 13`.
struct Marking;

impl Strategy for Marking {
    fn prepare_for_create(&self, _: &Context<'_>, object: &mut Value) {
        object["status"] = json!({"phase": "New"});
    }
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        if object["spec"]["a"] == 13 {
            vec![FieldError::invalid(FieldPath::new("spec.a"), 13, "unlucky")]
        } else {
            Vec::new()
        }
    }
    fn protected_status(&self) -> &'static [&'static str] {
        &["bound"]
    }
    fn grace_period_seconds(&self, _: &Value, requested: Option<i64>) -> i64 {
        requested.unwrap_or(60)
    }
}

const WRITER: Writer<'_> =
    Writer { manager: "tester", api_version: "g/v1", subresource: "", now: "2026-01-01T00:00:00Z" };

fn resource() -> Resource {
    let crd = json!({
        "metadata": {"name": "toys.g"},
        "spec": {
            "group": "g", "scope": "Namespaced", "names": {"kind": "Toy", "plural": "toys"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}}, "schema": {
                "openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
                    "status": {"type": "object", "nullable": true, "properties": {
                        "phase": {"type": "string"}, "bound": {"type": "string", "nullable": true},
                    }},
                }},
            }}],
        },
    });
    Resource::from_crd(&serde_json::from_value(crd).unwrap()).unwrap().strategy(Marking)
}

fn with_context<T>(resource: &Resource, run: impl FnOnce(&Context<'_>) -> T) -> T {
    let user = UserInfo::new("u", []);
    run(&Context {
        user: &user,
        resource: &resource.description,
        namespace: Some("n"),
        name: "x",
        subresource: None,
        dry_run: false,
        lister: &Empty,
    })
}

fn admitted(description: &ResourceDescription, object: Value) -> Admitted {
    admit(description, Decoded { value: object, duplicates: Vec::new() }, FieldValidation::Strict).unwrap()
}

fn create(object: Value) -> Result<Value, ApiError> {
    let resource = resource();
    let admitted = admitted(&resource.description, object);
    with_context(&resource, |ctx| {
        prepare::create(&resource, ctx, &WRITER, admitted, &Ownership::Noted, "uid-1").map(|prepared| prepared.object)
    })
}

fn update(part: Part, object: Value, old: &Value) -> Result<Value, ApiError> {
    let resource = resource();
    let admitted = admitted(&resource.description, object);
    with_context(&resource, |ctx| {
        prepare::update(&resource, ctx, &WRITER, part, admitted, Ownership::Changes, old)
            .map(|prepared| prepared.object)
    })
}

fn old() -> Value {
    json!({"apiVersion": "g/v1", "kind": "Toy", "spec": {"a": 1}, "status": {"phase": "Old"}, "metadata": {
        "name": "x", "namespace": "n", "uid": "uid-1", "generation": 4, "creationTimestamp": "2026-01-01T00:00:00Z",
        "resourceVersion": "9",
    }})
}

#[test]
fn a_new_object_gets_what_only_the_server_gives() {
    let created = create(json!({
        "metadata": {"name": "x", "namespace": "n", "uid": "forged", "generation": 9, "deletionTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"a": 1}, "status": {"phase": "Forged"},
    }))
    .unwrap();
    assert_eq!(
        created,
        json!({"apiVersion": "g/v1", "kind": "Toy", "spec": {"a": 1}, "status": {"phase": "New"}, "metadata": {
            "name": "x", "namespace": "n", "uid": "uid-1", "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
        }})
    );
}

#[test]
fn the_strategy_is_asked_only_about_what_fits_the_schema() {
    let error = create(json!({"metadata": {"name": "x"}, "spec": {"a": 13, "b": "x"}})).unwrap_err();
    assert_eq!(error.causes().len(), 1);
    assert_eq!(error.causes()[0].field, "spec.b");
    let error = create(json!({"metadata": {"name": "x"}, "spec": {"a": 13}})).unwrap_err();
    assert_eq!(error.causes()[0].message, "Invalid value: 13: unlucky");
}

#[test]
fn an_update_changes_its_part_alone() {
    let sent = json!({"metadata": {"name": "x", "labels": {"l": "v"}}, "spec": {"a": 2}, "status": {"phase": "Sent"}});
    let main = update(Part::Main, sent.clone(), &old()).unwrap();
    assert_eq!((&main["spec"], &main["status"]), (&json!({"a": 2}), &json!({"phase": "Old"})));
    assert_eq!(main["metadata"]["generation"], 5);
    assert_eq!(main["metadata"]["uid"], "uid-1");
    assert_eq!(main["metadata"]["labels"], json!({"l": "v"}));

    let status = update(Part::Status, sent.clone(), &old()).unwrap();
    let mut expected = old();
    expected["status"]["phase"] = json!("Sent");
    assert_eq!(status, expected);

    let whole = update(Part::Whole, sent, &old()).unwrap();
    assert_eq!((&whole["spec"], &whole["status"]), (&json!({"a": 2}), &json!({"phase": "Sent"})));
    assert_eq!(whole["metadata"]["generation"], 5);
}

#[test]
fn no_write_erases_what_subresources_wrote() {
    let mut bound = old();
    bound["status"]["bound"] = json!("h1");
    let statuses =
        [None, Some(Value::Null), Some(json!({})), Some(json!({"bound": null})), Some(json!({"bound": "h2"}))];
    for status in statuses {
        let mut sent = json!({"metadata": {"name": "x"}, "spec": {"a": 1}});
        if let Some(status) = status {
            sent["status"] = status;
        }
        let main = update(Part::Main, sent.clone(), &bound).unwrap();
        assert_eq!(main["status"], bound["status"], "{sent}");
        let status = update(Part::Status, sent.clone(), &bound).unwrap();
        assert_eq!(status["status"], json!({"bound": "h1"}), "{sent}");
        assert_eq!((&status["spec"], &status["metadata"]), (&bound["spec"], &bound["metadata"]));
        let unbound = update(Part::Status, sent.clone(), &old()).unwrap();
        assert_eq!(unbound.pointer("/status/bound"), None, "{sent}");
    }
}

#[test]
fn a_precondition_that_cannot_be_read_is_not_ignored() {
    let sent = json!({"metadata": {"name": "x", "resourceVersion": 9}, "status": {}});
    for part in [Part::Main, Part::Status] {
        let error = update(part, sent.clone(), &old()).unwrap_err();
        assert_eq!(error.causes()[0].field, "metadata.resourceVersion");
    }
}

#[test]
fn a_bad_status_is_refused() {
    let error = update(Part::Status, json!({"metadata": {"name": "x"}, "status": {"phase": 3}}), &old()).unwrap_err();
    assert_eq!(error.causes()[0].field, "status.phase");
}

#[test]
fn the_version_alone_is_no_change() {
    let mut same = old();
    same["metadata"]["resourceVersion"] = json!("10");
    assert!(is_unchanged(&same, &old()));
    for (pointer, value) in
        [("/spec/a", json!(2)), ("/metadata/uid", json!("other")), ("/status", Value::Null), ("/kind", json!("K"))]
    {
        let mut other = old();
        *other.pointer_mut(pointer).unwrap() = value;
        assert!(!is_unchanged(&other, &old()), "{pointer}");
    }
    let mut more = old();
    more["metadata"]["labels"] = json!({"a": "b"});
    assert!(!is_unchanged(&more, &old()) && !is_unchanged(&old(), &more));
}

#[test]
fn a_deletion_waits_for_finalizers_only() {
    let resource = resource();
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let plan = |object: &Value, grace: Option<i64>| {
        let options = DeleteOptions { grace_period_seconds: grace, ..DeleteOptions::default() };
        plan_deletion(&resource, object, &options, now)
    };
    assert_eq!(plan(&old(), None), Deletion::Remove);

    let mut held = old();
    held["metadata"]["finalizers"] = json!(["a/b"]);
    let Deletion::Mark(marked) = plan(&held, None) else { panic!("it is held") };
    assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-01T00:01:00Z");
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 60);
    assert_eq!(marked["metadata"]["generation"], 5);

    assert_eq!(plan(&marked, None), Deletion::Underway);
    assert_eq!(plan(&marked, Some(90)), Deletion::Underway, "a grace period is never made longer");
    let Deletion::Mark(sooner) = plan(&marked, Some(10)) else { panic!("it is shortened") };
    assert_eq!(sooner["metadata"]["deletionTimestamp"], "2026-01-01T00:00:10Z");
    assert_eq!(sooner["metadata"]["generation"], 5);

    let Deletion::Mark(endless) = plan(&held, Some(i64::MAX)) else { panic!("it is held") };
    assert_eq!(endless["metadata"]["deletionTimestamp"], "2026-01-01T00:00:00Z", "no overflow");
}
