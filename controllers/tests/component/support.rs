//! A cloud in a test: an API server, controllers, and objects in few words.

use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::wait::await_condition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use ucloud_api::in_process::InProcess;
use ucloud_controllers::{Options, RunError, run};
use ucloud_machinery::storage::Storage as _;
use ucloud_types::{
    Host, Image, Network, NetworkAllocation, NetworkPool, StoragePool, VM,
    condition::{self, Condition},
    vm::VMPhase,
};

/// How long a condition may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// An API server and its administrator.
pub struct Cloud {
    pub api: InProcess,
    pub admin: Client,
    /// How far the controllers' clock is ahead, in milliseconds.
    ahead: Arc<AtomicI64>,
}

/// Running controllers. They end when this is dropped.
pub struct Controllers {
    pub options: Options,
    task: JoinHandle<Result<(), RunError>>,
}

impl Controllers {
    pub fn start(client: Client, options: Options) -> Self {
        let task = tokio::spawn(run(client, options.clone()));
        Self { options, task }
    }

    /// Ends them as SIGTERM does.
    pub async fn stop(mut self) {
        self.options.stop.cancel();
        self.ended().await.expect("they end well when told to");
    }

    /// Waits until they have ended.
    pub async fn ended(&mut self) -> Result<(), RunError> {
        tokio::time::timeout(PATIENCE, &mut self.task).await.expect("the controllers end").expect("no panic")
    }
}

impl Drop for Controllers {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All controllers, without an election.
pub fn alone() -> Options {
    Options { election: None, ..Options::new("test") }
}

impl Cloud {
    pub async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = InProcess::start().await.unwrap();
        let admin = api.admin().await.unwrap();
        Self { api, admin, ahead: Arc::default() }
    }

    /// The controllers' own client.
    pub async fn client(&self) -> Client {
        self.api.controllers().await.unwrap()
    }

    /// Starts all controllers.
    pub async fn controllers(&self) -> Controllers {
        Controllers::start(self.client().await, self.options())
    }

    /// All controllers, without an election, by a clock that can be set.
    pub fn options(&self) -> Options {
        let ahead = Arc::clone(&self.ahead);
        let clock = Arc::new(move || Timestamp::now() + SignedDuration::from_millis(ahead.load(Ordering::SeqCst)));
        Options { clock, ..alone() }
    }

    /// Sets the controllers' clock. They notice when they look at it next.
    pub fn set_clock(&self, time: Timestamp) {
        let ahead = time.as_millisecond() - Timestamp::now().as_millisecond();
        self.ahead.store(ahead, Ordering::SeqCst);
    }

    pub fn hosts(&self) -> Api<Host> {
        Api::all(self.admin.clone())
    }

    pub fn vms(&self) -> Api<VM> {
        Api::namespaced(self.admin.clone(), "default")
    }

    pub fn networks(&self) -> Api<Network> {
        Api::namespaced(self.admin.clone(), "default")
    }

    pub fn images(&self) -> Api<Image> {
        Api::namespaced(self.admin.clone(), "default")
    }

    pub fn network_pools(&self) -> Api<NetworkPool> {
        Api::all(self.admin.clone())
    }

    pub fn storage_pools(&self) -> Api<StoragePool> {
        Api::all(self.admin.clone())
    }

    pub fn allocations(&self) -> Api<NetworkAllocation> {
        Api::all(self.admin.clone())
    }

    /// A Ready host that computes and routes, with the pool default.
    pub async fn host(&self, name: &str, cpus: u32, memory: &str) -> Host {
        create(&self.hosts(), name, json!({"roles": ["compute", "router"]})).await;
        let status = json!({
            "capacity": {"cpus": cpus, "memory": memory},
            "allocatable": {"cpus": cpus, "memory": memory},
            "pools": [{"name": "default", "capacity": "1Ti", "available": "1Ti"}],
            "conditions": [ready(true)],
        });
        set_status(&self.hosts(), name, status).await
    }

    /// A VM with one disk, and an interface in each of `networks`.
    pub async fn vm(&self, name: &str, memory: &str, networks: &[&str]) -> VM {
        create(&self.vms(), name, vm_spec(memory, networks)).await
    }

    pub async fn network(&self, name: &str) -> Network {
        create(&self.networks(), name, json!({})).await
    }

    /// A pool for `size` networks from VNI 100 on.
    pub async fn network_pool(&self, name: &str, size: u32) -> NetworkPool {
        let spec = json!({"prefix": "fd00:1234::/48", "vniRange": {"first": 100, "last": 99 + size}});
        create(&self.network_pools(), name, spec).await
    }

    pub async fn storage_pool(&self, name: &str) -> StoragePool {
        create(&self.storage_pools(), name, json!({"directory": {"path": format!("/var/lib/{name}")}})).await
    }

    /// Changes what is stored behind the API server's back: for objects that it would refuse today, but may have let in
    /// (two servers at once, an older version).
    pub async fn smuggle(&self, path: &str, edit: impl FnOnce(&mut Value)) {
        let storage = self.api.storage();
        let stored =
            storage.list("").await.unwrap().values.into_iter().find(|value| value.key.ends_with(path)).unwrap();
        let mut object: Value = serde_json::from_slice(&stored.value).unwrap();
        edit(&mut object);
        storage
            .update(&stored.key, object.to_string().into_bytes().into(), stored.mod_revision, None, &[])
            .await
            .unwrap();
    }

    /// All allocations, by VNI, with the name of their network.
    pub async fn allocated(&self) -> Vec<(u32, String)> {
        let list = self.allocations().list(&ListParams::default()).await.unwrap();
        let mut allocated: Vec<_> =
            list.into_iter().filter_map(|a| Some((a.spec.vni?.get(), a.spec.network))).collect();
        allocated.sort();
        allocated
    }

    /// Waits until the network has a VNI and gives it.
    pub async fn vni_of(&self, name: &str) -> u32 {
        let has_vni = |network: &Network| network.status.as_ref().is_some_and(|status| status.vni.is_some());
        let network = until(&self.networks(), name, "it has a VNI", has_vni).await;
        network.status.and_then(|status| status.vni).unwrap().get()
    }
}

pub fn vm_spec(memory: &str, networks: &[&str]) -> Value {
    let interfaces: Vec<_> = networks
        .iter()
        .enumerate()
        .map(|(n, network)| json!({"name": format!("eth{n}"), "network": network}))
        .collect();
    json!({"cpus": 1, "memory": memory, "disks": [{"name": "root", "image": "debian"}], "networks": interfaces})
}

/// The condition Ready of a host.
pub fn ready(is: bool) -> Value {
    json!({"type": "Ready", "status": if is { "True" } else { "False" }, "reason": "Agent", "message": "",
           "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static
{
}

pub async fn create<K: Object>(api: &Api<K>, name: &str, spec: Value) -> K {
    let object = json!({
        "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec,
    });
    api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
}

pub async fn set_status<K: Object>(api: &Api<K>, name: &str, status: Value) -> K {
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await.unwrap()
}

pub async fn patch<K: Object>(api: &Api<K>, name: &str, patch: Value) -> K {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
}

pub async fn delete<K: Object>(api: &Api<K>, name: &str) {
    api.delete(name, &DeleteParams::default()).await.unwrap();
}

/// Waits until the object exists and is as wanted.
pub async fn until<K: Object>(api: &Api<K>, name: &str, what: &str, is: impl Fn(&K) -> bool) -> K {
    let wanted = await_condition(api.clone(), name, |object: Option<&K>| object.is_some_and(&is));
    match tokio::time::timeout(PATIENCE, wanted).await {
        Ok(object) => object.unwrap().unwrap(),
        Err(late) => panic!("{name}: {what} does not come true ({late}): {:#?}", api.get_opt(name).await),
    }
}

/// Waits until the object is gone.
pub async fn until_gone<K: Object>(api: &Api<K>, name: &str) {
    let gone = await_condition(api.clone(), name, |object: Option<&K>| object.is_none());
    let gone = tokio::time::timeout(PATIENCE, gone).await;
    assert!(gone.is_ok(), "{name} does not go: {:#?}", api.get_opt(name).await);
}

/// Waits until `check` is true, for what no single object shows.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let mut interval = tokio::time::interval(Duration::from_millis(20));
    let wanted = async {
        loop {
            interval.tick().await;
            if check().await {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wanted).await.is_ok(), "does not come true: {what}");
}

/// Waits until a VM has this reason in its condition Scheduled, and gives the condition.
pub async fn until_scheduled(cloud: &Cloud, name: &str, reason: &str) -> Condition {
    let scheduled = |vm: &VM| {
        let conditions = vm.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        condition::get(conditions, condition::SCHEDULED).cloned()
    };
    let is = |vm: &VM| scheduled(vm).is_some_and(|condition| condition.reason == reason);
    scheduled(&until(&cloud.vms(), name, &format!("Scheduled is {reason}"), is).await).unwrap()
}

pub fn host_of(vm: &VM) -> Option<String> {
    vm.status.as_ref()?.binding.as_ref().map(|binding| binding.host.clone())
}

/// Whether nobody knows how the VM is.
pub fn is_unknown(vm: &VM) -> bool {
    vm.status.as_ref().is_some_and(|status| status.phase == Some(VMPhase::Unknown))
}

/// Waits until the VM is bound and tells where.
pub async fn until_bound(cloud: &Cloud, name: &str) -> String {
    let vm = until(&cloud.vms(), name, "it is bound", |vm| host_of(vm).is_some()).await;
    host_of(&vm).unwrap()
}

/// The condition of this type of a network.
pub fn network_condition(network: &Network, type_: &str) -> Option<Condition> {
    condition::get(&network.status.as_ref()?.conditions, type_).cloned()
}

/// Waits until a network has this reason in a condition, and gives the condition.
pub async fn until_network(cloud: &Cloud, name: &str, type_: &str, reason: &str) -> Condition {
    let is = |network: &Network| network_condition(network, type_).is_some_and(|c| c.reason == reason);
    let network = until(&cloud.networks(), name, &format!("{type_} is {reason}"), is).await;
    network_condition(&network, type_).unwrap()
}

/// The names of the objects, sorted.
pub async fn names<K: Object>(api: &Api<K>) -> Vec<String> {
    let mut names: Vec<_> =
        api.list(&ListParams::default()).await.unwrap().iter().map(kube::ResourceExt::name_any).collect();
    names.sort();
    names
}
