//! "Servers with support for Table transformation should return a 406 for a backend which does not implement metadata".

use anyhow::ensure;
use serde_json::json;

use super::wire::{JSON, Wire};

super::tests!("tables": what_has_no_metadata_is_no_table);

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

async fn what_has_no_metadata_is_no_table(wire: &Wire) -> anyhow::Result<()> {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "group": "ucloud.ungleich.ch", "resource": "vms"}},
    });
    let headers = [("accept", TABLE), ("content-type", JSON)];
    wire.send("POST", REVIEWS, &headers, &review.to_string()).await?.failed(406, &[])?;
    // what has metadata is one
    let table = wire.get_as("/api/v1/namespaces", TABLE).await?.ok()?;
    ensure!(table["kind"] == "Table" && table["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{table}");
    let headers = [("accept", "application/json;as=Nothing;v=v1;g=meta.k8s.io"), ("content-type", JSON)];
    wire.send("GET", "/api/v1/namespaces", &headers, "").await?.failed(406, &[])
}
