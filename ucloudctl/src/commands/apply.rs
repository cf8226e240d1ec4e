//! `ucloudctl apply`: makes or changes objects so that they are as the files say, by server-side apply.

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    cli::Apply,
    failure::{self, Failure},
    manifest::{self, Manifest},
    output,
    resource::{Catalog, Resource},
    server::Server,
    takeover,
};

/// Applies each object in turn. One that fails does not keep the others from being applied.
pub async fn run(server: &Server, options: &Apply) -> anyhow::Result<()> {
    let manifests = manifest::read(&options.files.files, options.files.recursive)?;
    let catalog = server.catalog().await?;
    let mut errors = Vec::new();
    for manifest in &manifests {
        match apply(server, &catalog, manifest, options).await {
            Ok(line) => output::line(&format!("{line}{}", if options.dry_run { " (dry run)" } else { "" }))?,
            Err(error) => {
                let error = error.context(format!("{} {:?} ({})", manifest.kind, manifest.name, manifest.origin));
                failure::print(&error);
                errors.push(failure::exit_code(&error));
            }
        }
    }
    match errors.first() {
        None => Ok(()),
        Some(&code) => Err(Failure::Some { failed: errors.len(), all: manifests.len(), code }.into()),
    }
}

async fn apply(server: &Server, catalog: &Catalog, manifest: &Manifest, options: &Apply) -> anyhow::Result<String> {
    let resource = catalog.of_manifest(&manifest.api_version, &manifest.kind)?;
    let namespace = manifest.namespace.as_deref().unwrap_or(&server.namespace);
    let name = &manifest.name;
    let mut wanted = manifest.object.clone();
    if resource.namespaced {
        wanted["metadata"]["namespace"] = Value::String(namespace.to_owned());
    }
    if let Some(metadata) = wanted.get_mut("metadata").and_then(Value::as_object_mut) {
        // who owns what is the server's to say; files that were made of objects have it
        metadata.remove("managedFields");
    }
    let live = server.find(resource, namespace, name).await?;
    let shown = resource.display(name);
    let takeover = live.as_ref().and_then(|live| takeover::patch(live, &wanted));
    if let Some(patch) = takeover {
        take_over(server, resource, (namespace, name), &wanted, &patch, options).await?;
        return Ok(format!("{shown} configured"));
    }
    let applied = server.apply(resource, (namespace, name), &wanted, options).await?;
    let verdict = match &live {
        None => "created",
        Some(live) if is_as_before(live, &applied, &options.field_manager) => "unchanged",
        Some(_) => "configured",
    };
    Ok(format!("{shown} {verdict}"))
}

/// The last apply by a client's own means, and the first by the server's.
async fn take_over(
    server: &Server,
    resource: &Resource,
    (namespace, name): (&str, &str),
    wanted: &Value,
    patch: &Value,
    options: &Apply,
) -> anyhow::Result<()> {
    server.merge(resource, (namespace, name), patch, options).await.context("cannot change it")?;
    if !options.dry_run {
        let applied = server.apply(resource, (namespace, name), wanted, options).await?;
        if let Some(patch) = takeover::handover(&applied, &options.field_manager) {
            server.merge(resource, (namespace, name), &patch, options).await.context("cannot take it over")?;
        }
    }
    Ok(())
}

/// Whether an application left the object as it was. Others may have written its status meanwhile.
fn is_as_before(live: &Value, applied: &Value, manager: &str) -> bool {
    fn own(object: &Value) -> Value {
        let mut object = object.clone();
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
            metadata.remove("resourceVersion");
        }
        object
    }
    let owned = |object: &Value| {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let mut mine = entries.filter(|entry| {
            entry["manager"] == manager && entry["operation"] == "Apply" && entry["subresource"].is_null()
        });
        mine.next().map(|entry| entry["fieldsV1"].clone())
    };
    own(live) == own(applied) && owned(live) == owned(applied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_is_as_before_whatever_others_do_to_its_status() {
        let object = |version: &str, cpus: u32, fields: Value, phase: &str| {
            json!({
                "metadata": {"name": "a", "resourceVersion": version,
                    "managedFields": [{"manager": "me", "operation": "Apply", "fieldsV1": fields}]},
                "spec": {"cpus": cpus},
                "status": {"phase": phase},
            })
        };
        let live = object("1", 1, json!({"f:spec": {}}), "Pending");
        assert!(is_as_before(&live, &object("2", 1, json!({"f:spec": {}}), "Running"), "me"));
        assert!(!is_as_before(&live, &object("2", 2, json!({"f:spec": {}}), "Pending"), "me"));
        assert!(!is_as_before(&live, &object("2", 1, json!({}), "Pending"), "me"), "what it owns changed");
    }
}
