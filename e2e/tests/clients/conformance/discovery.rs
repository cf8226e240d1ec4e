//! "Discovery should ..." and "AggregatedDiscovery should ...".

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::{
    custom::Custom,
    wire::{JSON, Wire},
};

super::tests!("discovery":
    each_group_has_its_version_and_a_resource,
    each_group_has_a_preferred_version,
    the_aggregated_document_has_all_that_the_plain_ones_have,
    accept_headers_choose_the_document,
    a_kind_made_at_run_time_is_in_the_aggregated_document,
    a_kind_made_at_run_time_is_in_the_raw_document_of_each_form,
);

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const AGGREGATED_BETA: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

async fn groups(wire: &Wire) -> anyhow::Result<Vec<Value>> {
    let list = wire.get("/apis").await?.ok()?;
    ensure!(list["kind"] == "APIGroupList", "{list}");
    list["groups"].as_array().filter(|groups| !groups.is_empty()).cloned().context("there are no groups")
}

async fn each_group_has_its_version_and_a_resource(wire: &Wire) -> anyhow::Result<()> {
    for group in groups(wire).await? {
        for version in group["versions"].as_array().context("a group without versions")? {
            let name = version["groupVersion"].as_str().context("a version without a name")?;
            let resources = wire.get(&format!("/apis/{name}")).await?.ok()?;
            ensure!(resources["kind"] == "APIResourceList" && resources["groupVersion"] == name, "{resources}");
            let list = resources["resources"].as_array().context("no resources")?;
            let good = |r: &&Value| r["name"].is_string() && r["kind"].is_string() && r["verbs"].is_array();
            ensure!(!list.is_empty() && list.iter().all(|resource| good(&resource)), "{resources}");
        }
    }
    let core = wire.get("/api/v1").await?.ok()?;
    ensure!(core["groupVersion"] == "v1", "{core}");
    Ok(())
}

async fn each_group_has_a_preferred_version(wire: &Wire) -> anyhow::Result<()> {
    for listed in groups(wire).await? {
        let name = listed["name"].as_str().context("a group without a name")?;
        let group = wire.get(&format!("/apis/{name}")).await?.ok()?;
        ensure!(group["kind"] == "APIGroup" && group["name"] == name, "{group}");
        let preferred = &group["preferredVersion"];
        let versions = group["versions"].as_array().context("a group without versions")?;
        ensure!(versions.contains(preferred) && listed["preferredVersion"] == *preferred, "{group}");
    }
    Ok(())
}

/// Group, version and resources of an aggregated document.
fn aggregated(document: &Value) -> Vec<(String, Vec<String>)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for group in list(&document["items"]) {
        let name = text(&group["metadata"]["name"]);
        for version in list(&group["versions"]) {
            let resources = list(&version["resources"]).iter().map(|resource| text(&resource["resource"])).collect();
            let separator = if name.is_empty() { "" } else { "/" };
            found.push((format!("{name}{separator}{}", text(&version["version"])), resources));
        }
    }
    found
}

async fn the_aggregated_document_has_all_that_the_plain_ones_have(wire: &Wire) -> anyhow::Result<()> {
    for root in ["/api", "/apis"] {
        for form in [AGGREGATED, AGGREGATED_BETA] {
            let document = wire.get_as(root, form).await?.ok()?;
            ensure!(document["kind"] == "APIGroupDiscoveryList", "{document}");
            let found = aggregated(&document);
            ensure!(!found.is_empty(), "{document}");
            for (version, resources) in found {
                let plain = wire.get(&format!("{root}/{version}")).await?.ok()?;
                let names = plain["resources"].as_array().context("no resources")?.iter();
                let names: Vec<&str> =
                    names.filter_map(|resource| resource["name"].as_str()).filter(|name| !name.contains('/')).collect();
                ensure!(names == resources, "{version}: plain {names:?}, aggregated {resources:?}");
            }
        }
    }
    Ok(())
}

async fn accept_headers_choose_the_document(wire: &Wire) -> anyhow::Result<()> {
    let both = format!("{AGGREGATED},{AGGREGATED_BETA},{JSON}");
    let older = format!("{AGGREGATED_BETA},{JSON}");
    // a client that knows nothing of it, and one that asks for a version that will come some day
    let future = format!("application/json;g=apidiscovery.k8s.io;v=v99;as=APIGroupDiscoveryList,{JSON}");
    for (accept, content_type, kind) in [
        (both.as_str(), AGGREGATED, "APIGroupDiscoveryList"),
        (older.as_str(), AGGREGATED_BETA, "APIGroupDiscoveryList"),
        (JSON, JSON, "APIGroupList"),
        ("*/*", JSON, "APIGroupList"),
        (future.as_str(), JSON, "APIGroupList"),
    ] {
        let answer = wire.get_as("/apis", accept).await?;
        let given = answer.headers.get("content-type").context("no content type")?.to_str()?.to_owned();
        let document = answer.ok()?;
        ensure!(given == content_type && document["kind"] == kind, "{accept} is answered with {given}: {document}");
    }
    Ok(())
}

async fn a_kind_made_at_run_time_is_in_the_aggregated_document(wire: &Wire) -> anyhow::Result<()> {
    let custom = Custom::create(wire, &json!({"type": "object"})).await?;
    let document = wire.get_as("/apis", AGGREGATED).await?.ok()?;
    let version = format!("{}/v1", custom.group);
    let found = aggregated(&document).into_iter().find(|(name, _)| *name == version);
    ensure!(found.is_some_and(|(_, resources)| resources == ["noxus"]), "{version} is not in {document}");
    custom.delete(wire).await
}

async fn a_kind_made_at_run_time_is_in_the_raw_document_of_each_form(wire: &Wire) -> anyhow::Result<()> {
    let custom = Custom::create(wire, &json!({"type": "object"})).await?;
    for accept in [AGGREGATED.to_owned(), AGGREGATED_BETA.to_owned(), format!("{AGGREGATED},{JSON}"), JSON.to_owned()] {
        let document = wire.get_as("/apis", &accept).await?.ok()?.to_string();
        ensure!(document.contains(&custom.group), "with {accept} there is no {} in {document}", custom.group);
    }
    custom.delete(wire).await
}
