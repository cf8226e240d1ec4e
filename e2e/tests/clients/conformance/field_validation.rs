//! "FieldValidation should ...": of the typed objects, a Lease takes the place of a Deployment.

use super::wire::{JSON, Wire};

super::tests!("field_validation":
    unknown_and_duplicate_fields_of_a_typed_object,
    unknown_metadata_of_a_typed_object,
);

const STRICT: &str = "?fieldManager=field_validation_mgr&fieldValidation=Strict";

async fn post(wire: &Wire, body: &str, said: &[&str]) -> anyhow::Result<()> {
    let path = wire.path("/apis/coordination.k8s.io/v1", "leases") + STRICT;
    wire.send("POST", &path, &[("content-type", JSON)], body).await?.failed(400, said)
}

async fn unknown_and_duplicate_fields_of_a_typed_object(wire: &Wire) -> anyhow::Result<()> {
    let body = r#"{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "my-lease"},
        "spec": {"unknownField": "foo", "leaseTransitions": 2, "leaseTransitions": 3}}"#;
    let said = [
        "strict decoding error: ",
        r#"unknown field "spec.unknownField""#,
        r#"duplicate field "spec.leaseTransitions""#,
    ];
    post(wire, body, &said).await
}

async fn unknown_metadata_of_a_typed_object(wire: &Wire) -> anyhow::Result<()> {
    let body = r#"{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "my-lease", "unknownMeta": "foo", "labels": {"app": "nginx"}}, "spec": {}}"#;
    post(wire, body, &[r#"strict decoding error: unknown field "metadata.unknownMeta""#]).await
}
