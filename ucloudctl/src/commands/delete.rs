//! `ucloudctl delete`: deletes objects, and waits until they are gone, showing who still holds them.

use anyhow::Context as _;
use serde_json::Value;

use super::{
    follow::{Followed, within},
    wait,
};
use crate::{
    cli::Delete,
    failure::{self, Failure},
    manifest, output,
    progress::Progress,
    resource::Resource,
    server::{Form, Query, Server},
};

/// An object that shall go.
struct Doomed {
    resource: Resource,
    namespace: String,
    name: String,
    uid: String,
}

/// Deletes all, then waits for all.
pub async fn run(server: &Server, options: &Delete) -> anyhow::Result<()> {
    let (doomed, missing) = find(server, options).await?;
    for object in &doomed {
        let deleted = server.delete(&object.resource, &object.namespace, &object.name, &object.uid).await;
        match deleted {
            // somebody else was faster
            Err(e) if failure::exit_code(&e) == failure::NOT_FOUND => {}
            other => other.with_context(|| format!("cannot delete {}", object.resource.display(&object.name)))?,
        }
    }
    for object in &doomed {
        let shown = object.resource.display(&object.name);
        if !options.wait {
            output::line(&format!("{shown} deletion requested"))?;
            continue;
        }
        let mut progress = Progress::new(shown.clone());
        let followed =
            Followed { server, resource: &object.resource, namespace: &object.namespace, name: &object.name };
        if within(options.timeout, wait::until_gone(&followed, &object.uid, &mut progress)).await?.is_none() {
            let last = progress.last().to_owned();
            drop(progress);
            return Err(Failure::TimedOut(format!("{shown} is still there: {last}")).into());
        }
        drop(progress);
        output::line(&format!("{shown} deleted"))?;
    }
    match missing {
        Some(message) if !options.ignore_not_found => Err(Failure::NotFound(message).into()),
        _ => Ok(()),
    }
}

/// The objects that are meant, and a word on those that do not exist.
async fn find(server: &Server, options: &Delete) -> anyhow::Result<(Vec<Doomed>, Option<String>)> {
    let catalog = server.catalog().await?;
    let mut named = Vec::new();
    let mut doomed = Vec::new();
    if options.files.is_empty() {
        for target in catalog.targets(&options.what)? {
            if target.names.is_empty() {
                anyhow::ensure!(
                    options.all || options.selector.is_some(),
                    "name what shall be deleted, or say --all or --selector"
                );
                let query = Query { labels: options.selector.clone(), fields: None };
                let list = server.list(&target.resource, Some(&server.namespace), &query, Form::Object).await?;
                doomed.extend(list["items"].as_array().into_iter().flatten().filter_map(|o| mark(&target.resource, o)));
            }
            named
                .extend(target.names.into_iter().map(|name| (target.resource.clone(), server.namespace.clone(), name)));
        }
    } else {
        // what was made last goes first: a VM before its network
        for manifest in manifest::read(&options.files, options.recursive)?.into_iter().rev() {
            let resource = catalog.of_manifest(&manifest.api_version, &manifest.kind)?.clone();
            let namespace = manifest.namespace.unwrap_or_else(|| server.namespace.clone());
            named.push((resource, namespace, manifest.name));
        }
    }
    let mut missing = None;
    for (resource, namespace, name) in named {
        match server.find(&resource, &namespace, &name).await? {
            Some(object) => doomed.extend(mark(&resource, &object)),
            None => missing = Some(format!("{} does not exist in namespace {namespace}", resource.display(&name))),
        }
    }
    Ok((doomed, missing))
}

fn mark(resource: &Resource, object: &Value) -> Option<Doomed> {
    let metadata = &object["metadata"];
    Some(Doomed {
        resource: resource.clone(),
        namespace: metadata["namespace"].as_str().unwrap_or_default().to_owned(),
        name: metadata["name"].as_str()?.to_owned(),
        uid: metadata["uid"].as_str()?.to_owned(),
    })
}
