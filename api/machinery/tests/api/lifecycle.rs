//! Spec and status apart, generations, finalizers, namespaces, subresources, authorization.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::events::v1::Event;
use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::support::{Harness, Slow, Widget, WidgetStatus, eventually, failure, raw, request, widget};

const WIDGETS: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

#[tokio::test]
async fn spec_and_status_are_written_apart() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let host = |name: &str| WidgetStatus { host: Some(name.to_owned()), ..WidgetStatus::default() };

    let mut with_status = widget("a", "red");
    with_status.status = Some(host("h0"));
    let mut created = widgets.create(&PostParams::default(), &with_status).await.unwrap();
    assert_eq!(created.status, None, "a creation sets no status");

    created.status = Some(host("h1"));
    created.spec.count = Some(9);
    created.labels_mut().insert("new".to_owned(), "label".to_owned());
    let written = widgets.replace_status("a", &PostParams::default(), &created).await.unwrap();
    assert_eq!(written.status, Some(host("h1")));
    assert_eq!(written.spec.count, None, "a status update leaves the spec alone");
    assert!(written.labels().is_empty(), "a status update leaves the metadata alone");
    assert_eq!(written.metadata.generation, Some(1), "a status update is no new generation");

    let mut changed = written;
    changed.status = Some(host("h2"));
    changed.spec.count = Some(5);
    let written = widgets.replace("a", &PostParams::default(), &changed).await.unwrap();
    assert_eq!(written.status, Some(host("h1")), "a spec update leaves the status alone");
    assert_eq!(written.metadata.generation, Some(2));

    let patch = json!({"status": {"host": "h3"}, "spec": {"count": 7}});
    let written = widgets.patch_status("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!((written.status, written.spec.count), (Some(host("h3")), Some(5)));

    let patch = json!({"status": null, "metadata": {"labels": {"x": "y"}}});
    let written = widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(written.status, Some(host("h3")));
    assert_eq!(written.metadata.generation, Some(2), "metadata is no new generation");
}

#[tokio::test]
async fn system_metadata_cannot_be_written() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let patch = json!({"metadata": {
        "creationTimestamp": "2001-01-01T00:00:00Z", "generation": 77, "deletionTimestamp": "2001-01-01T00:00:00Z",
    }});
    let patched = widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(patched.metadata, created.metadata);
}

#[tokio::test]
async fn a_finalizer_holds_an_object() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let mut held = widget("a", "red");
    held.metadata.finalizers = Some(vec!["test.example.com/one".to_owned(), "test.example.com/two".to_owned()]);
    widgets.create(&PostParams::default(), &held).await.unwrap();

    let deleting = widgets.delete("a", &DeleteParams::default()).await.unwrap().left().expect("the object");
    assert!(deleting.metadata.deletion_timestamp.is_some());
    assert_eq!(deleting.metadata.deletion_grace_period_seconds, Some(30));
    assert_eq!(deleting.metadata.generation, Some(2));
    let again = widgets.delete("a", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(again.resource_version(), deleting.resource_version(), "a second deletion changes nothing");
    let sooner = widgets.delete("a", &DeleteParams::default().grace_period(5)).await.unwrap().left().unwrap();
    assert_eq!(sooner.metadata.deletion_grace_period_seconds, Some(5));
    assert!(sooner.metadata.deletion_timestamp < deleting.metadata.deletion_timestamp);

    let more =
        json!({"metadata": {"finalizers": ["test.example.com/one", "test.example.com/two", "test.example.com/late"]}});
    let status = failure(widgets.patch("a", &PatchParams::default(), &Patch::Merge(more)).await);
    assert!(status.message.contains("no new finalizers can be added"), "{}", status.message);

    let one = json!({"metadata": {"finalizers": ["test.example.com/two"]}});
    widgets.patch("a", &PatchParams::default(), &Patch::Merge(one)).await.unwrap();
    assert!(widgets.get_opt("a").await.unwrap().is_some());
    let none = json!({"metadata": {"finalizers": null}});
    widgets.patch("a", &PatchParams::default(), &Patch::Merge(none)).await.unwrap();
    assert!(widgets.get_opt("a").await.unwrap().is_none());

    let successor = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    assert_ne!(successor.uid(), deleting.uid());
}

#[tokio::test]
async fn a_namespace_must_exist_and_stay() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let there: Api<Widget> = Api::namespaced(client.clone(), "other");
    let status = failure(there.create(&PostParams::default(), &widget("a", "red")).await);
    assert_eq!((status.code, status.message.as_str()), (404, r#"namespaces "other" not found"#));

    let other: Namespace = serde_json::from_value(json!({"metadata": {"name": "other"}})).unwrap();
    let created = namespaces.create(&PostParams::default(), &other).await.unwrap();
    assert_eq!(created.spec.unwrap().finalizers, Some(vec!["kubernetes".to_owned()]));
    assert_eq!(created.status.unwrap().phase.as_deref(), Some("Active"));
    there.create(&PostParams::default(), &widget("a", "red")).await.unwrap();

    let terminating = namespaces.delete("other", &DeleteParams::default()).await.unwrap().left().unwrap();
    assert_eq!(terminating.status.as_ref().unwrap().phase.as_deref(), Some("Terminating"));
    eventually("new content is refused", async || {
        match there.create(&PostParams { dry_run: true, ..PostParams::default() }, &widget("b", "red")).await {
            Err(kube::Error::Api(status)) => {
                assert_eq!(status.code, 403, "{status:?}");
                assert_eq!(status.details.as_ref().unwrap().causes[0].reason, "NamespaceTerminating");
                true
            }
            _ => false,
        }
    })
    .await;

    // what a namespace controller does: empty it, then take the finalizer out of the spec
    there.delete("a", &DeleteParams::default()).await.unwrap();
    let mut finalized = terminating;
    finalized.spec.as_mut().unwrap().finalizers = None;
    let body = serde_json::to_string(&finalized).unwrap();
    let plain = "/api/v1/namespaces/other";
    let (code, ..) = raw(&client, request("PUT", plain, "application/json", &body)).await;
    assert_eq!(code, 200);
    assert!(namespaces.get_opt("other").await.unwrap().is_some(), "only the subresource takes the finalizer out");
    let (code, _, answer) = raw(&client, request("PUT", &format!("{plain}/finalize"), "application/json", &body)).await;
    assert_eq!(code, 200, "{answer}");
    assert!(namespaces.get_opt("other").await.unwrap().is_none());
}

#[tokio::test]
async fn nothing_comes_into_a_namespace_after_its_deletion_has_begun() {
    let (slow, harness) = Slow::start().await;
    let namespaces: Api<Namespace> = Api::all(harness.client("admin").await);
    for (name, deleted) in [("labelled", false), ("deleted", true)] {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        let widgets: Api<Widget> = Api::namespaced(harness.client("admin").await, name);
        let created = tokio::spawn({
            let widgets = widgets.clone();
            async move { widgets.create(&PostParams::default(), &widget("a", "red")).await }
        });
        // the server has found the namespace in order, and is about to store
        slow.arrived.acquire().await.unwrap().forget();
        if deleted {
            namespaces.delete(name, &DeleteParams::default()).await.unwrap();
        } else {
            let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
            namespaces.patch(name, &PatchParams::default(), &label).await.unwrap();
        }
        // for this attempt, and for one that may follow
        slow.released.add_permits(2);
        if !deleted {
            slow.arrived.acquire().await.unwrap().forget();
        }
        let created = created.await.unwrap();
        if deleted {
            let status = failure(created);
            assert_eq!(status.code, 403, "{status:?}");
            assert_eq!(status.details.unwrap().causes[0].reason, "NamespaceTerminating");
        } else {
            created.unwrap();
        }
        assert_eq!(widgets.get_opt("a").await.unwrap().is_some(), !deleted);
    }
}

#[tokio::test]
async fn what_kubectl_patches_strategically_is_merged() {
    let harness = Harness::start().await;
    let namespaces: Api<Namespace> = Api::all(harness.client("admin").await);
    let labelled = Patch::Strategic(json!({"metadata": {"labels": {"a": "b"}}}));
    let patched = namespaces.patch("default", &PatchParams::default(), &labelled).await.unwrap();
    assert_eq!(patched.labels().get("a").map(String::as_str), Some("b"));
    assert_eq!(patched.spec.unwrap().finalizers, Some(vec!["kubernetes".to_owned()]));
    let merged = Patch::Strategic(json!({"metadata": {"finalizers": ["a/b"]}}));
    let status = failure(namespaces.patch("default", &PatchParams::default(), &merged).await);
    assert_eq!(status.code, 400);
    assert!(status.message.contains("send a merge patch"), "{}", status.message);
}

#[tokio::test]
async fn a_subresource_swaps_once() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..8 {
        let client = client.clone();
        let body = json!({"host": format!("h{index}")}).to_string();
        tasks.spawn(async move {
            raw(&client, request("POST", &format!("{WIDGETS}/a/bind"), "application/json", &body)).await.0
        });
    }
    let mut codes = tasks.join_all().await;
    codes.sort_unstable();
    assert_eq!(codes, [201, 409, 409, 409, 409, 409, 409, 409], "exactly one binding");
    let bound = widgets.get("a").await.unwrap();
    assert!(bound.status.unwrap().host.is_some());
    assert_eq!(bound.metadata.generation, Some(1));

    for (method, path, code) in [
        ("PUT", format!("{WIDGETS}/a/bind"), 405),
        ("POST", format!("{WIDGETS}/none/bind"), 404),
        ("POST", format!("{WIDGETS}/a/nothing"), 404),
        ("DELETE", format!("{WIDGETS}/a/status"), 405),
    ] {
        let answer = raw(&client, request(method, &path, "application/json", r#"{"host": "x"}"#)).await;
        assert_eq!(answer.0, code, "{method} {path}: {}", answer.2);
    }
}

#[tokio::test]
async fn callers_are_told_apart() {
    let harness = Harness::start().await;
    let viewer: Api<Widget> = Api::default_namespaced(harness.client("viewer").await);
    let status = failure(viewer.create(&PostParams::default(), &widget("a", "red")).await);
    assert_eq!((status.code, status.reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        status.message,
        r#"widgets.test.example.com is forbidden: User "viewer" cannot create resource "widgets" in API group "test.example.com" in the namespace "default": viewers only look"#
    );
    viewer.list(&kube::api::ListParams::default()).await.unwrap();

    let nobody = harness.client("").await;
    let (code, ..) = raw(&nobody, request("GET", "/apis", "application/json", "")).await;
    assert_eq!(code, 401);
    for open in ["/healthz", "/livez", "/readyz?verbose", "/version"] {
        let (code, _, body) = raw(&nobody, request("GET", open, "application/json", "")).await;
        assert_eq!(code, 200, "{open}: {body}");
    }

    let client = harness.client("admin").await;
    for header in ["Impersonate-User", "Impersonate-Group", "Impersonate-Extra-Scopes"] {
        let mut request = request("GET", WIDGETS, "", "");
        request.headers_mut().insert(header, "viewer".parse().unwrap());
        let (code, _, body) = raw(&client, request).await;
        assert_eq!(code, 403, "{header}: {body}");
        assert!(body.contains("lets nobody act as somebody else"), "{body}");
    }

    let admin = harness.widgets().await;
    let mut labelled = widget("a", "red");
    labelled.labels_mut().insert("forbidden".to_owned(), String::new());
    let status = failure(admin.create(&PostParams::default(), &labelled).await);
    assert_eq!(status.message, r#"widgets.test.example.com "a" is forbidden: the label forbidden is forbidden"#);
    let mut precious = widget("b", "red");
    precious.labels_mut().insert("precious".to_owned(), String::new());
    admin.create(&PostParams::default(), &precious).await.unwrap();
    assert_eq!(failure(admin.delete("b", &DeleteParams::default()).await).code, 403);
    let patch = json!({"metadata": {"labels": {"forbidden": "x"}}});
    assert_eq!(failure(admin.patch("b", &PatchParams::default(), &Patch::Merge(patch)).await).code, 403);
}

#[tokio::test]
async fn events_are_one_store_in_two_forms() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let new: Api<Event> = Api::default_namespaced(client.clone());
    let old: Api<k8s_openapi::api::core::v1::Event> = Api::default_namespaced(client);
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.123456Z", "reason": "Started", "note": "it runs",
        "action": "Start", "type": "Normal", "reportingController": "test", "reportingInstance": "test-1",
        "regarding": {"kind": "Widget", "name": "a", "namespace": "default", "uid": "u"},
    }))
    .unwrap();
    let created = new.create(&PostParams::default(), &event).await.unwrap();
    let shown = old.get("e").await.unwrap();
    assert_eq!(shown.message.as_deref(), Some("it runs"));
    assert_eq!(shown.involved_object.name.as_deref(), Some("a"));
    assert_eq!(shown.uid(), created.uid());

    let by_object = |selector: &str| kube::api::ListParams::default().fields(selector);
    let found = old.list(&by_object("involvedObject.name=a,involvedObject.kind=Widget")).await.unwrap();
    assert_eq!(found.items.len(), 1);
    assert_eq!(old.list(&by_object("involvedObject.uid=other")).await.unwrap().items.len(), 0);
    assert_eq!(new.list(&by_object("regarding.name=a")).await.unwrap().items.len(), 1);

    let patch = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}});
    new.patch("e", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(old.get("e").await.unwrap().series.unwrap().count, Some(2));

    let mut foreign = event;
    foreign.metadata.name = Some("f".to_owned());
    foreign.regarding.as_mut().unwrap().namespace = Some("other".to_owned());
    assert_eq!(failure(new.create(&PostParams::default(), &foreign).await).code, 422);
}

#[tokio::test]
async fn an_event_lives_on_when_it_is_updated() {
    let (storage, harness) = Slow::start().await;
    let events: Api<Event> = Api::default_namespaced(harness.client("admin").await);
    let event: Event = serde_json::from_value(json!({
        "metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.123456Z", "reason": "Started",
        "regarding": {"kind": "Widget", "name": "a", "namespace": "default"},
    }))
    .unwrap();
    events.create(&PostParams::default(), &event).await.unwrap();
    let again = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}});
    events.patch("e", &PatchParams::default(), &Patch::Merge(again)).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(harness.client("admin").await);
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    namespaces.patch("default", &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
    let updates = storage.updates.lock().unwrap().clone();
    let expected = [
        ("/registry/core/events/default/e".to_owned(), Some(Duration::from_hours(1))),
        ("/registry/core/namespaces/default".to_owned(), None),
    ];
    assert_eq!(updates, expected);
}

#[tokio::test]
async fn a_lease_is_swapped() {
    let harness = Harness::start().await;
    let leases: Api<Lease> = Api::default_namespaced(harness.client("admin").await);
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": "leader"},
        "spec": {"holderIdentity": "one", "leaseDurationSeconds": 15, "renewTime": "2026-01-01T00:00:00.000000Z"},
    }))
    .unwrap();
    let created = leases.create(&PostParams::default(), &lease).await.unwrap();
    let take = |holder: &str| {
        let mut lease = created.clone();
        lease.spec.as_mut().unwrap().holder_identity = Some(holder.to_owned());
        lease
    };
    let taken = leases.replace("leader", &PostParams::default(), &take("two")).await.unwrap();
    assert_eq!(taken.metadata.generation, None);
    assert_eq!(failure(leases.replace("leader", &PostParams::default(), &take("three")).await).code, 409);
    let mut bad = lease;
    bad.metadata.name = Some("bad".to_owned());
    bad.spec.as_mut().unwrap().lease_duration_seconds = Some(0);
    assert_eq!(failure(leases.create(&PostParams::default(), &bad).await).code, 422);
}
