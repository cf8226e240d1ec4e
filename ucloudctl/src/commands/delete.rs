//! `ucloudctl delete`: deletes objects, and waits until they are gone, showing who still holds them.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::wait;
use crate::{
    cli::Delete,
    failure::{self, Failure},
    manifest, output,
    progress::Progress,
    resource::Resource,
    server::{Form, Query, Server},
    watch::{Followed, within},
};

/// An object that shall go.
struct Doomed {
    resource: Resource,
    namespace: String,
    name: String,
    uid: String,
}

/// Deletes all, then waits for all. One that fails does not keep the others from being deleted.
pub async fn run(server: &Server, options: &Delete) -> anyhow::Result<()> {
    let began = Instant::now();
    let (doomed, missing) = find(server, options).await?;
    let mut errors = Vec::new();
    if !options.ignore_not_found {
        errors.extend(missing.into_iter().map(|message| anyhow::Error::from(Failure::NotFound(message))));
    }
    let all = doomed.len() + errors.len();
    let mut deleted = Vec::new();
    for object in &doomed {
        match server.delete(&object.resource, &object.namespace, &object.name, &object.uid).await {
            // somebody else was faster
            Err(e) if failure::exit_code(&e) != failure::NOT_FOUND => {
                errors.push(e.context(format!("cannot delete {}", object.resource.display(&object.name))));
            }
            _ => deleted.push(object),
        }
    }
    for object in deleted {
        let left = options.timeout.map(|timeout| timeout.saturating_sub(began.elapsed()));
        let result = if options.wait { object.wait(server, left).await } else { object.requested() };
        errors.extend(result.err());
    }
    match errors.len() {
        0 => Ok(()),
        1 if all == 1 => Err(errors.remove(0)),
        failed => {
            errors.iter().for_each(failure::print);
            Err(Failure::Some { failed, all, code: failure::exit_code(&errors[0]) }.into())
        }
    }
}

impl Doomed {
    fn requested(&self) -> anyhow::Result<()> {
        output::line(&format!("{} deletion requested", self.resource.display(&self.name)))
    }

    async fn wait(&self, server: &Server, limit: Option<Duration>) -> anyhow::Result<()> {
        let shown = self.resource.display(&self.name);
        let mut progress = Progress::new(shown.clone());
        let followed = Followed::object(server, &self.resource, &self.namespace, &self.name);
        if within(limit, wait::until_gone(&followed, &self.uid, &mut progress)).await?.is_none() {
            return Err(Failure::TimedOut(format!("{shown} is still there: {}", progress.last())).into());
        }
        drop(progress);
        output::line(&format!("{shown} deleted"))
    }
}

/// The objects that are meant, and a word on each that does not exist.
async fn find(server: &Server, options: &Delete) -> anyhow::Result<(Vec<Doomed>, Vec<String>)> {
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
    let mut missing = Vec::new();
    for (resource, namespace, name) in named {
        match server.find(&resource, &namespace, &name).await? {
            Some(object) => doomed.extend(mark(&resource, &object)),
            None if resource.namespaced => {
                missing.push(format!("{} does not exist in namespace {namespace}", resource.display(&name)));
            }
            None => missing.push(format!("{} does not exist", resource.display(&name))),
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
