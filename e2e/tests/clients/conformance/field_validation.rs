//! "FieldValidation should ...": of the typed objects, a Lease takes the place of a Deployment.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{
    custom::Custom,
    wire::{JSON, Wire},
};

super::tests!("field_validation":
    unknown_and_duplicate_fields_of_a_typed_object,
    unknown_metadata_of_a_typed_object,
    a_valid_object_of_a_kind_with_a_schema,
    unknown_fields_of_a_kind_without_a_schema,
    unknown_fields_of_a_kind_with_a_schema,
    unknown_metadata_of_a_kind_made_at_run_time,
    duplicates_where_unknown_fields_are_preserved,
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

/// A schema as Kubernetes' tests have it.
fn schema(preserve: bool) -> Value {
    let mut spec = json!({
        "type": "object",
        "properties": {
            "foo": {"type": "string"},
            "cronSpec": {"type": "string", "pattern": r"^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$"},
            "ports": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["containerPort", "protocol"],
                "items": {
                    "type": "object",
                    "required": ["containerPort", "protocol"],
                    "properties": {
                        "containerPort": {"type": "integer", "format": "int32"},
                        "hostIP": {"type": "string"},
                        "hostPort": {"type": "integer", "format": "int32"},
                        "name": {"type": "string"},
                        "protocol": {"type": "string"},
                    },
                },
            },
        },
    });
    if preserve {
        spec["x-kubernetes-preserve-unknown-fields"] = json!(true);
        spec["properties"]["template"] = json!({
            "type": "object",
            "x-kubernetes-embedded-resource": true,
            "properties": {
                "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
                "spec": {"type": "object"},
            },
        });
    }
    json!({"type": "object", "properties": {"spec": spec}})
}

const SPEC: &str = "  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP\n";

async fn a_valid_object_of_a_kind_with_a_schema(wire: &Wire) -> anyhow::Result<()> {
    let custom = Custom::create(wire, &schema(false)).await?;
    let object = format!("metadata:\n  name: mytest\nspec:\n  foo: foo1\n{SPEC}");
    custom.apply_object(wire, &object).await?.ok()?;
    custom.delete(wire).await
}

async fn unknown_fields_of_a_kind_without_a_schema(wire: &Wire) -> anyhow::Result<()> {
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let custom = Custom::create(wire, &open).await?;
    let applied =
        custom.apply_object(wire, &format!("metadata:\n  name: mytest\nspec:\n  unknown: uk1\n{SPEC}")).await?.ok()?;
    ensure!(applied["spec"]["unknown"] == "uk1", "{applied}");
    custom.delete(wire).await
}

async fn unknown_fields_of_a_kind_with_a_schema(wire: &Wire) -> anyhow::Result<()> {
    let custom = Custom::create(wire, &schema(false)).await?;
    let object = format!("metadata:\n  name: mytest\nunknownField: unknown\nspec:\n  foo: foo1\n{SPEC}");
    custom.apply_object(wire, &object).await?.failed(400, &[".unknownField: field not declared in schema"])?;
    custom.delete(wire).await
}

async fn unknown_metadata_of_a_kind_made_at_run_time(wire: &Wire) -> anyhow::Result<()> {
    let custom = Custom::create(wire, &schema(true)).await?;
    let template = "  template:\n    apiVersion: foo/v1\n    kind: Sub\n    metadata:\n      unknownSubMeta: unknown\n      name: subobject\n";
    let object = format!("metadata:\n  name: mytest\n  unknownMeta: unknown\nspec:\n  foo: foo1\n{template}{SPEC}");
    let said = [
        ".metadata.unknownMeta: field not declared in schema",
        ".spec.template.metadata.unknownSubMeta: field not declared in schema",
    ];
    custom.apply_object(wire, &object).await?.failed(400, &said)?;
    custom.delete(wire).await
}

async fn duplicates_where_unknown_fields_are_preserved(wire: &Wire) -> anyhow::Result<()> {
    let custom = Custom::create(wire, &schema(true)).await?;
    let object = format!("metadata:\n  name: mytest\nspec:\n  unknown: uk1\n  unknown: uk2\n  foo: foo1\n{SPEC}");
    custom.apply_object(wire, &object).await?.failed(400, &[r#"duplicate field "spec.unknown""#])?;
    custom.delete(wire).await
}
