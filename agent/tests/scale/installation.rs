//! An installation of any size.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt as _, stream};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    core::NamespaceResourceScope,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use rustix::process::{Resource as Limited, getrlimit, setrlimit};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use ucloud_agent::{Agent, Config, Inventory, Machine, Timing};
use ucloud_agent_files::Uploads;
use ucloud_agent_sim::{SimHost, Underlay};
use ucloud_api::in_process::InProcess;
use ucloud_controllers::Options;
use ucloud_types::{
    Host, Image, Network, NetworkPool, StoragePool, VM, condition,
    host::{HostRole, Resources},
};

/// VMs are spread over so many networks.
const NETWORKS: usize = 20;
/// What a host keeps for itself.
const RESERVED_MIB: u32 = 512;
/// So many requests are under way at once while VMs are made, and so many agents start at once.
const AT_ONCE: usize = 32;

pub struct Installation {
    pub api: InProcess,
    pub admin: Client,
    pub hosts: HashMap<String, Arc<SimHost>>,
    /// The controllers and agents. They end with this.
    tasks: JoinSet<()>,
}

impl Installation {
    /// Comes back when all hosts are Ready. Each has room for so many VMs.
    pub async fn start(hosts: usize, room: u32) -> Self {
        allow_open_files();
        let api = InProcess::start().await.unwrap();
        let admin = api.admin().await.unwrap();
        let mut this = Self { api, admin, hosts: HashMap::new(), tasks: JoinSet::new() };
        let client = this.api.controllers().await.unwrap();
        let options = Options { election: None, ..Options::new("scale") };
        this.tasks.spawn(async move { ucloud_controllers::run(client, options).await.unwrap() });
        this.make::<StoragePool>(None, "default", json!({"directory": {"path": "/pool"}})).await;
        let range = json!({"prefix": "fd00:1::/48", "vniRange": {"first": 100, "last": 2099}});
        this.make::<NetworkPool>(None, "default", range).await;

        let underlay = Arc::<Underlay>::default();
        for number in 0..hosts {
            let name = format!("h{number:03}");
            this.hosts.insert(name.clone(), SimHost::new(&name, &underlay));
        }
        let agents = stream::iter(this.hosts.values().cloned()).map(|host| agent(&this.api, host, room));
        let mut agents = agents.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await;
        for agent in agents.drain(..) {
            this.tasks.spawn(async { agent.run(CancellationToken::new()).await.unwrap() });
        }
        follow(Api::<Host>::all(this.admin.clone()), hosts, |host| {
            let conditions = host.status.as_ref().map(|status| &status.conditions);
            conditions.is_some_and(|conditions| condition::is_true(conditions, condition::READY))
        })
        .await;

        let source = json!({"source": {"file": {"name": "alpine.qcow2"}}, "format": "qcow2"});
        this.make::<Image>(Some("default"), "alpine", source).await;
        for number in 0..NETWORKS {
            this.make::<Network>(Some("default"), &format!("lan{number}"), json!({})).await;
        }
        follow(Api::<Network>::all(this.admin.clone()), NETWORKS, |network| {
            network.status.as_ref().is_some_and(|status| status.vni.is_some() && status.router.is_some())
        })
        .await;
        this
    }

    async fn make<K>(&self, namespace: Option<&str>, name: &str, spec: Value)
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let object: K = serde_json::from_value(json!({
            "apiVersion": K::api_version(&()), "kind": K::kind(&()), "spec": spec,
            "metadata": {"name": name, "namespace": namespace},
        }))
        .unwrap();
        let path = K::url_path(&(), namespace);
        let body = serde_json::to_vec(&object).unwrap();
        let request = kube::core::Request::new(path).create(&PostParams::default(), body).unwrap();
        self.admin.request::<K>(request).await.unwrap();
    }

    /// Makes so many VMs, and tells how long after `begun` the last one was there.
    pub async fn create_vms(&self, vms: usize, begun: Instant) -> Duration {
        let made = stream::iter(0..vms).map(|number| {
            let spec = json!({
                "cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": "alpine"}],
                "networks": [{"name": "eth0", "network": format!("lan{}", number % NETWORKS)}],
            });
            async move { self.make::<VM>(Some("default"), &format!("vm{number:05}"), spec).await }
        });
        made.buffer_unordered(AT_ONCE).collect::<()>().await;
        begun.elapsed()
    }

    /// Makes so many networks, and a VM in each.
    pub async fn create_networks_with_vms(&self, count: usize) {
        let made = stream::iter(0..count).map(|number| async move {
            let network = format!("net{number:04}");
            self.make::<Network>(Some("default"), &network, json!({})).await;
            let spec = json!({
                "cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": "alpine"}],
                "networks": [{"name": "eth0", "network": network}],
            });
            self.make::<VM>(Some("default"), &format!("vm{number:05}"), spec).await;
        });
        made.buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    /// Deletes all objects of a kind in the project.
    pub async fn delete_all<K>(&self)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api = Api::<K>::namespaced(self.admin.clone(), "default");
        api.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    }

    /// Waits until this holds.
    pub async fn until(&self, mut holds: impl AsyncFnMut() -> bool) {
        let mut interval = tokio::time::interval(Duration::from_millis(200));
        while !holds().await {
            interval.tick().await;
        }
    }

    /// Waits until this held, at one moment, of each of so many VMs.
    pub async fn follow_vms(&self, vms: usize, holds: impl Fn(&VM) -> bool) {
        follow(Api::<VM>::all(self.admin.clone()), vms, holds).await;
    }
}

async fn follow<K>(api: Api<K>, count: usize, holds: impl Fn(&K) -> bool)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut found = HashSet::new();
    let mut objects = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    while found.len() < count {
        let object = objects.next().await.expect("a watch does not end");
        if let Some(object) = object.ok().filter(&holds) {
            found.insert(object.name_any());
        }
    }
}

/// An agent as in life, with the default pace, on a host that has room for so many VMs.
async fn agent(api: &InProcess, host: Arc<SimHost>, room: u32) -> Agent {
    let config = Config {
        host: host.name().to_owned(),
        // few hosts of many are routers
        roles: if host.name() < "h004" { HostRole::ALL.to_vec() } else { vec![HostRole::Compute] },
        inventory: Inventory {
            capacity: Resources {
                cpus: room.div_ceil(3),
                memory: format!("{}Mi", room * 1024 + RESERVED_MIB).parse().unwrap(),
            },
            kernel: "6.1.0".to_owned(),
            boot_id: "b0070000-0000-0000-0000-000000000000".to_owned(),
        },
        cpu_overcommit: 4,
        reserved_memory: format!("{RESERVED_MIB}Mi").parse().unwrap(),
        concurrency: 8,
        timing: Timing::default(),
    };
    let client = api.agent(host.name()).await.unwrap();
    let machine = Machine {
        hypervisor: host.clone(),
        store: host.clone(),
        files: Arc::new(Uploads::default()),
        net: host.clone(),
        advertiser: host.clone(),
        firewall: host,
    };
    Agent::new(config, client, machine)
}

/// Each agent has a connection for each of its watches and some for what it writes, and both ends are here.
fn allow_open_files() {
    let mut limit = getrlimit(Limited::Nofile);
    limit.current = limit.maximum;
    setrlimit(Limited::Nofile, limit).unwrap();
}
