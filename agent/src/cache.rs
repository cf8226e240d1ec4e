//! The objects of the API server that an agent reads, in memory and kept up to date by watches.

use std::{collections::HashMap, fmt::Debug, hash::Hash, sync::Arc};

use futures::StreamExt as _;
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt as _,
        reflector::{
            self, Lookup, ObjectRef, Store,
            store::{Writer, WriterDropped},
        },
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::JoinSet};
use tracing::warn;
use ucloud_types::{
    File, Host, Image, Network, Orphan, SecurityGroup, Snapshot, StoragePool, VM, Volume, host::HostNetwork,
};

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
    /// Starts to watch. `touched` is called for each object that came, changed or went, after the cache has changed.
    /// Two versions of an object of which `same` holds are no change. What is told by [`Self::changes`] are changes of
    /// objects that the host is concerned with, before or after. An object that cannot be read is left out, and
    /// does not keep the others from being read. Whenever `anew` changes, the watch begins again with a list.
    fn start(
        tasks: &mut JoinSet<()>,
        (client, mut anew): (Client, watch::Receiver<u64>),
        config: watcher::Config,
        same: fn(&K, &K) -> bool,
        concerns: impl Fn(&K) -> bool + Send + 'static,
        mut touched: impl FnMut(&K) + Send + 'static,
    ) -> Self {
        let (store, mut writer) = reflector::store();
        let (changed, changes) = watch::channel(0);
        let watch =
            move || watcher::watcher(Api::<DeserializeGuard<K>>::all(client.clone()), config.clone()).default_backoff();
        let mut events = Box::pin(watch());
        let cache = Self { store, changes };
        let own = cache.store.clone();
        tasks.spawn(async move {
            loop {
                let event = tokio::select! {
                    event = events.next() => event,
                    // the heartbeat ends with the agent
                    Ok(()) = anew.changed() => {
                        events = Box::pin(watch());
                        continue;
                    }
                };
                let Some(event) = event else { return };
                match event.map(readable) {
                    Ok(Some(event)) => {
                        let news = take_in(&own, &mut writer, &event, same);
                        for News { object, .. } in &news {
                            touched(object);
                        }
                        if news.iter().any(|news| concerns(&news.object) || news.old.as_deref().is_some_and(&concerns))
                        {
                            changed.send_modify(|count| *count += 1);
                        }
                    }
                    Ok(None) => {}
                    Err(error) => {
                        warn!(kind = %K::kind(&()), error = &error as &dyn std::error::Error, "cannot watch");
                    }
                }
            }
        });
        cache
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

    /// Changes whenever an object does that the host is concerned with.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// The store itself, for the queue of reconciles.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }
}

/// An object that came, changed or went.
struct News<K> {
    /// As it was; none if it came.
    old: Option<Arc<K>>,
    /// As it is, or was last.
    object: Arc<K>,
}

/// Takes in an event, and tells what came, changed or went by it. A list takes effect when it is complete, so only then
/// is there anything to tell of it.
fn take_in<K>(store: &Store<K>, writer: &mut Writer<K>, event: &Event<K>, same: fn(&K, &K) -> bool) -> Vec<News<K>>
where
    K: Resource<DynamicType = ()> + Clone,
{
    let news = |old: Option<Arc<K>>, object: Arc<K>| {
        let is_news = !old.as_ref().is_some_and(|old| same(old, &object));
        is_news.then_some(News { old, object })
    };
    let gone = |object: Arc<K>| News { old: Some(Arc::clone(&object)), object };
    match event {
        Event::Apply(object) => {
            let reference = ObjectRef::from_obj(object);
            let old = store.get(&reference);
            writer.apply_watcher_event(event);
            store.get(&reference).and_then(|new| news(old, new)).into_iter().collect()
        }
        Event::Delete(object) => {
            let last = store.get(&ObjectRef::from_obj(object));
            writer.apply_watcher_event(event);
            last.map(gone).into_iter().collect()
        }
        Event::Init | Event::InitApply(_) => {
            writer.apply_watcher_event(event);
            Vec::new()
        }
        Event::InitDone => {
            let mut before: HashMap<_, _> =
                store.state().into_iter().map(|old| (ObjectRef::from_obj(&*old), old)).collect();
            writer.apply_watcher_event(event);
            let now = store.state().into_iter();
            let mut told: Vec<_> =
                now.filter_map(|new| news(before.remove(&ObjectRef::from_obj(&*new)), new)).collect();
            told.extend(before.into_values().map(gone));
            told
        }
    }
}

/// Whether both are one version of one object.
fn same_version<K: Resource>(a: &K, b: &K) -> bool {
    a.meta().uid == b.meta().uid && a.meta().resource_version == b.meta().resource_version
}

/// Whether both are the same to an agent. The status of a pool is the sum of what hosts report: with many of them it
/// changes all the time, and is none of theirs.
fn same_pool(a: &StoragePool, b: &StoragePool) -> bool {
    let (old, new) = (&a.metadata, &b.metadata);
    old.uid == new.uid && old.deletion_timestamp == new.deletion_timestamp && a.spec == b.spec
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
    /// The Files that this host keeps.
    pub files: Cache<File>,
    /// All volumes.
    pub volumes: Cache<Volume>,
    /// The snapshots that this host takes.
    pub snapshots: Cache<Snapshot>,
    /// The Orphans that this host is to see to.
    pub orphans: Cache<Orphan>,
    /// All security groups.
    pub groups: Cache<SecurityGroup>,
    /// All storage pools.
    pub pools: Cache<StoragePool>,
    /// This host's own object.
    pub host: Cache<Host>,
}

impl Caches {
    /// Starts to watch all that the agent of this host reads. `wake` is told of each VM about which there may be
    /// something new. Whenever `anew` changes, everything is listed again. `present` are the networks that have devices
    /// here.
    pub fn start(
        tasks: &mut JoinSet<()>,
        client: &Client,
        host: &str,
        wake: &Wake,
        anew: &watch::Receiver<u64>,
        present: watch::Receiver<Option<Vec<HostNetwork>>>,
    ) -> Self {
        let all = watcher::Config::default;
        let source = || (client.clone(), anew.clone());
        let wake_vm = wake.clone();
        let bound = all().fields(&format!("status.binding.host={host}"));
        let vms = Cache::start(tasks, source(), bound, same_version, always, move |vm: &VM| wake_vm.vm(vm));
        let (wake_users, bound, own) = (wake.clone(), vms.store(), host.to_owned());
        let using = bound.clone();
        let concerns = move |network: &Network| {
            is_routed_or_present(network, &own, present.borrow().as_deref())
                || using.state().iter().any(|vm| uses_network(vm, network))
        };
        let networks = Cache::start(tasks, source(), all(), same_version, concerns, move |network: &Network| {
            wake_users.users(&bound, |vm| uses_network(vm, network));
        });
        let (wake_users, bound) = (wake.clone(), vms.store());
        let volumes = Cache::start(tasks, source(), all(), same_version, always, move |volume: &Volume| {
            wake_users.users(&bound, |vm| uses_volume(vm, volume));
        });
        let (wake_users, bound, to_be_made) = (wake.clone(), vms.store(), volumes.store());
        let images = Cache::start(tasks, source(), all(), same_version, always, move |image: &Image| {
            let volumes = to_be_made.state();
            wake_users.users(&bound, |vm| !ucloud_agent_core::image::users(image, [vm], &volumes).is_empty());
        });
        let (wake_users, bound) = (wake.clone(), vms.store());
        let pools = Cache::start(tasks, source(), all(), same_pool, always, move |pool: &StoragePool| {
            wake_users.users(&bound, |vm| uses_pool(vm, pool));
        });
        let kept = all().fields(&format!("status.host={host}"));
        let files = Cache::start(tasks, source(), kept.clone(), same_version, always, |_: &File| {});
        let orphans = Cache::start(tasks, source(), kept.clone(), same_version, always, |_: &Orphan| {});
        let snapshots = Cache::start(tasks, source(), kept, same_version, always, |_: &Snapshot| {});
        let own = all().fields(&format!("metadata.name={host}"));
        let host = Cache::start(tasks, source(), own, same_version, always, |_: &Host| {});
        let (wake_users, bound) = (wake.clone(), vms.store());
        let groups = Cache::start(tasks, source(), all(), same_version, always, move |group: &SecurityGroup| {
            wake_users.users(&bound, |vm| uses_group(vm, group));
        });
        Self { vms, networks, images, files, volumes, snapshots, orphans, groups, pools, host }
    }

    /// Waits until all of them are complete.
    pub async fn synced(&self) -> Result<(), WriterDropped> {
        self.vms.synced().await?;
        self.networks.synced().await?;
        self.images.synced().await?;
        self.files.synced().await?;
        self.volumes.synced().await?;
        self.snapshots.synced().await?;
        self.orphans.synced().await?;
        self.groups.synced().await?;
        self.pools.synced().await?;
        self.host.synced().await
    }
}

/// The host is concerned with all objects of the kind.
fn always<K>(_: &K) -> bool {
    true
}

/// Whether this host is the network's router, or has devices of it, as long as it is known of which (`present`).
fn is_routed_or_present(network: &Network, host: &str, present: Option<&[HostNetwork]>) -> bool {
    let router = network.status.as_ref().and_then(|status| status.router.as_deref());
    let uid = network.metadata.uid.as_deref();
    router == Some(host)
        || present.is_none_or(|present| present.iter().any(|devices| Some(devices.uid.as_str()) == uid))
}

fn uses_network(vm: &VM, network: &Network) -> bool {
    let name = network.metadata.name.as_deref();
    vm.metadata.namespace == network.metadata.namespace && vm.spec.networks.iter().any(|i| Some(&*i.network) == name)
}

fn uses_group(vm: &VM, group: &SecurityGroup) -> bool {
    let name = group.metadata.name.as_ref();
    let mut named = vm.spec.networks.iter().flat_map(|interface| &interface.security_groups);
    vm.metadata.namespace == group.metadata.namespace && named.any(|group| Some(group) == name)
}

/// Those that name it, and the one that has it.
fn uses_volume(vm: &VM, volume: &Volume) -> bool {
    let attachment = volume.status.as_ref().and_then(|status| status.attachment.as_ref());
    let has = attachment.map(|attachment| &attachment.vm_uid) == vm.metadata.uid.as_ref();
    let named = || vm.spec.disks.iter().any(|disk| disk.volume.is_some() && disk.volume == volume.metadata.name);
    vm.metadata.namespace == volume.metadata.namespace && (has || named())
}

/// A VM that is being deleted may have disks in any pool; the pool of a volume is said elsewhere.
fn uses_pool(vm: &VM, pool: &StoragePool) -> bool {
    let name = pool.metadata.name.as_deref();
    let leaving = vm.metadata.deletion_timestamp.is_some();
    leaving || vm.spec.disks.iter().any(|disk| disk.volume.is_some() || disk.effective_pool() == name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool(name: &str, version: &str, path: &str, hosts: u32) -> StoragePool {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "StoragePool",
            "metadata": {"name": name, "uid": name, "resourceVersion": version},
            "spec": {"directory": {"path": path}}, "status": {"hosts": hosts},
        }))
        .unwrap()
    }

    fn take(
        (store, writer): &mut (Store<StoragePool>, Writer<StoragePool>),
        events: &[Event<StoragePool>],
    ) -> Vec<String> {
        let news = events.iter().flat_map(|event| take_in(store, writer, event, same_pool));
        let mut names: Vec<_> = news.filter_map(|news| news.object.metadata.name.clone()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_matters_is_news() {
        let mut cache = reflector::store();
        assert_eq!(take(&mut cache, &[Event::Apply(pool("a", "1", "/a", 1))]), ["a"]);
        assert_eq!(take(&mut cache, &[Event::Apply(pool("a", "2", "/a", 2))]), [""; 0]);
        assert_eq!(cache.0.state()[0].status.as_ref().unwrap().hosts, 2, "it is taken in all the same");
        assert_eq!(take(&mut cache, &[Event::Apply(pool("a", "3", "/b", 2))]), ["a"]);
        assert_eq!(take(&mut cache, &[Event::Delete(pool("a", "4", "/b", 2))]), ["a"]);
    }

    #[test]
    fn a_list_is_told_when_it_can_be_read() {
        let mut cache = reflector::store();
        let list = |pools: Vec<StoragePool>| {
            let pools = pools.into_iter().map(Event::InitApply);
            [Event::Init].into_iter().chain(pools).collect::<Vec<_>>()
        };
        let first = vec![pool("a", "1", "/a", 1), pool("b", "1", "/b", 1), pool("c", "1", "/c", 1)];
        assert_eq!(take(&mut cache, &list(first)), [""; 0], "who is woken now finds nothing");
        assert_eq!(take(&mut cache, &[Event::InitDone]), ["a", "b", "c"]);
        let second = vec![pool("a", "9", "/a", 1), pool("c", "9", "/new", 1), pool("d", "9", "/d", 1)];
        assert_eq!(take(&mut cache, &list(second)), [""; 0]);
        assert_eq!(take(&mut cache, &[Event::InitDone]), ["b", "c", "d"], "what is gone is news, too");
    }
}
