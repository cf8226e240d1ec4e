//! Which kinds there are, and which of them take part: all that can be watched and deleted, but Events, which own nothing and
//! go by themselves.

use std::{collections::HashMap, sync::Arc};

use kube::{
    Api, Client,
    core::{DynamicObject, PartialObjectMeta},
    discovery::{ApiResource, Discovery, Scope, verbs},
};

use crate::runtime::Failure;

/// An object's metadata, of whatever kind.
pub type Meta = PartialObjectMeta<DynamicObject>;

/// A kind.
#[derive(Clone, Debug)]
pub struct Served {
    /// Where it is served.
    pub resource: Arc<ApiResource>,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
}

/// The kinds that were served when they were last asked for.
#[derive(Clone, Debug, Default)]
pub struct Kinds(HashMap<(String, String), Served>);

/// Asks the server which kinds there are.
pub async fn discover(client: &Client) -> Result<Kinds, Failure> {
    let discovery = Discovery::new(client.clone()).run_aggregated().await;
    let discovery = discovery.map_err(|error| Failure::api("cannot tell which kinds there are", error))?;
    let all = discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources);
    let collected = all.filter(|(resource, capabilities)| {
        let can = |verb| capabilities.supports_operation(verb);
        let event = resource.kind == "Event" && matches!(resource.group.as_str(), "" | "events.k8s.io");
        !event && [verbs::LIST, verbs::WATCH, verbs::DELETE].into_iter().all(can)
    });
    let served = collected.map(|(resource, capabilities)| {
        let namespaced = capabilities.scope == Scope::Namespaced;
        ((resource.group.clone(), resource.kind.clone()), Served { resource: Arc::new(resource), namespaced })
    });
    Ok(Kinds(served.collect()))
}

impl Kinds {
    /// The kind that an owner reference names, in whatever version.
    pub fn named(&self, api_version: &str, kind: &str) -> Option<&Served> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        self.0.get(&(group.to_owned(), kind.to_owned()))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Served> {
        self.0.values()
    }
}

/// The objects of a kind: those of a namespace, or all.
pub fn api(client: &Client, resource: &ApiResource, namespace: Option<&str>) -> Api<Meta> {
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
        None => Api::all_with(client.clone(), resource),
    }
}

/// The name of a kind in messages: `vms.ucloud.ungleich.ch`, or `secrets` in the core group.
pub fn name_of(resource: &ApiResource) -> String {
    match resource.group.as_str() {
        "" => resource.plural.clone(),
        group => format!("{}.{group}", resource.plural),
    }
}
