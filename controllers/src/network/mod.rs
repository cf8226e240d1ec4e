//! The network controller: gives each network a VNI and a /64 of its pool and a router, and takes them back.
//!
//! Four controllers that share nothing but caches: networks (here), their pools ([`pool`]), allocations that are left
//! over ([`surplus`]), and routers ([`life`]), which tells this one which of them live.
//!
//! The order of writes makes every one of them repeatable: the finalizer, so that the network cannot go before its
//! allocation does; the allocation; the status. Deletion goes the other way: no VM names the network, no host has
//! devices of it, both read from the server; then the allocation goes, then the finalizer.

mod allocate;
mod holdings;
mod life;
mod own;
mod plan;
mod pool;
mod probe;
mod router;
mod surplus;
mod usage;

use std::{collections::HashSet, sync::Arc};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use tracing::info;
use ucloud_types::{
    Host, Network, NetworkAllocation, NetworkAllocationSpec, NetworkPool, VM, Vni,
    condition::{Finding, READY, TERMINATING, Verdict},
    meta::NETWORK_FINALIZER,
    network::Ipam,
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Lists, Reconciler, Runtime,
    cache::object_ref,
    events::EventType,
    is_deleting, name_of, objects,
    report::{Reports, Share, find, status_of},
    uid_of,
};
use allocate::{claim_prefix, elect, of_network, take_slot};
use holdings::Holdings;
use life::Lives;
pub use life::Patience;
use router::Router;
use usage::{Holder, given_up, holder, taken_vnis};

const NAME: &str = "network";

/// What the controller reads.
#[derive(Clone)]
pub struct Caches {
    /// Networks.
    pub networks: Cache<Network>,
    /// Their pools.
    pub pools: Cache<NetworkPool>,
    /// What networks have of the pools.
    pub allocations: Cache<NetworkAllocation>,
    /// Hosts: routers, and who has devices.
    pub hosts: Cache<Host>,
    /// VMs: who uses networks.
    pub vms: Cache<VM>,
    /// The hosts' Leases: which routers live.
    pub leases: Cache<Lease>,
}

/// Runs the four controllers for ever. `patience` is how long a router may be silent.
pub fn run(runtime: &Runtime, caches: &Caches, patience: Patience) -> impl Future<Output = ()> + use<> {
    let pools = pool::run(runtime, &caches.pools, &caches.allocations, &caches.hosts);
    let live_hosts = Arc::new(Lists::new(&runtime.client));
    let surplus = surplus::run(runtime, &caches.allocations, &caches.networks, (&caches.hosts, &live_hosts));
    let lives = Lives::default();
    let controller = networks(runtime, caches);
    let requests = controller.requests();
    let routers =
        life::run(runtime, &caches.hosts, &caches.leases, &caches.networks, requests, (lives.clone(), patience));
    let reconciler = Networks {
        client: runtime.client.clone(),
        caches: caches.clone(),
        lives,
        live_hosts,
        live_vms: Lists::new(&runtime.client),
        reports: Reports::new(runtime, NAME, Share::Whole),
    };
    let networks = controller.run(reconciler, Limits::default());
    async move {
        tokio::join!(networks, pools, surplus, routers);
    }
}

fn networks(runtime: &Runtime, caches: &Caches) -> Controller<Network> {
    let select = |wanted: fn(&Network) -> bool| {
        let networks = caches.networks.clone();
        move || {
            let all = networks.all();
            all.into_iter().filter(move |network| wanted(network)).map(|network| ObjectRef::from_obj(&*network))
        }
    };
    let (unserved, unserved_too) = (select(is_unserved), select(is_unserved));
    let routed = select(needs_router);
    let (networks, reported) = (caches.networks.clone(), caches.networks.clone());
    Controller::new(NAME, runtime, &caches.networks)
        .watch(&caches.pools, move |change: &Change<NetworkPool>| {
            change.differs(|pool| pool.spec.clone()).then(&unserved).into_iter().flatten().collect::<Vec<_>>()
        })
        .watch(&caches.allocations, move |change: &Change<NetworkAllocation>| {
            let freed = change.new.is_none().then(&unserved_too).into_iter().flatten();
            let own = change.object().map(|a| object_ref(Some(&a.spec.namespace), &a.spec.network));
            own.into_iter().chain(freed).collect::<Vec<_>>()
        })
        .watch(&caches.hosts, move |change: &Change<Host>| {
            let moved = change.differs(router::aspect).then(&routed).into_iter().flatten();
            moved.chain(released(change, &reported)).chain(gateways(change, &reported)).collect::<Vec<_>>()
        })
        .watch(&caches.vms, move |change: &Change<VM>| {
            let named = [&change.old, &change.new].into_iter().flatten().flat_map(|vm| {
                let namespace = vm.namespace();
                let names = vm.spec.networks.iter().map(|interface| interface.network.clone());
                names.map(move |name| (namespace.clone(), name)).collect::<Vec<_>>()
            });
            named
                .filter_map(|(namespace, name)| networks.get(namespace.as_deref(), &name))
                .filter(|network| is_deleting(&**network))
                .map(|network| ObjectRef::from_obj(&*network))
                .collect::<Vec<_>>()
        })
}

/// The networks being deleted of which the host had devices, and has none any more.
fn released(change: &Change<Host>, networks: &Cache<Network>) -> Vec<ObjectRef<Network>> {
    let gone = given_up(change);
    let uids: HashSet<_> = gone.iter().map(|devices| devices.uid.as_str()).collect();
    let vnis: HashSet<_> = gone.iter().map(|devices| devices.vni).collect();
    let waits = |network: &&Arc<Network>| {
        let vni = network.status.as_ref().and_then(|status| status.vni);
        is_deleting(&***network) && (uids.contains(uid_of(&***network)) || vni.is_none_or(|vni| vnis.contains(&vni)))
    };
    let all = if gone.is_empty() { Vec::new() } else { networks.all() };
    all.iter().filter(waits).map(|network| ObjectRef::from_obj(&**network)).collect()
}

/// The networks whose gateway has appeared on the host, or vanished.
fn gateways(change: &Change<Host>, networks: &Cache<Network>) -> Vec<ObjectRef<Network>> {
    fn routed(host: Option<&Arc<Host>>) -> HashSet<&str> {
        let networks = host.map(|host| router::networks(host)).unwrap_or_default();
        networks.iter().filter(|network| network.routed).map(|network| network.uid.as_str()).collect()
    }
    let (old, new) = (routed(change.old.as_ref()), routed(change.new.as_ref()));
    let changed: HashSet<_> = old.symmetric_difference(&new).copied().collect();
    let all = if changed.is_empty() { Vec::new() } else { networks.all() };
    all.iter().filter(|network| changed.contains(uid_of(&***network))).map(|n| ObjectRef::from_obj(&**n)).collect()
}

fn is_unserved(network: &Network) -> bool {
    network.status.as_ref().is_none_or(|status| status.vni.is_none())
}

fn needs_router(network: &Network) -> bool {
    network.spec.effective_ipam() != Ipam::None
}

struct Networks {
    client: Client,
    caches: Caches,
    lives: Lives,
    live_hosts: Arc<Lists<Host>>,
    live_vms: Lists<VM>,
    reports: Reports,
}

impl Networks {
    /// The network's allocation, if it has one. Costs nothing where the status names it and the cache knows it.
    async fn find_allocation(&self, network: &Network) -> Result<Option<NetworkAllocation>, Failure> {
        let named = network.status.as_ref().and_then(|status| status.vni);
        let known = named.and_then(|vni| self.caches.allocations.get(None, &NetworkAllocationSpec::object_name(vni)));
        match known.filter(|allocation| allocation.spec.network_uid == uid_of(network)) {
            Some(allocation) => Ok(Some(NetworkAllocation::clone(&allocation))),
            None => Ok(elect(of_network(&self.client, network).await?, named)),
        }
    }

    /// Makes an allocation for a network that has none, or says why there can be none.
    async fn allocate(&self, network: &Network) -> Result<Result<NetworkAllocation, Finding>, Failure> {
        let name = network.spec.effective_pool();
        let (pools, hosts) = (self.caches.pools.all(), self.caches.hosts.all());
        let Some(pool) = self.caches.pools.get(None, name) else {
            return Ok(Err(plan::pool_not_found(name)));
        };
        if let Some(refusal) = pool::defect(&pool, &pools).or_else(|| own::refusal(network, &pool, &pools, &hosts)) {
            return Ok(Err(refusal));
        }
        if let Some(prefix) = network.spec.prefix
            && !claim_prefix(&self.client, network, prefix).await?
        {
            return Ok(Err(own::taken(prefix)));
        }
        let allocations = self.caches.allocations.all();
        let taken = taken_vnis(uid_of(network), &allocations, &hosts);
        Ok(match take_slot(&self.client, network, &pool.spec, &taken).await? {
            Some(allocation) => Ok(allocation),
            None => Err(Holdings::of(&pool, &allocations, &hosts).exhausted_for(network)),
        })
    }

    async fn serve(&self, network: &Network) -> Result<(), Failure> {
        let network = objects::ensure_finalizer(&self.client, network, NETWORK_FINALIZER).await?;
        let allocation = match self.find_allocation(&network).await? {
            Some(allocation) => Ok(allocation),
            None => self.allocate(&network).await?,
        };
        match allocation {
            Ok(allocation) => {
                let load = || router::load(&self.caches.networks.all());
                let router = router::choose(&network, &self.caches.hosts.all(), |host| self.lives.of(host), load);
                self.reports.write(&network, &plan::served(&network, &allocation.spec, &router)).await?;
                self.announce_move(&network, &router);
            }
            Err(why) => {
                self.reports.write(&network, &plan::unserved(&network, &why)).await?;
            }
        }
        Ok(())
    }

    /// Says that the network has another router than it had, and why.
    fn announce_move(&self, network: &Network, router: &Router) {
        let (old, new) = (network.status.as_ref().and_then(|status| status.router.as_deref()), router.host());
        let (Some(old), true) = (old, old != new) else { return };
        let host = self.caches.hosts.get(None, old);
        let why = router::why_leave(old, host.as_deref(), self.lives.of(old))
            .unwrap_or_else(|| "the network needs none any more".to_owned());
        let (reason, note) = match new {
            Some(new) => ("RouterMoved", format!("the gateway moves from host {old} to host {new}: {why}")),
            None => ("RouterLeft", format!("the gateway leaves host {old}: {why}")),
        };
        info!(network = name_of(network), "{note}");
        match self.caches.hosts.get(None, new.unwrap_or(old)) {
            Some(host) => self.reports.event_with(network, &*host, ("Route", reason), &note),
            None => self.reports.event(network, EventType::Normal, "Route", reason, &note),
        }
    }

    async fn release(&self, network: &Network) -> Result<(), Failure> {
        if !network.finalizers().iter().any(|finalizer| finalizer == NETWORK_FINALIZER) {
            return Ok(());
        }
        let named: Vec<Vni> = network.status.iter().filter_map(|status| status.vni).collect();
        let (vms, hosts) = (self.caches.vms.all(), self.caches.hosts.all());
        if let Some(holder) = holder(network, &named, &vms, &hosts) {
            return self.wait(network, &holder).await;
        }
        // the caches say that nobody uses it; before anything is given back, the server has to say so too
        let allocations = of_network(&self.client, network).await?;
        let vnis: Vec<Vni> = allocations.iter().filter_map(|allocation| allocation.spec.vni).chain(named).collect();
        let namespace = network.metadata.namespace.as_deref();
        let (vms, hosts) = tokio::try_join!(self.live_vms.fresh(namespace), self.live_hosts.fresh(None))?;
        if let Some(holder) = holder(network, &vnis, &vms, &hosts) {
            return self.wait(network, &holder).await;
        }
        for allocation in &allocations {
            objects::delete(&self.client, allocation).await?;
        }
        objects::drop_finalizer(&self.client, network, NETWORK_FINALIZER).await
    }

    async fn wait(&self, network: &Network, holder: &Holder) -> Result<(), Failure> {
        let mut status = status_of(network);
        let finding = Finding::new(TERMINATING, Verdict::True, holder.reason(), holder.message());
        find(network, &mut status, &finding);
        self.reports.write(network, &status).await.map(|_| ())
    }
}

impl Reconciler for Networks {
    type Object = Network;

    async fn reconcile(&self, network: Arc<Network>) -> Result<Action, Failure> {
        if is_deleting(&*network) {
            self.release(&network).await?;
        } else {
            self.serve(&network).await?;
        }
        Ok(Action::await_change())
    }

    async fn report_failure(
        &self,
        network: Arc<Network>,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        self.reports.write_failure(&*network, READY, reason, message).await
    }
}

#[cfg(test)]
mod testing {
    //! Networks and what belongs to them, for the tests of this folder.
    use serde_json::json;
    use ucloud_types::{Host, Network, NetworkAllocation, NetworkPool, VM, Vni};

    pub fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    pub fn network(name: &str) -> Network {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Network",
            "metadata": {"name": name, "namespace": "p", "uid": format!("uid-{name}")}, "spec": {},
        }))
        .unwrap()
    }

    pub fn pool(name: &str, prefix: &str, first: u32, last: u32) -> NetworkPool {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "NetworkPool", "metadata": {"name": name},
            "spec": {"prefix": prefix, "vniRange": {"first": first, "last": last}},
        }))
        .unwrap()
    }

    /// The allocation of a VNI from 100 on, in fd00::/48.
    pub fn allocation(pool: &str, vni: u32, uid: &str) -> NetworkAllocation {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "NetworkAllocation",
            "metadata": {"name": format!("vni-{vni}")},
            "spec": {"pool": pool, "vni": vni, "prefix": format!("fd00:0:0:{:x}::/64", vni - 100),
                     "namespace": "p", "network": "n", "networkUid": uid},
        }))
        .unwrap()
    }

    pub fn vm(name: &str, network: &str) -> VM {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
            "metadata": {"name": name, "namespace": "p", "uid": format!("uid-{name}")},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": "debian"}],
                     "networks": [{"name": "eth0", "network": network}]},
        }))
        .unwrap()
    }

    pub fn router_host(name: &str) -> Host {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Host", "metadata": {"name": name},
            "spec": {"roles": ["router"]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "AgentReady", "message": "",
                                       "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .unwrap()
    }
}
