//! Which host carries the gateway of a network. Pure.

use std::{cmp::Reverse, collections::HashMap, hash::Hasher as _, sync::Arc};

use fnv::FnvHasher;
use kube::ResourceExt as _;
use ucloud_types::{
    Host, Network,
    condition::{READY, is_true},
    host::HostRole,
    network::Ipam,
};

use crate::runtime::{is_deleting, uid_of};

/// The router of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Router {
    /// A network without address management has none.
    Unneeded,
    /// This host, and whether it is Ready.
    Host {
        /// Its name.
        name: String,
        /// Whether it is Ready.
        ready: bool,
    },
    /// No host can be it.
    Missing,
}

impl Router {
    /// The host's name.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Host { name, .. } => Some(name),
            Self::Unneeded | Self::Missing => None,
        }
    }
}

fn is_ready(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY))
}

fn can_stay(host: &Host) -> bool {
    host.spec.roles.contains(&HostRole::Router) && !is_deleting(host)
}

/// What of a host decides whether it can be a router: a change of anything else is no news.
pub fn aspect(host: &Host) -> (bool, bool, bool) {
    (is_ready(host), can_stay(host), host.spec.unschedulable)
}

/// The router of `network`. It stays where it is as long as that host is there and has the role: moving a gateway
/// interrupts it, and a host whose agent is silent may still forward. A new one is the Ready router host that carries
/// the fewest (`load` tells, and is asked only then); among equals, networks that choose at the same time choose differently.
pub fn choose(network: &Network, hosts: &[Arc<Host>], load: impl FnOnce() -> HashMap<String, usize>) -> Router {
    if network.spec.effective_ipam() == Ipam::None {
        return Router::Unneeded;
    }
    let current = network.status.as_ref().and_then(|status| status.router.as_deref());
    let chosen = |host: &Host| Router::Host { name: host.name_any(), ready: is_ready(host) };
    if let Some(host) = hosts.iter().find(|host| Some(host.name_any().as_str()) == current && can_stay(host)) {
        return chosen(host);
    }
    let load = load();
    let rank = |host: &&Arc<Host>| {
        let name = host.name_any();
        let mut hasher = FnvHasher::default();
        hasher.write(uid_of(network).as_bytes());
        hasher.write(name.as_bytes());
        (Reverse(load.get(&name).copied().unwrap_or_default()), hasher.finish(), name)
    };
    hosts
        .iter()
        .filter(|host| can_stay(host) && is_ready(host) && !host.spec.unschedulable)
        .max_by_key(rank)
        .map_or(Router::Missing, |host| chosen(host))
}

/// How many networks each host carries.
pub fn load(networks: &[Arc<Network>]) -> HashMap<String, usize> {
    let mut load = HashMap::new();
    for router in networks.iter().filter_map(|network| network.status.as_ref()?.router.clone()) {
        *load.entry(router).or_default() += 1;
    }
    load
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::{network, router_host};

    fn hosts(names: &[&str]) -> Vec<Arc<Host>> {
        names.iter().map(|name| Arc::new(router_host(name))).collect()
    }

    fn with_router(name: &str, router: &str) -> Network {
        let mut network = network(name);
        network.status.get_or_insert_default().router = Some(router.into());
        network
    }

    #[test]
    fn the_least_loaded_ready_router_is_chosen() {
        let mut hosts = hosts(&["a", "b", "c", "d", "e"]);
        Arc::make_mut(&mut hosts[2]).spec.roles.clear();
        Arc::make_mut(&mut hosts[3]).status = None;
        Arc::make_mut(&mut hosts[4]).spec.unschedulable = true;
        let load = || load(&[Arc::new(with_router("x", "a"))]);
        assert_eq!(choose(&network("n"), &hosts, load).host(), Some("b"));
        assert_eq!(choose(&network("n"), &hosts[2..], load), Router::Missing);
    }

    #[test]
    fn a_router_stays_while_its_host_has_the_role() {
        let mut hosts = hosts(&["a", "b"]);
        let busy = || HashMap::from([("b".to_owned(), 9)]);
        let network = with_router("n", "b");
        assert_eq!(choose(&network, &hosts, busy), Router::Host { name: "b".into(), ready: true });
        Arc::make_mut(&mut hosts[1]).status = None;
        assert_eq!(choose(&network, &hosts, busy), Router::Host { name: "b".into(), ready: false });
        Arc::make_mut(&mut hosts[1]).spec.roles.clear();
        assert_eq!(choose(&network, &hosts, busy).host(), Some("a"));
        assert_eq!(choose(&network, &hosts[..1], busy).host(), Some("a"), "its host is gone");
    }

    #[test]
    fn networks_that_choose_at_once_spread() {
        let hosts = hosts(&["a", "b"]);
        let chosen: Vec<_> = (0..40)
            .map(|n| choose(&network(&n.to_string()), &hosts, HashMap::new).host().unwrap().to_owned())
            .collect();
        let on_a = chosen.iter().filter(|host| *host == "a").count();
        assert!((8..=32).contains(&on_a), "{on_a} of 40 on one of two hosts");
    }

    #[test]
    fn layer_2_alone_needs_none() {
        let mut network = network("n");
        network.spec.ipam = Some(Ipam::None);
        assert_eq!(choose(&network, &hosts(&["a"]), HashMap::new), Router::Unneeded);
    }
}
