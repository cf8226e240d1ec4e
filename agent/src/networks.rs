//! The networks that the host has devices for: made when they are needed, removed when nobody needs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::{Mutex, watch};
use tracing::{info, warn};
use ucloud_agent_core::{
    HostError,
    hypervisor::Domain,
    net::{NetworkDevices, NetworkRequest},
    network, reason,
    vm::Desired,
};
use ucloud_types::{Network, host::HostNetwork};

use crate::{limit::limited, shared::Shared};

/// What devices were made of, by the Network's UID.
type Made = BTreeMap<String, NetworkRequest>;

/// The networks that the host has devices for.
pub struct Networks {
    /// What was made by this agent, by UID. Whoever makes or removes devices holds the lock, so that nothing is
    /// removed that is being made.
    made: Mutex<Made>,
    present: watch::Sender<Option<Vec<HostNetwork>>>,
}

impl Default for Networks {
    fn default() -> Self {
        Self { made: Mutex::default(), present: watch::channel(None).0 }
    }
}

impl Networks {
    /// What to report in the Host's status; None until it is known.
    pub fn present(&self) -> watch::Receiver<Option<Vec<HostNetwork>>> {
        self.present.subscribe()
    }

    /// Makes the devices of a network for a VM that is about to start.
    pub async fn ensure(&self, shared: &Shared, network: &Network) -> Result<NetworkDevices, HostError> {
        let mut made = self.made.lock().await;
        let uid = network.metadata.uid.as_deref();
        let routes = list(shared).await?.iter().any(|devices| devices.routes && Some(devices.uid.as_str()) == uid);
        let not_ready = || HostError::retryable(reason::NETWORK_NOT_READY, "the network has no VNI yet");
        let request = network::request(network, &shared.config.host, routes).ok_or_else(not_ready)?;
        let devices = ensure(shared, &mut made, &request).await?;
        self.publish(&list(shared).await?);
        Ok(devices)
    }

    /// Keeps devices from being made and removed as long as this is held.
    pub async fn hold(&self) -> impl Drop + '_ {
        self.made.lock().await
    }

    /// The networks of this VM, which has no domain any more, that have devices here for its sake alone.
    pub async fn kept_for(&self, shared: &Shared, vm: &Desired) -> Result<Vec<String>, HostError> {
        let own: BTreeSet<_> = vm
            .interfaces
            .iter()
            .filter_map(|i| shared.caches.networks.get(Some(&vm.namespace), &i.network)?.metadata.uid.clone())
            .collect();
        let present = list(shared).await?;
        let domains = domains(shared).await?;
        let needs = Needs::now(shared, &domains, &present);
        Ok(needs.removable(&present, &domains).into_iter().filter(|uid| own.contains(uid)).collect())
    }

    /// Removes the devices that nobody needs any more.
    pub async fn release(&self, shared: &Shared) -> Result<(), HostError> {
        let mut made = self.made.lock().await;
        let present = list(shared).await?;
        let domains = domains(shared).await?;
        let needs = Needs::now(shared, &domains, &present);
        self.publish(&present);
        self.remove_unneeded(shared, &mut made, &needs, &domains, &present).await
    }

    /// Makes the networks as they should be. With `repair`, also those are looked at of which nothing has changed.
    async fn settle(&self, shared: &Shared, repair: bool) -> Result<(), HostError> {
        let mut made = self.made.lock().await;
        let present = list(shared).await?;
        // before anything is made, which may take long: nobody is to believe in a gateway that was there before a reboot
        self.publish(&present);
        // a router routes without its hypervisor, too; only nothing is removed then
        let domains = domains(shared).await;
        let needs = Needs::now(shared, domains.as_deref().unwrap_or_default(), &present);
        let brought = self.bring(shared, &mut made, (&needs, &present), repair).await;
        let present = list(shared).await?;
        self.publish(&present);
        let domains = domains?;
        if repair {
            let taps = network::taps(&present, &domains);
            limited(shared.config.timing.step, "repair taps", shared.machine.net.ensure_taps(&taps)).await?;
        }
        let removed = self.remove_unneeded(shared, &mut made, &needs, &domains, &present).await;
        brought.and(removed)
    }

    async fn remove_unneeded(
        &self,
        shared: &Shared,
        made: &mut Made,
        needs: &Needs,
        domains: &[Domain],
        present: &[NetworkDevices],
    ) -> Result<(), HostError> {
        let removable = needs.removable(present, domains);
        if removable.is_empty() {
            return Ok(());
        }
        let mut first = None;
        for uid in removable {
            info!(network = uid, "removing the devices of a network that nobody needs here");
            // its gateway first and by itself: that tells the guests who has it now
            if present.iter().any(|devices| devices.routes && devices.uid == uid)
                && let Some(request) =
                    needs.network(&uid).and_then(|network| network::request(network, &shared.config.host, false))
                && let Err(error) = ensure(shared, made, &request).await
            {
                warn!(network = uid, reason = error.reason, "the gateway could not be given up first: {error}");
            }
            made.remove(&uid);
            let removed = shared.machine.net.remove_network(&uid);
            if let Err(error) = limited(shared.config.timing.step, "remove a network", removed).await {
                first.get_or_insert(error);
            }
        }
        self.publish(&list(shared).await?);
        first.map_or(Ok(()), Err)
    }

    fn publish(&self, present: &[NetworkDevices]) {
        let mut networks: Vec<_> =
            present.iter().map(|d| HostNetwork { uid: d.uid.clone(), vni: d.vni, routed: d.routes }).collect();
        networks.sort_unstable_by(|a, b| a.uid.cmp(&b.uid));
        self.present.send_if_modified(|reported| {
            let changed = reported.as_ref() != Some(&networks);
            *reported = Some(networks);
            changed
        });
    }

    /// Makes the devices of networks that this host routes, repairs those that VMs use, advertises, and gives up the
    /// gateways that are others' by now.
    async fn bring(
        &self,
        shared: &Shared,
        made: &mut Made,
        (needs, present): (&Needs, &[NetworkDevices]),
        repair: bool,
    ) -> Result<(), HostError> {
        let host = &shared.config.host;
        let by_uid: BTreeMap<&str, &NetworkDevices> = present.iter().map(|d| (d.uid.as_str(), d)).collect();
        let mut first = None;
        let (mut advertisements, mut handed_over, mut given_up) = (Vec::new(), Vec::new(), Vec::new());
        for request in needs.needed.values() {
            let Some(network) = needs.network(&request.uid) else { continue };
            let mut devices = by_uid.get(request.uid.as_str()).copied().cloned();
            // What only a VM needs is made when it starts; from then on it is kept, whatever is done to it by hand
            let wanted = request.gateway.is_some() || devices.is_some() || made.contains_key(&request.uid);
            if wanted && (repair || devices.is_none() || made.get(&request.uid) != Some(request)) {
                if request.gateway.is_none() && devices.as_ref().is_some_and(|devices| devices.routes) {
                    given_up.push((network, request));
                    continue;
                }
                match ensure(shared, made, request).await {
                    Ok(found) => devices = Some(found),
                    Err(error) => note_failure(network, error, &mut first),
                }
            }
            advertisements.extend(devices.and_then(|devices| network::advertisement(network, &devices, host)));
        }
        for devices in present {
            if needs.network(&devices.uid).is_some_and(|network| network::is_routed_elsewhere(network, host)) {
                handed_over.push(devices.bridge.clone());
            }
        }
        advertisements.sort_unstable_by(|a, b| a.bridge.cmp(&b.bridge));
        let advertised = shared.machine.advertiser.advertise(&advertisements, &handed_over);
        if let Err(error) = limited(shared.config.timing.step, "advertise routers", advertised).await {
            first.get_or_insert(error);
        }
        // after the last advertisement, which comes from the gateway
        for (network, request) in given_up {
            if let Err(error) = ensure(shared, made, request).await {
                note_failure(network, error, &mut first);
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn note_failure(network: &Network, error: HostError, first: &mut Option<HostError>) {
    let metadata = &network.metadata;
    let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
    warn!(
        namespace,
        name,
        reason = error.reason,
        error = &error as &dyn std::error::Error,
        "cannot make the devices of a network"
    );
    first.get_or_insert(error);
}

/// What the host needs, by what is known now.
struct Needs {
    /// All networks.
    networks: Vec<Arc<Network>>,
    /// Those that the host has something to do with, by UID.
    here: BTreeMap<String, Arc<Network>>,
    needed: BTreeMap<String, NetworkRequest>,
}

impl Needs {
    fn now(shared: &Shared, domains: &[Domain], present: &[NetworkDevices]) -> Self {
        let host = &shared.config.host;
        let networks = shared.caches.networks.all();
        let with_domain: BTreeSet<&str> = domains.iter().map(|domain| domain.spec.uid.as_str()).collect();
        let vms: Vec<_> = shared
            .caches
            .vms
            .all()
            .iter()
            .filter_map(|vm| Desired::of(vm, host).ok())
            .filter(|vm| !vm.deleting || with_domain.contains(vm.uid.as_str()))
            .collect();
        let here = network::concerning(&networks, &vms, host, present);
        let needed = network::needed(&here.iter().map(AsRef::as_ref).collect::<Vec<_>>(), &vms, host, present);
        let here = here.into_iter().filter_map(|network| Some((network.metadata.uid.clone()?, network))).collect();
        Self { networks, here, needed }
    }

    fn removable(&self, present: &[NetworkDevices], domains: &[Domain]) -> Vec<String> {
        network::removable(present, &self.networks, &self.needed, domains)
    }

    fn network(&self, uid: &str) -> Option<&Network> {
        self.here.get(uid).map(AsRef::as_ref)
    }
}

async fn ensure(shared: &Shared, made: &mut Made, request: &NetworkRequest) -> Result<NetworkDevices, HostError> {
    made.remove(&request.uid);
    let call = shared.machine.net.ensure_network(request);
    let devices = limited(shared.config.timing.step, "make the devices of a network", call).await?;
    made.insert(request.uid.clone(), request.clone());
    Ok(devices)
}

async fn list(shared: &Shared) -> Result<Vec<NetworkDevices>, HostError> {
    limited(shared.config.timing.step, "list its networks", shared.machine.net.networks()).await
}

async fn domains(shared: &Shared) -> Result<Vec<Domain>, HostError> {
    limited(shared.config.timing.step, "list its domains", shared.machine.hypervisor.domains()).await
}

/// Keeps the networks as they should be, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let mut networks = shared.caches.networks.changes();
    let mut vms = shared.caches.vms.changes();
    let mut domains = shared.machine.hypervisor.changes();
    let mut devices = shared.machine.net.changes();
    let mut repair = true;
    let mut failures = 0;
    loop {
        let result = shared.networks.settle(&shared, repair).await;
        let retry = match &result {
            Ok(()) => {
                failures = 0;
                None
            }
            Err(error) => {
                failures += 1;
                warn!(
                    reason = error.reason,
                    error = error as &dyn std::error::Error,
                    "the networks are not as they should be"
                );
                Some(shared.config.timing.retry(failures))
            }
        };
        repair = retry.is_some();
        let pause = async {
            match retry {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        let alive = tokio::select! {
            changed = networks.changed() => changed.is_ok(),
            changed = vms.changed() => changed.is_ok(),
            changed = domains.changed() => changed.is_ok(),
            changed = devices.changed() => {
                repair = true;
                changed.is_ok()
            }
            () = pause => true,
        };
        if !alive {
            return;
        }
    }
}
