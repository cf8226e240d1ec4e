//! The objects of the API server that an agent reads, in memory and kept up to date by watches.

use std::{fmt::Debug, hash::Hash, sync::Arc};

use futures::StreamExt as _;
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        reflector::{self, Lookup, ObjectRef, Store, store::WriterDropped},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};
use tracing::warn;
use ucloud_types::{Host, Image, Network, StoragePool, VM};

use crate::triggers::Wake;

/// The objects of one kind that the agent may see.
pub struct Cache<K: Lookup + Clone + 'static>
where
    K::DynamicType: Eq + Hash + Clone,
{
    store: Store<K>,
    changes: watch::Receiver<u64>,
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Starts to watch. `touched` is called for each object that was added, changed or removed, after the cache has
    /// changed. An object that cannot be read is left out, and does not keep the others from being read.
    fn start(
        tasks: &mut JoinSet<()>,
        client: Client,
        config: watcher::Config,
        mut touched: impl FnMut(&K) + Send + 'static,
    ) -> Self {
        let (store, writer) = reflector::store();
        let (changed, changes) = watch::channel(0);
        let stream = watcher::watcher(Api::<DeserializeGuard<K>>::all(client), config).default_backoff();
        let readable = stream.filter_map(|event| std::future::ready(event.map(readable).transpose()));
        let mut events = Box::pin(readable.reflect(writer));
        tasks.spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    Ok(Event::Apply(object) | Event::Delete(object) | Event::InitApply(object)) => touched(&object),
                    Ok(Event::Init | Event::InitDone) => {}
                    Err(error) => {
                        warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "cannot watch");
                        continue;
                    }
                }
                changed.send_modify(|count| *count += 1);
            }
        });
        Self { store, changes }
    }

    /// Waits until all objects are known for the first time.
    pub async fn synced(&self) -> Result<(), WriterDropped> {
        self.store.wait_until_ready().await
    }

    /// All objects. Complete once [`Self::synced`].
    pub fn all(&self) -> Vec<Arc<K>> {
        self.store.state()
    }

    /// One object.
    pub fn get(&self, namespace: Option<&str>, name: &str) -> Option<Arc<K>> {
        let mut reference = ObjectRef::new(name);
        if let Some(namespace) = namespace {
            reference = reference.within(namespace);
        }
        self.store.get(&reference)
    }

    /// Changes whenever an object does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The store itself, for the queue of reconciles.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }
}

/// The event, if its object could be read.
fn readable<K: Resource<DynamicType = ()>>(event: Event<DeserializeGuard<K>>) -> Option<Event<K>> {
    let read = |guard: DeserializeGuard<K>| match guard.0 {
        Ok(object) => Some(object),
        Err(invalid) => {
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            warn!(kind = %K::kind(&()), namespace, name, error = %invalid.error, "cannot read an object: it is left out");
            None
        }
    };
    match event {
        Event::Apply(guard) => read(guard).map(Event::Apply),
        Event::Delete(guard) => read(guard).map(Event::Delete),
        Event::InitApply(guard) => read(guard).map(Event::InitApply),
        Event::Init => Some(Event::Init),
        Event::InitDone => Some(Event::InitDone),
    }
}

/// All that an agent reads.
pub struct Caches {
    /// The VMs that are bound to this host.
    pub vms: Cache<VM>,
    /// All networks.
    pub networks: Cache<Network>,
    /// All images.
    pub images: Cache<Image>,
    /// All storage pools.
    pub pools: Cache<StoragePool>,
    /// This host's own object.
    pub host: Cache<Host>,
}

impl Caches {
    /// Starts to watch all that the agent of this host reads. `wake` is told of each VM about which there may be
    /// something new.
    pub fn start(tasks: &mut JoinSet<()>, client: &Client, host: &str, wake: &Wake) -> Self {
        let all = watcher::Config::default;
        let wake_vm = wake.clone();
        let bound = all().fields(&format!("status.binding.host={host}"));
        let vms = Cache::start(tasks, client.clone(), bound, move |vm: &VM| wake_vm.vm(vm));
        let (wake_users, bound) = (wake.clone(), vms.store());
        let networks = Cache::start(tasks, client.clone(), all(), move |network: &Network| {
            wake_users.users(&bound, |vm| uses_network(vm, network));
        });
        let (wake_users, bound) = (wake.clone(), vms.store());
        let images = Cache::start(tasks, client.clone(), all(), move |image: &Image| {
            wake_users.users(&bound, |vm| !ucloud_agent_core::image::users(image, [vm]).is_empty());
        });
        let (wake_users, bound) = (wake.clone(), vms.store());
        let pools = Cache::start(tasks, client.clone(), all(), move |pool: &StoragePool| {
            wake_users.users(&bound, |vm| uses_pool(vm, pool));
        });
        let own = all().fields(&format!("metadata.name={host}"));
        let host = Cache::start(tasks, client.clone(), own, |_: &Host| {});
        Self { vms, networks, images, pools, host }
    }

    /// Waits until all of them are complete.
    pub async fn synced(&self) -> Result<(), WriterDropped> {
        self.vms.synced().await?;
        self.networks.synced().await?;
        self.images.synced().await?;
        self.pools.synced().await?;
        self.host.synced().await
    }
}

fn uses_network(vm: &VM, network: &Network) -> bool {
    let name = network.metadata.name.as_deref();
    vm.metadata.namespace == network.metadata.namespace && vm.spec.networks.iter().any(|i| Some(&*i.network) == name)
}

/// A VM that is being deleted may have disks in any pool.
fn uses_pool(vm: &VM, pool: &StoragePool) -> bool {
    let name = pool.metadata.name.as_deref();
    let leaving = vm.metadata.deletion_timestamp.is_some();
    leaving || vm.spec.disks.iter().any(|disk| Some(disk.effective_pool()) == name)
}
