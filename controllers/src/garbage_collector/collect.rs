//! Looks at one object, on the server, and does what has to be done.
//!
//! Nothing is deleted, and no finalizer taken away, by what the graph says. Owners are read from the server, each by
//! everything that the reference says of it; every deletion is of one UID in one version, so an object that got another
//! owner in the same moment stays (and is looked at again). An object that is being made is thus never collected: its owner
//! is there, whether the graph knows it yet or not.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::ObjectMeta,
    runtime::events::EventType,
};
use serde_json::json;

use super::{
    NAME,
    graph::{FOREGROUND, Graph, Node, ORPHAN, Uid, Waits, blocks, waits},
    kinds::{Kinds, api, discover, name_of},
    plan::{Owner, Step, plan},
};
use crate::runtime::{Failure, Runtime, failure::is_not_found};

/// How often a deletion is tried on a newer version whose owners are the same.
const ATTEMPTS: u32 = 5;
/// How many kinds are listed, or dependents written, at once.
const CONCURRENCY: usize = 8;

/// What has to happen after an object was looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Next {
    /// These must be looked at.
    pub look: BTreeSet<Uid>,
    /// The object itself must be looked at again in a while: the graph is behind what the server says.
    pub again: bool,
}

/// The garbage collector's knowledge, and its way to the server.
pub struct Collector {
    runtime: Runtime,
    /// Who owns whom.
    pub graph: Mutex<Graph>,
    /// Which kinds there are.
    pub kinds: RwLock<Arc<Kinds>>,
}

impl Collector {
    /// One that knows nothing yet.
    pub fn new(runtime: &Runtime) -> Self {
        Self { runtime: runtime.clone(), graph: Mutex::default(), kinds: RwLock::default() }
    }

    /// Does something with the graph.
    pub fn with_graph<T>(&self, act: impl FnOnce(&mut Graph) -> T) -> T {
        act(&mut self.graph.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The kinds as they were last asked for.
    pub fn kinds(&self) -> Arc<Kinds> {
        Arc::clone(&self.kinds.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks again which kinds there are.
    pub async fn refresh_kinds(&self) -> Result<Arc<Kinds>, Failure> {
        let kinds = Arc::new(discover(&self.runtime.client).await?);
        *self.kinds.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&kinds);
        Ok(kinds)
    }

    /// Looks at the object with this UID.
    pub async fn look_at(&self, uid: &str) -> Result<Next, Failure> {
        let Some(node) = self.with_graph(|graph| graph.get(uid).cloned()) else { return Ok(Next::default()) };
        let Some(meta) = self.live(&node).await? else {
            // its watch will tell, and then its dependents are looked at
            return Ok(Next::default());
        };
        match (meta.deletion_timestamp.is_some(), waits(&meta)) {
            (true, Some(Waits::Orphan)) => self.orphan_dependents(&node, &meta).await,
            (true, Some(Waits::Foreground)) => self.wait_for_dependents(&node, &meta).await,
            (true, None) => Ok(Next::default()),
            (false, _) => self.collect(&node, meta).await.map(|()| Next::default()),
        }
    }

    /// The object as it is on the server, if it is still this one.
    async fn live(&self, node: &Node) -> Result<Option<ObjectMeta>, Failure> {
        let api = api(&self.runtime.client, &node.resource, node.namespace.as_deref());
        let found = api.get_metadata_opt(&node.name).await;
        let found = found.map_err(|error| Failure::api(format!("cannot read {}", described(node)), error))?;
        Ok(found.map(|found| found.metadata).filter(|meta| meta.uid.as_deref() == Some(&node.uid)))
    }

    /// Decides about an object that is not being deleted.
    async fn collect(&self, node: &Node, meta: ObjectMeta) -> Result<(), Failure> {
        let references = meta.owner_references.clone().unwrap_or_default();
        let mut owners = Vec::with_capacity(references.len());
        for reference in &references {
            let Some(owner) = self.owner(node, reference).await? else { return Ok(()) };
            owners.push((reference.uid.clone(), owner));
        }
        let (has_dependents, in_circle) =
            self.with_graph(|graph| (graph.dependents(&node.uid).next().is_some(), graph.is_in_circle(&node.uid)));
        match plan(&owners, has_dependents, in_circle, waits(&meta)) {
            Step::Keep => Ok(()),
            Step::Release(gone) => self.release(node, &meta, &gone).await,
            Step::DeleteAfterDependents { unblock } => {
                let meta = if unblock { self.unblock(node, meta).await? } else { meta };
                self.delete(node, meta, PropagationPolicy::Foreground).await
            }
            Step::Delete(None) => self.delete(node, meta, PropagationPolicy::Background).await,
            Step::Delete(Some(Waits::Foreground)) => self.delete(node, meta, PropagationPolicy::Foreground).await,
            Step::Delete(Some(Waits::Orphan)) => self.delete(node, meta, PropagationPolicy::Orphan).await,
        }
    }

    /// What the server says of an owner. None if nothing can be told from the reference, so that nothing may be done.
    async fn owner(&self, node: &Node, reference: &OwnerReference) -> Result<Option<Owner>, Failure> {
        let mut served = self.kinds().named(&reference.api_version, &reference.kind).cloned();
        if served.is_none() {
            // it may have come a moment ago
            served = self.refresh_kinds().await?.named(&reference.api_version, &reference.kind).cloned();
        }
        let served = served.ok_or_else(|| Failure::Terminal {
            reason: "OwnerKindUnknown",
            message: format!(
                "{} is kept: the kind of its owner {} is not served",
                described(node),
                named(reference, None)
            ),
        })?;
        if served.namespaced && node.namespace.is_none() {
            let note = format!(
                "ownerRef {} is in a namespace, which the owner of a cluster-scoped object cannot be",
                named(reference, None)
            );
            self.warn(node, &note);
            return Ok(None);
        }
        let namespace = node.namespace.as_deref().filter(|_| served.namespaced);
        let api = api(&self.runtime.client, &served.resource, namespace);
        let found = api.get_metadata_opt(&reference.name).await.map_err(|error| {
            Failure::api(format!("cannot read the owner {} of {}", named(reference, namespace), described(node)), error)
        })?;
        let found = found.map(|found| found.metadata).filter(|meta| meta.uid.as_deref() == Some(&reference.uid));
        let Some(meta) = found else {
            let elsewhere = self.with_graph(|graph| {
                let other = graph.get(&reference.uid);
                other.is_some_and(|other| other.namespace.is_some() && other.namespace.as_deref() != namespace)
            });
            if let Some(namespace) = namespace.filter(|_| elsewhere) {
                let name = named(reference, Some(namespace));
                self.warn(node, &format!("ownerRef {name} does not exist in namespace {namespace:?}"));
            }
            return Ok(Some(Owner::Absent));
        };
        let waiting = meta.deletion_timestamp.is_some() && waits(&meta) == Some(Waits::Foreground);
        Ok(Some(if waiting { Owner::WaitsForDependents } else { Owner::Solid }))
    }

    /// Deletes the object if it is still this one with these owners.
    async fn delete(&self, node: &Node, mut meta: ObjectMeta, policy: PropagationPolicy) -> Result<(), Failure> {
        let owners = meta.owner_references.clone();
        let api = api(&self.runtime.client, &node.resource, node.namespace.as_deref());
        for _ in 0..ATTEMPTS {
            let same = Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() };
            let params = DeleteParams {
                preconditions: Some(same),
                propagation_policy: Some(policy.clone()),
                ..DeleteParams::default()
            };
            match api.delete(&node.name, &params).await {
                Ok(_) => {
                    tracing::info!(object = described(node), ?policy, "collected: its owners are gone");
                    return Ok(());
                }
                Err(error) if is_not_found(&error) => return Ok(()),
                // another version; that is no matter while the owners are the same
                Err(kube::Error::Api(status)) if status.code == 409 => match self.live(node).await? {
                    Some(newer) if newer.owner_references == owners => meta = newer,
                    _ => break,
                },
                Err(error) => return Err(Failure::api(format!("cannot delete {}", described(node)), error)),
            }
        }
        Err(Failure::Conflict { doing: format!("cannot delete {}", described(node)) })
    }

    /// Takes owners out of the object.
    async fn release(&self, node: &Node, meta: &ObjectMeta, gone: &BTreeSet<Uid>) -> Result<(), Failure> {
        let all = meta.owner_references.iter().flatten();
        let kept: Vec<&OwnerReference> = all.filter(|owner| !gone.contains(&owner.uid)).collect();
        self.patch(node, meta, json!({ "ownerReferences": kept })).await.map(|_| ())
    }

    /// Makes the object keep none of its owners waiting.
    async fn unblock(&self, node: &Node, meta: ObjectMeta) -> Result<ObjectMeta, Failure> {
        let mut owners = meta.owner_references.clone().unwrap_or_default();
        if owners.iter().all(|owner| owner.block_owner_deletion != Some(true)) {
            return Ok(meta);
        }
        for owner in owners.iter_mut().filter(|owner| owner.block_owner_deletion == Some(true)) {
            owner.block_owner_deletion = Some(false);
        }
        let patched = self.patch(node, &meta, json!({ "ownerReferences": owners })).await?;
        Ok(patched.unwrap_or(meta))
    }

    /// The object goes once nothing blocks it any more, by the graph and by the server.
    async fn wait_for_dependents(&self, node: &Node, meta: &ObjectMeta) -> Result<Next, Failure> {
        let (blocked, look) = self.with_graph(|graph| {
            let blockers = graph.blockers(&node.uid);
            let look = blockers.iter().filter(|node| !node.deleting).map(|node| node.uid.clone()).collect();
            (!blockers.is_empty(), look)
        });
        if blocked {
            return Ok(Next { look, again: false });
        }
        let dependents = self.live_dependents(node).await?;
        if dependents.iter().any(|dependent| blocks(&dependent.owners, &node.uid)) {
            return Ok(Next { look: BTreeSet::new(), again: true });
        }
        self.drop_finalizer(node, meta, FOREGROUND).await.map(|()| Next::default())
    }

    /// Takes the object out of all its dependents, and lets it go.
    async fn orphan_dependents(&self, node: &Node, meta: &ObjectMeta) -> Result<Next, Failure> {
        let gone = BTreeSet::from([node.uid.clone()]);
        let dependents = self.live_dependents(node).await?;
        futures::stream::iter(dependents)
            .map(Ok)
            .try_for_each_concurrent(CONCURRENCY, async |dependent| match self.live(&dependent).await? {
                Some(live) => self.release(&dependent, &live, &gone).await,
                None => Ok(()),
            })
            .await?;
        self.drop_finalizer(node, meta, ORPHAN).await.map(|()| Next::default())
    }

    /// All objects that name the object as their owner, from the server: what the graph has not seen yet would be lost.
    async fn live_dependents(&self, node: &Node) -> Result<Vec<Node>, Failure> {
        let kinds = self.refresh_kinds().await?;
        let found = kinds.iter().filter(|kind| kind.namespaced || node.namespace.is_none()).map(async |kind| {
            let api = api(&self.runtime.client, &kind.resource, node.namespace.as_deref());
            let doing = || format!("cannot list {}", name_of(&kind.resource));
            let list = api.list_metadata(&ListParams::default()).await.map_err(|e| Failure::api(doing(), e))?;
            let nodes = list.items.into_iter().filter_map(|meta| Node::new(&kind.resource, meta.metadata));
            let own = nodes.filter(|found| found.owners.iter().any(|owner| owner.uid == node.uid));
            Ok::<_, Failure>(own.collect::<Vec<_>>())
        });
        let found: Vec<_> = found.collect();
        let lists: Vec<Vec<Node>> = futures::stream::iter(found).buffer_unordered(CONCURRENCY).try_collect().await?;
        Ok(lists.into_iter().flatten().collect())
    }

    async fn drop_finalizer(&self, node: &Node, meta: &ObjectMeta, finalizer: &str) -> Result<(), Failure> {
        let kept: Vec<&String> = meta.finalizers.iter().flatten().filter(|held| *held != finalizer).collect();
        self.patch(node, meta, json!({ "finalizers": kept })).await.map(|_| ())
    }

    /// Patches the metadata of the object if it is still this one in this version. None if it is gone.
    async fn patch(
        &self,
        node: &Node,
        meta: &ObjectMeta,
        mut change: serde_json::Value,
    ) -> Result<Option<ObjectMeta>, Failure> {
        change["uid"] = json!(meta.uid);
        change["resourceVersion"] = json!(meta.resource_version);
        let api = api(&self.runtime.client, &node.resource, node.namespace.as_deref());
        let patch = Patch::Merge(json!({ "metadata": change }));
        match api.patch_metadata(&node.name, &PatchParams::default(), &patch).await {
            Ok(patched) => Ok(Some(patched.metadata)),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(Failure::api(format!("cannot change the owners of {}", described(node)), error)),
        }
    }

    fn warn(&self, node: &Node, note: &str) {
        let regarding = ObjectReference {
            api_version: Some(node.resource.api_version.clone()),
            kind: Some(node.resource.kind.clone()),
            namespace: node.namespace.clone(),
            name: Some(node.name.clone()),
            uid: Some(node.uid.clone()),
            ..ObjectReference::default()
        };
        let what = ("GarbageCollect", "OwnerRefInvalidNamespace");
        self.runtime.events.publish_about(NAME, regarding, EventType::Warning, what, note);
    }
}

/// An object in messages.
pub fn described(node: &Node) -> String {
    let kind = name_of(&node.resource);
    node.namespace
        .as_ref()
        .map_or_else(|| format!("{kind} {}", node.name), |namespace| format!("{kind} {namespace}/{}", node.name))
}

/// A reference in messages, as Kubernetes writes it.
fn named(reference: &OwnerReference, namespace: Option<&str>) -> String {
    let OwnerReference { api_version, kind, name, uid, .. } = reference;
    match namespace {
        Some(namespace) => format!("[{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}]"),
        None => format!("[{api_version}/{kind}, name: {name}, uid: {uid}]"),
    }
}
