//! What is refused, with every reason and every path; what is only warned of.

use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::support::{Harness, failure, raw, request, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

#[tokio::test]
async fn every_error_is_told_with_its_path() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let body = json!({
        "apiVersion": "test.example.com/v1", "kind": "Widget",
        "metadata": {"name": "Bad_Name", "labels": {"a b": "c"}, "annotations": {"x": 1}},
        "spec": {"count": 11, "parts": [{"size": "big"}, {}]},
    });
    let (code, _, answer) = raw(&client, request("POST", PATH, "application/json", &body.to_string())).await;
    assert_eq!(code, 422, "{answer}");
    let status: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((status["kind"].as_str(), status["reason"].as_str()), (Some("Status"), Some("Invalid")));
    let causes: Vec<(&str, &str)> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| (cause["field"].as_str().unwrap(), cause["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(
        causes,
        [
            ("metadata.annotations[x]", "FieldValueTypeInvalid"),
            ("metadata.name", "FieldValueInvalid"),
            ("metadata.labels", "FieldValueInvalid"),
            ("spec.color", "FieldValueRequired"),
            ("spec.count", "FieldValueInvalid"),
            ("spec.parts[0].size", "FieldValueTypeInvalid"),
            ("spec.parts[1].size", "FieldValueRequired"),
        ]
    );
    let message = status["message"].as_str().unwrap();
    assert!(message.starts_with(r#"Widget.test.example.com "Bad_Name" is invalid: ["#), "{message}");
    assert!(message.contains("spec.count in body should be less than or equal to 10"), "{message}");
}

#[tokio::test]
async fn a_strategy_has_its_say() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    widgets.create(&PostParams::default(), &widget("a", "red")).await.unwrap();
    let patch = json!({"spec": {"color": "blue"}});
    let status = failure(widgets.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await);
    assert_eq!(status.code, 422);
    assert_eq!(
        status.message,
        r#"Widget.test.example.com "a" is invalid: spec.color: Invalid value: "blue": field is immutable"#
    );

    let client = harness.client("admin").await;
    let body = r#"{"metadata": {"name": "b"}, "spec": {"color": "beige"}}"#;
    let (code, headers, _) = raw(&client, request("POST", PATH, "application/json", body)).await;
    assert_eq!(code, 201);
    assert_eq!(headers["warning"], r#"299 - "spec.color: beige is \"dull\"""#);
}

#[tokio::test]
async fn unknown_and_duplicate_fields() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    let body = |name: &str| {
        format!(
            r#"{{"metadata": {{"name": "{name}", "lables": {{}}}}, "spec": {{"color": "red", "color": "blue", "colour": "x", "parts": [{{"size": 1, "sice": 2}}]}}}}"#
        )
    };
    let post = async |name: &str, validation: &str| {
        let path = format!("{PATH}?fieldValidation={validation}");
        raw(&client, request("POST", &path, "application/json", &body(name))).await
    };
    let (code, _, answer) = post("strict", "Strict").await;
    assert_eq!(code, 400, "{answer}");
    let message = serde_json::from_str::<Value>(&answer).unwrap()["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message,
        r#"Widget in version "v1" cannot be handled as a Widget: strict decoding error: duplicate field "spec.color", unknown field "spec.colour", unknown field "spec.parts[0].sice", unknown field "metadata.lables""#
    );

    let (code, headers, answer) = post("warn", "Warn").await;
    assert_eq!(code, 201, "{answer}");
    let warnings: Vec<&str> = headers.get_all("warning").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!(warnings.len(), 4);
    assert_eq!(warnings[1], r#"299 - "unknown field \"spec.colour\"""#);
    let stored: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(stored["spec"], json!({"color": "blue", "parts": [{"size": 1}]}), "unknown fields are not stored");

    let (code, headers, _) = post("ignore", "Ignore").await;
    assert_eq!(code, 201);
    assert!(!headers.contains_key("warning"));
    assert_eq!(post("bad", "Sometimes").await.0, 400);

    let path = format!("{PATH}/warn?fieldValidation=Strict");
    let patch = r#"{"spec": {"colour": "x"}}"#;
    let (code, _, answer) = raw(&client, request("PATCH", &path, "application/merge-patch+json", patch)).await;
    assert_eq!(code, 400, "{answer}");
}

#[tokio::test]
async fn what_is_of_another_kind_is_refused() {
    let harness = Harness::start().await;
    let client = harness.client("admin").await;
    for (body, expected) in [
        (r#"{"kind": "Gadget", "metadata": {"name": "a"}, "spec": {"color": "x"}}"#, "kind in the data (Gadget)"),
        (r#"{"apiVersion": "v2", "metadata": {"name": "a"}}"#, "API version in the data (v2)"),
        ("[]", "must be a Widget object"),
        ("", "cannot be decoded"),
    ] {
        let (code, _, answer) = raw(&client, request("POST", PATH, "application/json", body)).await;
        assert_eq!(code, 400, "{answer}");
        assert!(answer.contains(expected), "{answer}");
    }
    let object = r#"{"metadata": {"name": "a"}, "spec": {"color": "x"}}"#;
    let (code, ..) = raw(&client, request("POST", PATH, "application/vnd.kubernetes.protobuf", object)).await;
    assert_eq!(code, 415);
    let (code, _, answer) = raw(&client, request("PUT", &format!("{PATH}/b"), "application/json", object)).await;
    assert_eq!(code, 404, "{answer}");
    let (code, ..) =
        raw(&client, request("POST", "/apis/test.example.com/v1/gadgets", "application/json", object)).await;
    assert_eq!(code, 404);
    let (code, ..) = raw(&client, request("POST", &format!("{PATH}/a"), "application/json", object)).await;
    assert_eq!(code, 405);
}
