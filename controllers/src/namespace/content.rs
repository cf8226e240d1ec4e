//! What is in a namespace: every object of every kind that the server serves.

use std::sync::Arc;

use futures::StreamExt as _;
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Preconditions},
    core::{DynamicObject, ObjectMeta, PartialObjectMeta},
    discovery::{ApiResource, Discovery, Scope, verbs},
};

use crate::runtime::{Failure, failure::is_not_found};

type Meta = PartialObjectMeta<DynamicObject>;

/// How many objects are deleted at once.
const CONCURRENCY: usize = 8;

/// Which kinds are deleted first, and which last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but Events.
    Objects,
    /// Events, which the deletion of everything else may bring.
    Events,
}

/// The kinds whose objects live in namespaces and can be deleted.
pub async fn discover(client: &Client) -> Result<Vec<Arc<ApiResource>>, Failure> {
    let discovery = Discovery::new(client.clone())
        .run_aggregated()
        .await
        .map_err(|error| Failure::api("cannot tell which kinds there are", error))?;
    let all = discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources);
    let deletable = all.filter(|(_, capabilities)| {
        capabilities.scope == Scope::Namespaced
            && capabilities.supports_operation(verbs::LIST)
            && capabilities.supports_operation(verbs::DELETE)
    });
    Ok(deletable.map(|(resource, _)| Arc::new(resource)).collect())
}

/// The name of a kind in messages: `vms.ucloud.ungleich.ch`, or `secrets` in the core group.
pub fn name_of(resource: &ApiResource) -> String {
    match resource.group.as_str() {
        "" => resource.plural.clone(),
        group => format!("{}.{group}", resource.plural),
    }
}

fn part_of(resource: &ApiResource) -> Part {
    if resource.plural == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io") {
        Part::Events
    } else {
        Part::Objects
    }
}

/// An object in a namespace, and its kind.
pub struct Item {
    /// Its kind.
    pub resource: Arc<ApiResource>,
    /// Its metadata.
    pub object: ObjectMeta,
}

/// What of one part is in the namespace, as the server has it, and which kinds could not be listed.
pub async fn list(
    client: &Client,
    namespace: &str,
    resources: &[Arc<ApiResource>],
    part: Part,
) -> (Vec<Item>, Vec<Failure>) {
    let (mut items, mut failures) = (Vec::new(), Vec::new());
    for resource in resources.iter().filter(|resource| part_of(resource) == part) {
        let api: Api<Meta> = Api::namespaced_with(client.clone(), namespace, resource.as_ref());
        match api.list_metadata(&ListParams::default()).await {
            Ok(list) => {
                let objects = list.items.into_iter();
                items.extend(objects.map(|object| Item { resource: Arc::clone(resource), object: object.metadata }));
            }
            // the kind went with its definition, and its objects with it
            Err(error) if is_not_found(&error) => {}
            Err(error) => {
                failures.push(Failure::api(format!("cannot list {} in {namespace}", name_of(resource)), error));
            }
        }
    }
    (items, failures)
}

/// Deletes the objects, each only if it is still the same one, and tells what could not be deleted. Those that are being
/// deleted are left alone.
pub async fn delete(client: &Client, namespace: &str, items: &[Item]) -> Vec<Failure> {
    let present = items.iter().filter(|item| item.object.deletion_timestamp.is_none());
    let deletions = present.map(async |Item { resource, object }| {
        let api: Api<Meta> = Api::namespaced_with(client.clone(), namespace, resource.as_ref());
        let same = Preconditions { uid: object.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(same), ..DeleteParams::background() };
        let name = object.name.as_deref().unwrap_or_default();
        match api.delete(name, &params).await {
            Ok(_) => None,
            Err(error) if is_not_found(&error) => None,
            Err(error) => Some(Failure::api(format!("cannot delete {} {namespace}/{name}", name_of(resource)), error)),
        }
    });
    let deletions: Vec<_> = deletions.collect();
    futures::stream::iter(deletions).buffer_unordered(CONCURRENCY).filter_map(async |failure| failure).collect().await
}
