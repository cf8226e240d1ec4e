//! What is in a namespace: every object of every kind that the server serves.

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, Preconditions},
    discovery::{ApiResource, Discovery, Scope, verbs},
};

use crate::runtime::{Failure, failure::is_not_found};

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
        .run()
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
    /// The object.
    pub object: DynamicObject,
}

/// What of one part is in the namespace, as the server has it.
pub async fn list(
    client: &Client,
    namespace: &str,
    resources: &[Arc<ApiResource>],
    part: Part,
) -> Result<Vec<Item>, Failure> {
    let mut items = Vec::new();
    for resource in resources.iter().filter(|resource| part_of(resource) == part) {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource.as_ref());
        let list = api.list(&ListParams::default()).await;
        let list =
            list.map_err(|error| Failure::api(format!("cannot list {} in {namespace}", name_of(resource)), error))?;
        items.extend(list.items.into_iter().map(|object| Item { resource: Arc::clone(resource), object }));
    }
    Ok(items)
}

/// Deletes the objects, each only if it is still the same one. Those that are being deleted are left alone.
pub async fn delete(client: &Client, namespace: &str, items: &[Item]) -> Result<(), Failure> {
    futures::stream::iter(items.iter().filter(|item| item.object.metadata.deletion_timestamp.is_none()))
        .map(Ok)
        .try_for_each_concurrent(CONCURRENCY, async |Item { resource, object }| {
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource.as_ref());
            let uid = object.metadata.uid.clone();
            let same = Preconditions { uid, resource_version: None };
            let params = DeleteParams { preconditions: Some(same), ..DeleteParams::default() };
            match api.delete(&object.name_any(), &params).await {
                Ok(_) => Ok(()),
                Err(error) if is_not_found(&error) => Ok(()),
                Err(error) => {
                    let doing = format!("cannot delete {} {namespace}/{}", name_of(resource), object.name_any());
                    Err(Failure::api(doing, error))
                }
            }
        })
        .await
}
