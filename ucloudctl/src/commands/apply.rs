//! `ucloudctl apply`: makes or changes objects so that they are as the files say.

use anyhow::Context as _;
use serde_json::Value;

use crate::{
    cli::Apply,
    failure::{self, Failure},
    manifest::{self, Manifest},
    merge, output,
    resource::Catalog,
    server::Server,
};

/// Applies each object in turn. One that fails does not keep the others from being applied.
pub async fn run(server: &Server, options: &Apply) -> anyhow::Result<()> {
    let manifests = manifest::read(&options.files.files, options.files.recursive)?;
    let catalog = server.catalog().await?;
    let mut errors = Vec::new();
    for manifest in &manifests {
        match apply(server, &catalog, manifest, options.dry_run).await {
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

async fn apply(server: &Server, catalog: &Catalog, manifest: &Manifest, dry_run: bool) -> anyhow::Result<String> {
    let resource = catalog.of_manifest(&manifest.api_version, &manifest.kind)?;
    let namespace = manifest.namespace.as_deref().unwrap_or(&server.namespace);
    let name = &manifest.name;
    let shown = resource.display(name);
    let mut wanted = manifest.object.clone();
    if resource.namespaced {
        wanted["metadata"]["namespace"] = Value::String(namespace.to_owned());
    }
    let Some(live) = server.find(resource, namespace, name).await? else {
        server.create(resource, namespace, &merge::annotated(&wanted), dry_run).await?;
        return Ok(format!("{shown} created"));
    };
    let mut patch = merge::patch(&live, &wanted);
    if patch.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(format!("{shown} unchanged"));
    }
    // a successor of the same name is not what the difference was computed for
    patch["metadata"]["uid"] = live["metadata"]["uid"].clone();
    let changed = server.merge(resource, namespace, name, &patch, dry_run).await;
    changed.context("cannot change it")?;
    Ok(format!("{shown} configured"))
}
