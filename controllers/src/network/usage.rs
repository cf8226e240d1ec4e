//! Who uses a network, a VNI or a pool. Pure.

use std::{collections::HashSet, sync::Arc};

use kube::ResourceExt as _;
use ucloud_types::{Host, Network, NetworkAllocation, VM, Vni, host::HostNetwork};

use super::router::networks;
use crate::runtime::{Change, uid_of};

/// How many holders a message names.
const NAMED: usize = 3;

/// What keeps a network that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// VMs of its namespace have it in their spec, bound or not: a VM that is being bound at this moment must not find
    /// that its VNI belongs to somebody else by now.
    Vms(Vec<String>),
    /// Hosts have devices for it.
    Hosts(Vec<String>),
}

impl Holder {
    /// The reason for the condition Terminating.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Vms(_) => "InUse",
            Self::Hosts(_) => "DevicesRemain",
        }
    }

    /// The message for the condition Terminating.
    pub fn message(&self) -> String {
        match self {
            Self::Vms(names) => {
                format!("used by {}: delete them, or take the network out of their specs", listed("VM", "VMs", names))
            }
            Self::Hosts(names) => format!(
                "waiting until {} has removed its devices of this network; if it never will, delete the Host",
                listed("host", "hosts", names)
            ),
        }
    }
}

fn listed(one: &str, many: &str, names: &[String]) -> String {
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => format!("{one} {named}"),
        n if n <= NAMED => format!("{many} {named}"),
        n => format!("{many} {named} and {} more", n - NAMED),
    }
}

/// Whether the VM has the network of this name in its spec.
pub fn names_network(vm: &VM, network: &str) -> bool {
    vm.spec.networks.iter().any(|interface| interface.network == network)
}

/// Hosts that have devices of the network with this UID, if one is given, or with one of these VNIs. Sorted.
pub fn hosts_with_devices(hosts: &[Arc<Host>], network_uid: Option<&str>, vnis: &[Vni]) -> Vec<String> {
    let has_devices = |host: &&Arc<Host>| {
        let networks = host.status.iter().flat_map(|status| &status.networks);
        networks.into_iter().any(|network| Some(network.uid.as_str()) == network_uid || vnis.contains(&network.vni))
    };
    let mut names: Vec<_> = hosts.iter().filter(has_devices).map(|host| host.name_any()).collect();
    names.sort();
    names
}

/// What the host had devices of before the change, and has not any more.
pub fn given_up(change: &Change<Host>) -> Vec<&HostNetwork> {
    let before = change.old.as_deref().map(networks).unwrap_or_default();
    let now = change.new.as_deref().map(networks).unwrap_or_default();
    let kept: HashSet<_> = now.iter().map(|devices| (devices.uid.as_str(), devices.vni)).collect();
    before.iter().filter(|devices| !kept.contains(&(devices.uid.as_str(), devices.vni))).collect()
}

/// Who keeps the network, VMs first.
pub fn holder(network: &Network, vnis: &[Vni], vms: &[Arc<VM>], hosts: &[Arc<Host>]) -> Option<Holder> {
    let (namespace, name) = (&network.metadata.namespace, network.name_any());
    let mut users: Vec<_> = vms
        .iter()
        .filter(|vm| vm.metadata.namespace == *namespace && names_network(vm, &name))
        .map(|vm| vm.name_any())
        .collect();
    if !users.is_empty() {
        users.sort();
        return Some(Holder::Vms(users));
    }
    let hosts = hosts_with_devices(hosts, Some(uid_of(network)), vnis);
    (!hosts.is_empty()).then_some(Holder::Hosts(hosts))
}

/// VNIs that must not be given to the network with this UID: those that another one has, and those for which a host has
/// devices of another one, whatever the allocations say.
pub fn taken_vnis(network_uid: &str, allocations: &[Arc<NetworkAllocation>], hosts: &[Arc<Host>]) -> HashSet<Vni> {
    let on_hosts = hosts
        .iter()
        .flat_map(|host| host.status.iter().flat_map(|status| &status.networks))
        .filter(|network| network.uid != network_uid)
        .map(|network| network.vni);
    let of_others = allocations.iter().filter(|allocation| allocation.spec.network_uid != network_uid);
    of_others.filter_map(|allocation| allocation.spec.vni).chain(on_hosts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::{allocation, network, router_host, vm, vni};

    fn host_with(name: &str, uid: &str, number: u32) -> Arc<Host> {
        let mut host = router_host(name);
        host.status.get_or_insert_default().networks =
            vec![HostNetwork { uid: uid.into(), vni: vni(number), routed: false }];
        Arc::new(host)
    }

    #[test]
    fn vms_hold_a_network_before_hosts_do() {
        let vms: Vec<_> = ["d", "c", "b", "a"].iter().map(|name| Arc::new(vm(name, "net"))).collect();
        let hosts = [host_with("h1", "uid-net", 100)];
        let held = holder(&network("net"), &[vni(100)], &vms, &hosts).unwrap();
        assert_eq!(
            held.message(),
            "used by VMs a, b, c and 1 more: delete them, or take the network out of their specs"
        );
        let mut elsewhere = vm("x", "net");
        elsewhere.metadata.namespace = Some("other".into());
        let held = holder(&network("net"), &[vni(100)], &[Arc::new(elsewhere)], &hosts).unwrap();
        assert_eq!(held, Holder::Hosts(vec!["h1".into()]));
        assert_eq!(holder(&network("net"), &[vni(100)], &[], &[]), None);
    }

    #[test]
    fn what_a_host_gives_up_is_what_it_has_not_any_more() {
        let change = |old: Option<(&str, u32)>, new: Option<(&str, u32)>| Change {
            old: old.map(|(uid, vni)| host_with("h1", uid, vni)),
            new: new.map(|(uid, vni)| host_with("h1", uid, vni)),
        };
        let gone = |change: Change<Host>| given_up(&change).iter().map(|devices| devices.vni).collect::<Vec<_>>();
        assert_eq!(gone(change(Some(("a", 1)), Some(("a", 1)))), []);
        assert_eq!(gone(change(Some(("a", 1)), Some(("a", 2)))), [vni(1)], "the network has another VNI there");
        assert_eq!(gone(change(Some(("a", 1)), None)), [vni(1)], "the host is gone");
        assert_eq!(gone(change(None, Some(("a", 1)))), []);
    }

    /// Pattern 11: what counts is what hosts have, by UID or by VNI.
    #[test]
    fn a_vni_in_use_on_any_host_is_neither_freed_nor_given_out() {
        for host in [host_with("h1", "uid-net", 7), host_with("h1", "somebody", 100)] {
            assert!(holder(&network("net"), &[vni(100)], &[], &[host]).is_some());
        }
        let hosts = [host_with("h1", "somebody", 100), host_with("h2", "uid-net", 101)];
        let allocations =
            [("uid-x", 102), ("uid-net", 103)].map(|(uid, vni)| Arc::new(allocation("default", vni, uid)));
        let taken = taken_vnis("uid-net", &allocations, &hosts);
        assert_eq!(taken, HashSet::from([vni(100), vni(102)]));
    }
}
