//! Create, get, list, update, patch, delete; conflicts and preconditions.

use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

use crate::support::{Harness, Widget, WidgetSpec, failure, raw, request, widget};

const POST: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

#[tokio::test]
async fn an_object_lives_its_life() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    assert!(created.uid().is_some() && created.creation_timestamp().is_some());
    assert_eq!(created.metadata.generation, Some(1));
    assert_eq!(created.namespace().as_deref(), Some("default"));

    let mut read = widgets.get("a").await.unwrap();
    assert_eq!(read.metadata, created.metadata);

    read.spec.count = Some(3);
    let updated = widgets.replace("a", &PostParams::default(), &read).await.unwrap();
    assert_eq!(updated.metadata.generation, Some(2));
    assert_eq!(updated.uid(), created.uid());
    assert_ne!(updated.resource_version(), created.resource_version());

    let list = widgets.list(&ListParams::default()).await.unwrap();
    assert_eq!(list.items.len(), 1);
    assert!(list.metadata.resource_version.is_some());

    let gone = widgets.delete("a", &DeleteParams::default()).await.unwrap();
    let status = gone.right().expect("a Status");
    assert_eq!(status.details.unwrap().uid, created.uid().unwrap());
    let status = failure(widgets.get("a").await);
    assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
    assert_eq!(status.message, r#"widgets.test.example.com "a" not found"#);
}

#[tokio::test]
async fn a_name_is_taken_once() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let status = failure(widgets.create(&PostParams::default(), &widget("a", "red")).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "AlreadyExists"));
    assert_eq!(status.message, r#"widgets.test.example.com "a" already exists"#);
}

#[tokio::test]
async fn names_are_generated() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let mut nameless = widget("x", "red");
    nameless.metadata = ObjectMeta { generate_name: Some("web-".to_owned()), ..ObjectMeta::default() };
    let one = widgets.create(&PostParams::default(), &nameless).await.unwrap();
    let two = widgets.create(&PostParams::default(), &nameless).await.unwrap();
    assert!(one.name_any().starts_with("web-") && one.name_any().len() == 9);
    assert_ne!(one.name_any(), two.name_any());
}

#[tokio::test]
async fn a_stale_update_is_a_conflict() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let stale = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let mut first = stale.clone();
    first.spec.count = Some(1);
    widgets.replace("a", &PostParams::default(), &first).await.unwrap();
    let mut second = stale;
    second.spec.count = Some(2);
    let status = failure(widgets.replace("a", &PostParams::default(), &second).await);
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert!(status.message.contains("the object has been modified"), "{}", status.message);

    second.metadata.resource_version = None;
    let status = failure(widgets.replace("a", &PostParams::default(), &second).await);
    assert_eq!(status.code, 422);
    assert!(status.message.contains("metadata.resourceVersion"), "{}", status.message);
}

#[tokio::test]
async fn concurrent_patches_all_count() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..8 {
        let widgets = widgets.clone();
        tasks.spawn(async move {
            let patch = json!({"metadata": {"annotations": {format!("k{index}"): "v"}}});
            widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        });
    }
    tasks.join_all().await;
    assert_eq!(widgets.get("a").await.unwrap().annotations().len(), 8);
}

#[tokio::test]
async fn a_patch_with_a_version_is_a_compare_and_swap() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let version = created.resource_version().unwrap();
    let patch = |count: i32| json!({"metadata": {"resourceVersion": version}, "spec": {"count": count}});
    widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch(1))).await.unwrap();
    let status = failure(widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch(2))).await);
    assert_eq!(status.code, 409);
}

#[tokio::test]
async fn a_write_of_nothing_writes_nothing() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let same = widgets.replace("a", &PostParams::default(), &created).await.unwrap();
    assert_eq!(same.resource_version(), created.resource_version());
    let patch = json!({"spec": {"color": "red"}});
    let same = widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(same.resource_version(), created.resource_version());
}

#[tokio::test]
async fn json_patches_and_unsupported_ones() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let client = harness.client("admin").await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let path = format!("{POST}/a");
    let patch = r#"[{"op": "add", "path": "/spec/count", "value": 4}]"#;
    let (code, _, body) = raw(&client, request("PATCH", &path, "application/json-patch+json", patch)).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(widgets.get("a").await.unwrap().spec.count, Some(4));
    let patch = r#"[{"op": "test", "path": "/spec/count", "value": 5}]"#;
    let (code, ..) = raw(&client, request("PATCH", &path, "application/json-patch+json", patch)).await;
    assert_eq!(code, 422);
    for unsupported in ["application/strategic-merge-patch+json", "application/apply-patch+cbor", "text/plain"] {
        let (code, _, body) = raw(&client, request("PATCH", &path, unsupported, "{}")).await;
        assert_eq!(code, 415, "{body}");
        assert!(body.contains("application/merge-patch+json"), "{body}");
    }
}

#[tokio::test]
async fn a_deletion_can_demand_a_uid_and_a_version() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    for wrong in [
        Preconditions { uid: Some("other".to_owned()), resource_version: None },
        Preconditions { uid: None, resource_version: Some("1".to_owned()) },
    ] {
        let params = DeleteParams { preconditions: Some(wrong), ..DeleteParams::default() };
        let status = failure(widgets.delete("a", &params).await);
        assert_eq!(status.code, 409);
        assert!(status.message.contains("Precondition failed"), "{}", status.message);
    }
    let right = Preconditions { uid: created.uid(), resource_version: created.resource_version() };
    let params = DeleteParams { preconditions: Some(right), ..DeleteParams::default() };
    widgets.delete("a", &params).await.unwrap();
}

#[tokio::test]
async fn options_of_a_deletion_that_cannot_be_read_are_refused() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    harness.widgets().await.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    for options in [
        json!({"preconditions": {"uid": 5}}),
        json!({"preconditions": {"resourceVersion": 5}}),
        json!({"preconditions": "none"}),
        json!({"preconditions": ["uid"]}),
        json!({"dryRun": "All"}),
        json!({"dryRun": [true]}),
        json!({"propagationPolicy": 1}),
        json!({"gracePeriodSeconds": "1"}),
        json!({"kind": 1}),
        json!({"kind": "Widget"}),
    ] {
        for path in [POST.to_owned(), format!("{POST}/a")] {
            let (code, _, body) =
                raw(&client, request("DELETE", &path, "application/json", &options.to_string())).await;
            assert_eq!(code, 400, "{options} {path}: {body}");
        }
    }
    let nothing = json!({"preconditions": {"uid": null}, "dryRun": null}).to_string();
    let (code, ..) = raw(&client, request("DELETE", &format!("{POST}/a"), "application/json", &nothing)).await;
    assert_eq!(code, 200);
}

#[tokio::test]
async fn an_update_for_another_uid_is_refused() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let mut created = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    created.metadata.uid = Some("other".to_owned());
    let status = failure(widgets.replace("a", &PostParams::default(), &created).await);
    assert_eq!(status.code, 409);
}

#[tokio::test]
async fn a_dry_run_stores_nothing() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let created = widgets.create(&dry, &widget("a", "red")).await.unwrap();
    assert!(created.uid().is_some());
    assert!(widgets.get_opt("a").await.unwrap().is_none());

    let mut stored = widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    assert_eq!(failure(widgets.create(&dry, &widget("a", "red")).await).code, 409);
    let version = stored.resource_version();
    stored.spec.count = Some(2);
    let shown = widgets.replace("a", &dry, &stored).await.unwrap();
    assert_eq!(shown.spec.count, Some(2));
    widgets.delete("a", &DeleteParams { dry_run: true, ..DeleteParams::default() }).await.unwrap();
    let unchanged = widgets.get("a").await.unwrap();
    assert_eq!((unchanged.spec.count, unchanged.resource_version()), (None, version));
}

#[tokio::test]
async fn selectors_choose() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    for (name, color, tier) in [("a", "red", "x"), ("b", "blue", "x"), ("c", "blue", "y")] {
        let mut widget = widget(name, color);
        widget.metadata.labels = Some([("tier".to_owned(), tier.to_owned())].into());
        widgets.create(&PostParams::default(), &widget).await.unwrap();
    }
    let names = async |params: ListParams| -> Vec<String> {
        widgets.list(&params).await.unwrap().into_iter().map(|widget: Widget| widget.name_any()).collect()
    };
    assert_eq!(names(ListParams::default().labels("tier in (x)")).await, ["a", "b"]);
    assert_eq!(names(ListParams::default().labels("tier!=x")).await, ["c"]);
    assert_eq!(names(ListParams::default().fields("spec.color=blue")).await, ["b", "c"]);
    assert_eq!(names(ListParams::default().fields("spec.color=blue").labels("tier=y")).await, ["c"]);
    assert_eq!(names(ListParams::default().fields("metadata.name!=a,metadata.namespace=default")).await, ["b", "c"]);
    assert_eq!(names(ListParams::default().fields("status.host=")).await, ["a", "b", "c"]);
    let status = failure(widgets.list(&ListParams::default().fields("spec.count=1")).await);
    assert_eq!(status.code, 400);
    assert!(
        status.message.contains("metadata.name, metadata.namespace, spec.color, status.host"),
        "{}",
        status.message
    );
    assert_eq!(failure(widgets.list(&ListParams::default().labels("a in b")).await).code, 400);

    widgets.delete_collection(&DeleteParams::default(), &ListParams::default().labels("tier=x")).await.unwrap();
    assert_eq!(names(ListParams::default()).await, ["c"]);
}

#[tokio::test]
async fn yaml_bodies_are_read() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let yaml = "apiVersion: test.example.com/v1\nkind: Widget\nmetadata:\n  name: y\nspec:\n  color: red\n  parts:\n  - size: 3\n";
    let (code, _, body) = raw(&client, request("POST", POST, "application/yaml", yaml)).await;
    assert_eq!(code, 201, "{body}");
    assert_eq!(harness.widgets().await.get("y").await.unwrap().spec.parts[0].size, 3);
}

#[tokio::test]
async fn other_namespaces_are_other_objects() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
    let other = serde_json::from_value(json!({"metadata": {"name": "other"}})).unwrap();
    namespaces.create(&PostParams::default(), &other).await.unwrap();
    let here = harness.widgets().await;
    let there: Api<Widget> = Api::namespaced(client.clone(), "other");
    here.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    there.create(&PostParams::default(), &widget("a", "blue")).await.unwrap();
    assert_eq!(there.get("a").await.unwrap().spec, WidgetSpec { color: "blue".to_owned(), ..WidgetSpec::default() });
    assert_eq!(here.list(&ListParams::default()).await.unwrap().items.len(), 1);
    let all: Api<Widget> = Api::all(client.clone());
    assert_eq!(all.list(&ListParams::default()).await.unwrap().items.len(), 2);

    let mismatched = r#"{"metadata": {"name": "b", "namespace": "other"}, "spec": {"color": "red"}}"#;
    let (code, _, body) = raw(&client, request("POST", POST, "application/json", mismatched)).await;
    assert_eq!(code, 400, "{body}");
}
