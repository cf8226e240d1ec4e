//! A small installation: an API server, controllers, simulated hosts and their agents.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use jiff::SignedDuration;
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
    runtime::wait::{await_condition, conditions::is_deleted},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use ucloud_agent::{Agent, Config, Inventory, Machine, Streams, Timing, streams::StreamTls};
use ucloud_agent_core::vm::Pace;
use ucloud_agent_files::Uploads;
use ucloud_agent_sim::{SimHost, Underlay};
use ucloud_api::{in_process::InProcess, pki::directory};
use ucloud_controllers::{ControllerName, Options};
use ucloud_machinery::storage::Storage as _;
use ucloud_types::{
    Host, Image, Network, NetworkPool, StoragePool, VM, condition,
    host::{HostRole, Resources},
    vm::{AddressSource, VMPhase},
};

/// Nothing takes this long unless it is broken.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// A small installation, with the storage pool and network pool `default`, the network `lan` and the image `alpine`.
pub struct World {
    pub api: InProcess,
    pub admin: Client,
    underlay: Arc<Underlay>,
    controllers: JoinHandle<()>,
}

/// An agent that runs. Dropping it is kill -9.
pub struct Running {
    task: JoinHandle<()>,
    end: CancellationToken,
    stream_port: Option<u16>,
}

impl Running {
    /// Where it takes streams.
    pub fn stream_port(&self) -> Option<u16> {
        self.stream_port
    }

    /// As SIGTERM: comes back when the agent has ended.
    pub async fn terminate(mut self) {
        self.end.cancel();
        timeout(Duration::from_secs(5), &mut self.task).await.expect("it ends within 5 s").unwrap();
    }

    /// As SIGKILL: comes back when nothing of the agent is left.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.controllers.abort();
    }
}

/// Faster than in life.
pub fn timing() -> Timing {
    Timing {
        pace: Pace {
            shutdown_repeat: SignedDuration::from_millis(300),
            unplug_repeat: SignedDuration::from_millis(300),
            restart_first: SignedDuration::from_millis(500),
            ..Pace::default()
        },
        // Nothing but what a test does makes the agent write
        renew: Duration::from_hours(1),
        renew_router: Duration::from_hours(1),
        survey: Duration::from_secs(2),
        step: Duration::from_secs(2),
        retry_first: Duration::from_millis(20),
        retry_most: Duration::from_millis(500),
        step_retry_first: Duration::from_millis(20),
        step_retry_most: Duration::from_millis(500),
        ..Timing::default()
    }
}

fn config(host: &str, roles: &[HostRole], timing: Timing) -> Config {
    Config {
        host: host.to_owned(),
        roles: roles.to_vec(),
        inventory: Inventory {
            capacity: Resources { cpus: 16, memory: "64Gi".parse().unwrap() },
            kernel: "6.1.0".to_owned(),
            boot_id: "b0070000-0000-0000-0000-000000000000".to_owned(),
        },
        cpu_overcommit: 4,
        reserved_memory: "512Mi".parse().unwrap(),
        concurrency: 8,
        timing,
    }
}

fn machine(host: &Arc<SimHost>) -> Machine {
    Machine {
        hypervisor: host.clone(),
        store: host.clone(),
        files: Arc::new(Uploads::default()),
        net: host.clone(),
        advertiser: host.clone(),
        firewall: host.clone(),
    }
}

impl World {
    pub async fn start() -> Self {
        // no agent renews its lease
        Self::start_with(Duration::from_hours(1)).await
    }

    /// With controllers that find a router dead when its Lease has run out, and this time at least is over.
    pub async fn start_with(router_lease_duration: Duration) -> Self {
        let api = InProcess::start().await.unwrap();
        let admin = api.admin().await.unwrap();
        let options = Options {
            controllers: BTreeSet::from([
                ControllerName::Network,
                ControllerName::File,
                ControllerName::Image,
                ControllerName::Volume,
                ControllerName::Snapshot,
                ControllerName::Orphan,
                ControllerName::StoragePool,
                ControllerName::GarbageCollector,
            ]),
            election: None,
            host_lease_duration: Duration::from_hours(1),
            router_lease_duration,
            ..Options::new("test")
        };
        let client = api.controllers().await.unwrap();
        let controllers = tokio::spawn(async move { ucloud_controllers::run(client, options).await.unwrap() });
        let world = Self { api, admin, underlay: Arc::default(), controllers };
        world.make::<StoragePool>(&world.cluster(), "default", json!({"directory": {"path": "/pool"}})).await;
        let range = json!({"prefix": "fd00:1::/48", "vniRange": {"first": 100, "last": 999}});
        world.make::<NetworkPool>(&world.cluster(), "default", range).await;
        world.make::<Network>(&world.namespaced(), "lan", json!({})).await;
        let source = json!({"source": {"file": {"name": "alpine.qcow2"}}, "format": "qcow2"});
        world.make::<Image>(&world.namespaced(), "alpine", source).await;
        world
    }

    /// From here on there are none.
    pub fn stop_controllers(&self) {
        self.controllers.abort();
    }

    pub fn namespaced<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.admin.clone(), "default")
    }

    pub fn cluster<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.admin.clone())
    }

    pub fn vms(&self) -> Api<VM> {
        self.namespaced()
    }

    pub async fn make<K>(&self, api: &Api<K>, name: &str, spec: Value) -> K
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + serde::Serialize,
    {
        let object = json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": {"name": name}, "spec": spec,
        });
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }

    pub fn host(&self, name: &str) -> Arc<SimHost> {
        SimHost::new(name, &self.underlay)
    }

    pub async fn agent(&self, host: &Arc<SimHost>) -> Running {
        self.agent_with(host, timing()).await
    }

    pub async fn agent_with(&self, host: &Arc<SimHost>, timing: Timing) -> Running {
        self.agent_as(host, &[HostRole::Compute, HostRole::Router], timing).await
    }

    pub async fn agent_as(&self, host: &Arc<SimHost>, roles: &[HostRole], timing: Timing) -> Running {
        Self::agent_through(self.api.agent(host.name()).await.unwrap(), host, roles, timing)
    }

    /// An agent that speaks to the API server by this client.
    pub fn agent_through(client: Client, host: &Arc<SimHost>, roles: &[HostRole], timing: Timing) -> Running {
        Self::run(Agent::new(config(host.name(), roles, timing), client, machine(host)), None)
    }

    /// An agent that takes the bytes of Files.
    pub async fn streaming_agent(&self, host: &Arc<SimHost>) -> Running {
        let subject = directory::agent(&host.name().parse().unwrap(), &HostRole::ALL);
        let tls = StreamTls::from_kubeconfig(&self.api.kubeconfig(&subject).unwrap()).unwrap();
        let streams = Streams::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), tls).await.unwrap();
        let port = streams.port();
        let client = self.api.agent(host.name()).await.unwrap();
        let agent = Agent::new(config(host.name(), &HostRole::ALL, timing()), client, machine(host));
        Self::run(agent.with_streams(streams), Some(port))
    }

    fn run(agent: Agent, stream_port: Option<u16>) -> Running {
        let end = CancellationToken::new();
        let running = agent.run(end.clone());
        Running { task: tokio::spawn(async { running.await.unwrap() }), end, stream_port }
    }

    /// A VM with one disk and one interface, and what else its spec says.
    pub async fn vm(&self, name: &str, spec: Value) -> VM {
        let mut full = json!({
            "cpus": 1, "memory": "64Mi", "terminationGracePeriodSeconds": 1,
            "disks": [{"name": "root", "image": "alpine"}], "networks": [{"name": "eth0", "network": "lan"}],
        });
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.make(&self.vms(), name, full).await
    }

    /// A VM that is bound to a host.
    pub async fn bound_vm(&self, name: &str, host: &SimHost, spec: Value) -> VM {
        let vm = self.vm(name, spec).await;
        self.bind(&vm, host.name()).await;
        vm
    }

    pub async fn bind(&self, vm: &VM, host: &str) {
        self.wait_for::<Host>(&self.cluster(), host, "the Host to register", |_| true).await;
        let binding = json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VMBinding", "host": host, "epoch": 1,
            "metadata": {"name": vm.name_any(), "namespace": "default", "uid": vm.uid()},
        });
        self.post(&format!("{}/binding", vm.name_any()), &binding).await;
    }

    /// Raises the epoch of a binding: the API has no way to bind a VM that is bound.
    pub async fn raise_epoch(&self, vm: &str, epoch: u64) {
        self.alter(vm, |object| object["status"]["binding"]["epoch"] = json!(epoch)).await;
    }

    /// Changes a VM in the storage itself.
    pub async fn alter(&self, vm: &str, change: impl FnOnce(&mut Value)) {
        let storage = self.api.storage();
        let stored = storage.list("").await.unwrap().values;
        let key = format!("/vms/default/{vm}");
        let stored = stored.into_iter().find(|value| value.key.ends_with(&key)).unwrap();
        let mut object: Value = serde_json::from_slice(&stored.value).unwrap();
        change(&mut object);
        storage
            .update(&stored.key, object.to_string().into_bytes().into(), stored.mod_revision, None, &[])
            .await
            .unwrap();
    }

    /// Asks for a restore of the VM's disks.
    pub async fn restore(&self, vm: &str, snapshot: &str) {
        let body = json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VMRestore", "snapshot": snapshot,
        });
        self.post(&format!("{vm}/restore"), &body).await;
    }

    /// Asks for a start, stop or restart.
    pub async fn order(&self, vm: &str, verb: &str) {
        self.post(&format!("{vm}/{verb}"), &Value::Null).await;
    }

    async fn post(&self, path: &str, body: &Value) {
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body).unwrap() };
        let request = kube::client::Body::from(body);
        let request =
            http_request(&format!("/apis/ucloud.ungleich.ch/v1alpha1/namespaces/default/vms/{path}"), request);
        let response = self.admin.send(request).await.unwrap();
        assert!(response.status().is_success(), "{path}: {}", response.status());
    }

    pub async fn respecify(&self, vm: &str, spec: Value) -> VM {
        self.vms().patch(vm, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await.unwrap()
    }

    pub async fn delete(&self, vm: &str) {
        self.vms().delete(vm, &DeleteParams::default()).await.unwrap();
    }

    pub async fn wait_for<K>(&self, api: &Api<K>, name: &str, what: &str, holds: impl Fn(&K) -> bool) -> K
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let condition = |object: Option<&K>| object.is_some_and(&holds);
        if let Ok(found) = timeout(PATIENCE, await_condition(api.clone(), name, condition)).await {
            return found.unwrap().unwrap();
        }
        panic!("waited in vain for {what}; {name} is {:#?}", api.get_opt(name).await)
    }

    pub async fn wait_vm(&self, name: &str, what: &str, holds: impl Fn(&VM) -> bool) -> VM {
        self.wait_for(&self.vms(), name, what, holds).await
    }

    pub async fn wait_phase(&self, name: &str, phase: VMPhase) -> VM {
        self.wait_vm(name, &format!("phase {phase:?}"), |vm| phase_of(vm) == Some(phase)).await
    }

    /// The VM is Ready for this reason.
    pub async fn wait_reason(&self, name: &str, reason: &str) -> VM {
        self.wait_vm(name, &format!("reason {reason}"), |vm| reason_of(vm) == reason).await
    }

    /// The VM is as its spec says, and that has been reported.
    pub async fn wait_running(&self, name: &str) -> VM {
        self.wait_vm(name, "the VM to run", |vm| {
            let status = vm.status.as_ref();
            let settled = status.is_some_and(|status| {
                status.observed_generation == vm.metadata.generation
                    && status.observed_power_request == status.power_request.as_ref().map(|request| request.id)
            });
            phase_of(vm) == Some(VMPhase::Running) && settled
        })
        .await
    }

    /// Nothing is left of the VM.
    pub async fn wait_gone(&self, vm: &VM) {
        self.wait_deleted(&self.vms(), vm).await;
    }

    pub async fn wait_deleted<K>(&self, api: &Api<K>, object: &K)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let (name, uid) = (object.name_any(), object.uid().unwrap());
        let deleted = is_deleted::<K>(&uid);
        let waited = timeout(PATIENCE, await_condition(api.clone(), &name, deleted)).await;
        assert!(waited.is_ok(), "{name} is still there: {:#?}", api.get_opt(&name).await);
    }

    /// The newest revision of all that is stored.
    pub async fn revision(&self) -> String {
        let list = self.vms().list(&ListParams::default()).await.unwrap();
        list.metadata.resource_version.unwrap()
    }
}

fn http_request(path: &str, body: kube::client::Body) -> http::Request<kube::client::Body> {
    http::Request::post(path).header("content-type", "application/json").body(body).unwrap()
}

/// Waits until this holds of the host itself, which tells nobody.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        while !holds() {
            interval.tick().await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "waited in vain for {what}");
}

pub fn phase_of(vm: &VM) -> Option<VMPhase> {
    vm.status.as_ref().and_then(|status| status.phase)
}

/// Whether the guest was seen to use an address.
pub fn has_learnt(vm: &VM) -> bool {
    let mut addresses = vm.status.iter().flat_map(|status| &status.interfaces).flat_map(|i| &i.addresses);
    addresses.any(|known| known.source == AddressSource::Learnt)
}

pub fn ready_of(vm: &VM) -> (String, String) {
    let ready = vm.status.as_ref().and_then(|status| condition::get(&status.conditions, condition::READY));
    ready.map(|ready| (ready.reason.clone(), ready.message.clone())).unwrap_or_default()
}

pub fn reason_of(vm: &VM) -> String {
    ready_of(vm).0
}

pub fn uid(vm: &VM) -> String {
    vm.uid().unwrap()
}

/// How often the host was changed in this way.
pub fn effect(host: &SimHost, effect: &str) -> u32 {
    host.effects().get(effect).copied().unwrap_or(0)
}
