//! Which networks a host has devices for: those of its VMs, and those that it routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ucloud_types::{Network, condition, network::Ipam};

use crate::{
    hypervisor::{Domain, DomainState},
    net::{Advertisement, Gateway, NetworkDevices, NetworkRequest, Tap},
    reason,
    vm::{Blocker, Desired},
};

/// Whether a VM can be attached to the network that its spec names, `network` being what was found of that name.
pub fn ready<'a>(network: Option<&'a Network>, namespace: &str, name: &str) -> Result<&'a Network, Blocker> {
    let Some(network) = network else {
        return Err(Blocker::new(
            reason::NETWORK_NOT_FOUND,
            format!("Network {namespace}/{name} does not exist: create it, or name another network"),
        ));
    };
    if network.metadata.deletion_timestamp.is_some() {
        return Err(Blocker::new(
            reason::NETWORK_NOT_READY,
            format!("Network {namespace}/{name} is being deleted: name another network"),
        ));
    }
    let status = network.status.as_ref();
    if status.is_none_or(|status| status.vni.is_none()) {
        let why = status
            .and_then(|status| condition::get(&status.conditions, condition::READY))
            .filter(|ready| !ready.message.is_empty())
            .map_or_else(|| "it has no VNI yet".to_owned(), |ready| ready.message.clone());
        return Err(Blocker::new(reason::NETWORK_NOT_READY, format!("Network {namespace}/{name} is not ready: {why}")));
    }
    Ok(network)
}

/// Whether the network's gateway is to be on this host, which has it already or not.
///
/// A host that is not the router any more keeps the gateway until the next one has brought it up: both forward alike, and
/// so guests lose nothing in between.
pub fn is_routed_by(network: &Network, host: &str, has_gateway: bool) -> bool {
    let Some(status) = &network.status else { return false };
    match status.router.as_deref() {
        Some(router) if router == host => true,
        Some(_) => has_gateway && !condition::is_true(&status.conditions, condition::ROUTED),
        None => false,
    }
}

/// Whether another host is the network's router.
pub fn is_routed_elsewhere(network: &Network, host: &str) -> bool {
    network.status.as_ref().is_some_and(|status| status.router.as_deref().is_some_and(|router| router != host))
}

/// The devices that the network needs on this host, which has its gateway already or not. None while it has no VNI.
pub fn request(network: &Network, host: &str, has_gateway: bool) -> Option<NetworkRequest> {
    let status = network.status.as_ref()?;
    let gateway = match (is_routed_by(network, host, has_gateway), status.gateway, status.prefix) {
        (true, Some(address), Some(prefix)) => Some(Gateway { address, prefix }),
        _ => None,
    };
    let advertised = gateway.is_none() && status.router.is_some() && network.spec.effective_ipam() == Ipam::Automatic;
    let uid = network.metadata.uid.clone()?;
    Some(NetworkRequest { uid, vni: status.vni?, mtu: network.spec.mtu, gateway, advertised })
}

/// What is advertised for a network with these devices: only where its gateway is, and only with automatic addresses.
pub fn advertisement(network: &Network, devices: &NetworkDevices, host: &str) -> Option<Advertisement> {
    let gateway = request(network, host, devices.routes)?.gateway?;
    let dns = network.spec.dns.clone().unwrap_or_default();
    (network.spec.effective_ipam() == Ipam::Automatic).then(|| Advertisement {
        bridge: devices.bridge.clone(),
        prefix: gateway.prefix,
        mtu: devices.mtu,
        dns_servers: dns.servers,
        dns_search: dns.search,
    })
}

/// Those of all networks that the host has something to do with: VMs that are bound to it use them (`vms`), it is their
/// router, or it has devices of them (`present`). A host of many must not look at all there are whenever one changes.
pub fn concerning(
    networks: &[Arc<Network>],
    vms: &[Desired],
    host: &str,
    present: &[NetworkDevices],
) -> Vec<Arc<Network>> {
    let used = used(vms);
    let present: BTreeSet<&str> = present.iter().map(|devices| devices.uid.as_str()).collect();
    let concerns = |network: &&Arc<Network>| {
        let router = network.status.as_ref().and_then(|status| status.router.as_deref());
        router == Some(host)
            || network.metadata.uid.as_deref().is_some_and(|uid| present.contains(uid))
            || used.contains(&name(network))
    };
    networks.iter().filter(concerns).cloned().collect()
}

/// The namespaces and names of the networks that these VMs use.
fn used<'a>(vms: impl IntoIterator<Item = &'a Desired>) -> BTreeSet<(&'a str, &'a str)> {
    let interfaces = |vm: &'a Desired| vm.interfaces.iter().map(|i| (vm.namespace.as_str(), i.network.as_str()));
    vms.into_iter().flat_map(interfaces).collect()
}

fn name(network: &Network) -> (&str, &str) {
    let metadata = &network.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// The devices that this host needs, by the Network's UID: for the VMs that are bound to it (`vms`; one that is
/// being deleted and has no domain any more is left out by the caller), and for the networks that it routes. `present`
/// are those that it has.
pub fn needed<'a>(
    networks: &[&Network],
    vms: impl IntoIterator<Item = &'a Desired>,
    host: &str,
    present: &[NetworkDevices],
) -> BTreeMap<String, NetworkRequest> {
    let gateways: BTreeSet<&str> =
        present.iter().filter(|devices| devices.routes).map(|devices| devices.uid.as_str()).collect();
    let has_gateway = |network: &Network| network.metadata.uid.as_deref().is_some_and(|uid| gateways.contains(uid));
    let used = used(vms);
    networks
        .iter()
        .filter(|network| {
            let routed = is_routed_by(network, host, has_gateway(network));
            used.contains(&name(network)) || (routed && network.metadata.deletion_timestamp.is_none())
        })
        .filter_map(|network| request(network, host, has_gateway(network)))
        .map(|request| (request.uid.clone(), request))
        .collect()
}

/// The UIDs of networks whose devices may go: no VM here needs them, no domain is attached to them, and the host
/// does not route them.
///
/// `networks` are all there are; what `needed` was computed from must be complete, and `domains` the hypervisor's own
/// answer. An empty list of networks proves nothing by itself: a Network goes through its deletion while a host has
/// devices for it, so that the last one is seen to be deleted.
pub fn removable(
    present: &[NetworkDevices],
    networks: &[Arc<Network>],
    needed: &BTreeMap<String, NetworkRequest>,
    domains: &[Domain],
) -> Vec<String> {
    if networks.is_empty() {
        return Vec::new();
    }
    let attached: BTreeSet<&str> =
        domains.iter().flat_map(|domain| &domain.spec.interfaces).map(|interface| interface.bridge.as_str()).collect();
    present
        .iter()
        .filter(|devices| !needed.contains_key(&devices.uid) && !attached.contains(devices.bridge.as_str()))
        .map(|devices| devices.uid.clone())
        .collect()
}

/// Where the taps of domains that are up belong, of those networks that have devices here.
pub fn taps(present: &[NetworkDevices], domains: &[Domain]) -> Vec<Tap> {
    let bridges: BTreeSet<&str> = present.iter().map(|devices| devices.bridge.as_str()).collect();
    let up = domains.iter().filter(|domain| !matches!(domain.state, DomainState::Off(_)));
    up.flat_map(|domain| &domain.spec.interfaces)
        .filter(|interface| bridges.contains(interface.bridge.as_str()))
        .map(|interface| Tap { name: interface.tap.clone(), bridge: interface.bridge.clone() })
        .collect()
}

#[cfg(test)]
mod tests {
    use ucloud_types::{VM, Vni};

    use super::*;
    use crate::hypervisor::{DomainInterface, DomainSpec, StopReason};

    fn network(name: &str, router: &str) -> Network {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Network",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
            "spec": {"dns": {"servers": ["fd00::53"]}},
            "status": {"vni": 100, "prefix": "fd00::/64", "gateway": "fd00::1", "router": router}
        }))
        .unwrap()
    }

    fn user(network: &str) -> Desired {
        let vm: VM = serde_json::from_value(serde_json::json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
            "metadata": {"name": "web", "namespace": "default", "uid": "vm-uid"},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": [], "networks": [{"name": "eth0", "network": network}]},
            "status": {"binding": {"host": "host-1", "epoch": 1}}
        }))
        .unwrap();
        Desired::of(&vm, "host-1").unwrap()
    }

    fn devices(name: &str) -> NetworkDevices {
        NetworkDevices {
            uid: format!("uid-{name}"),
            vni: Vni::new(100).unwrap(),
            bridge: format!("br-{name}"),
            mtu: 1430,
            routes: false,
        }
    }

    fn domain_on(bridge: &str) -> Domain {
        let interface = DomainInterface {
            name: "eth0".into(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            bridge: bridge.into(),
            tap: "tap".into(),
            mtu: 1430,
        };
        let spec = DomainSpec {
            uid: "vm-uid".into(),
            namespace: "default".into(),
            name: "web".into(),
            epoch: 1,
            power_request: 0,
            cpus: 1,
            memory: "1Gi".parse().unwrap(),
            disks: Vec::new(),
            interfaces: vec![interface],
            standstill: false,
        };
        Domain { spec, state: DomainState::Running }
    }

    #[test]
    fn a_host_needs_what_its_vms_use_and_what_it_routes() {
        let (used, routed, other) =
            (network("used", "host-2"), network("routed", "host-1"), network("other", "host-2"));
        let needed = needed(&[&used, &routed, &other], [&user("used")], "host-1", &[]);
        assert_eq!(needed.keys().collect::<Vec<_>>(), ["uid-routed", "uid-used"]);
        assert!(needed["uid-routed"].gateway.is_some());
        assert!(needed["uid-used"].gateway.is_none(), "only the router has an address in the network");
        assert_eq!(["uid-routed", "uid-used"].map(|uid| needed[uid].advertised), [false, true], "it asks others");
    }

    #[test]
    fn a_host_looks_only_at_what_it_has_to_do_with() {
        let all = ["used", "present", "other"].map(|name| Arc::new(network(name, "host-2")));
        let routed = Arc::new(network("routed", "host-1"));
        let all = [all.as_slice(), &[routed]].concat();
        let here = concerning(&all, &[user("used")], "host-1", &[devices("present")]);
        let names: Vec<_> = here.iter().map(|network| name(network).1).collect();
        assert_eq!(names, ["used", "present", "routed"]);
    }

    #[test]
    fn only_the_router_advertises_and_only_automatic_networks() {
        let mut network = network("lan", "host-1");
        let found = advertisement(&network, &devices("lan"), "host-1").unwrap();
        assert_eq!((found.bridge.as_str(), found.dns_servers.len(), found.mtu), ("br-lan", 1, 1430));
        assert_eq!(advertisement(&network, &devices("lan"), "host-2"), None);
        network.spec.ipam = Some(Ipam::Manual);
        assert_eq!(advertisement(&network, &devices("lan"), "host-1"), None);
    }

    /// Make before break: the old router routes until the new one does.
    #[test]
    fn a_router_keeps_the_gateway_until_the_next_one_has_it() {
        let mut lan = network("lan", "host-2");
        let routes = NetworkDevices { routes: true, ..devices("lan") };
        let here = |lan: &Network, present: &NetworkDevices| {
            let needed = needed(&[lan], [], "host-1", std::slice::from_ref(present));
            let gateway = needed.get("uid-lan").is_some_and(|request| request.gateway.is_some());
            (gateway, advertisement(lan, present, "host-1").is_some())
        };
        assert_eq!(here(&lan, &routes), (true, true), "host-2 has yet to come up");
        assert_eq!(here(&lan, &devices("lan")), (false, false), "this host never had it");
        let mut conditions = Vec::new();
        let mut routed = |verdict| {
            let finding = condition::Finding::new(condition::ROUTED, verdict, "Because", "");
            condition::set(&mut conditions, &finding, None, jiff::Timestamp::UNIX_EPOCH);
            conditions.clone()
        };
        lan.status.as_mut().unwrap().conditions = routed(condition::Verdict::False);
        assert_eq!(here(&lan, &routes), (true, true));
        lan.status.as_mut().unwrap().conditions = routed(condition::Verdict::True);
        assert_eq!(here(&lan, &routes), (false, false), "host-2 has it");
        assert!(is_routed_elsewhere(&lan, "host-1") && !is_routed_elsewhere(&lan, "host-2"));
        lan.status.as_mut().unwrap().router = None;
        assert_eq!(here(&lan, &routes), (false, false), "nobody is to route");
        assert!(!is_routed_elsewhere(&lan, "host-1"));
    }

    #[test]
    fn devices_go_when_nobody_needs_them() {
        let (used, idle) = (network("used", "host-2"), network("idle", "host-2"));
        let present = [devices("used"), devices("idle"), devices("gone"), devices("attached")];
        let needs = needed(&[&used, &idle], [&user("used")], "host-1", &[]);
        let all = [Arc::new(used), Arc::new(idle)];
        assert_eq!(removable(&present, &all, &needs, &[domain_on("br-attached")]), ["uid-idle", "uid-gone"]);
        assert_eq!(removable(&present, &[], &BTreeMap::new(), &[]), [""; 0], "an empty list proves nothing");
    }

    #[test]
    fn taps_belong_to_the_bridges_that_are_there() {
        let off = Domain { state: DomainState::Off(StopReason::Shutdown), ..domain_on("br-lan") };
        let tap = Tap { name: "tap".into(), bridge: "br-lan".into() };
        assert_eq!(taps(&[devices("lan")], &[domain_on("br-lan"), domain_on("br-gone"), off]), [tap]);
    }

    #[test]
    fn a_routed_network_that_is_deleted_goes_after_its_last_vm_here() {
        let mut lan = network("lan", "host-1");
        lan.metadata.deletion_timestamp = Some(condition::Time(jiff::Timestamp::UNIX_EPOCH));
        let busy = needed(&[&lan], [&user("lan")], "host-1", &[]);
        let idle = needed(&[&lan], [], "host-1", &[]);
        let all = [Arc::new(lan)];
        assert_eq!(removable(&[devices("lan")], &all, &busy, &[]), [""; 0]);
        assert_eq!(removable(&[devices("lan")], &all, &idle, &[domain_on("br-lan")]), [""; 0]);
        assert_eq!(removable(&[devices("lan")], &all, &idle, &[]), ["uid-lan"]);
    }
}
