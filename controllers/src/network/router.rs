//! Which host carries the gateway of a network. Pure.

use std::{cmp::Reverse, collections::HashMap, hash::Hasher as _, sync::Arc};

use fnv::FnvHasher;
use kube::ResourceExt as _;
use ucloud_types::{
    Host, Network,
    condition::{READY, is_true},
    host::{HostNetwork, HostRole},
    network::Ipam,
};

use super::life::Life;
use crate::runtime::{is_deleting, uid_of};

/// The router of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Router {
    /// A network without address management has none.
    Unneeded,
    /// This host.
    Host {
        /// Its name.
        name: String,
        /// How it is.
        state: State,
    },
    /// No host can be it.
    Missing,
}

/// How a router is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has the gateway.
    Routing,
    /// It lives, and has yet to bring the gateway up.
    Pending,
    /// It lives, and says that something is wrong with it.
    NotReady,
    /// It is silent, and there is no other to take over.
    Silent,
    /// It is silent, and so are so many others that nothing is moved.
    Held,
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

/// Whether the host has the role router.
pub fn is_router(host: &Host) -> bool {
    host.spec.roles.contains(&HostRole::Router) && !is_deleting(host)
}

fn is_ready(host: &Host) -> bool {
    host.status.as_ref().is_some_and(|status| is_true(&status.conditions, READY))
}

/// What of a host decides whether it can be a router: a change of anything else is no news.
pub fn aspect(host: &Host) -> (bool, bool, bool) {
    (is_ready(host), is_router(host), host.spec.unschedulable)
}

/// What the host has of networks.
pub fn networks(host: &Host) -> &[HostNetwork] {
    host.status.as_ref().map(|status| status.networks.as_slice()).unwrap_or_default()
}

/// Why the network leaves the host that carries its gateway; none if it stays.
pub fn why_leave(name: &str, host: Option<&Host>, life: Life) -> Option<String> {
    match host {
        None => Some(format!("Host {name} is gone")),
        Some(host) if !is_router(host) => Some(format!("host {name} has not the role router any more")),
        Some(host) if host.spec.unschedulable => Some(format!("host {name} is unschedulable")),
        Some(_) if life == Life::Dead => Some(format!("host {name} does not renew its lease any more")),
        Some(_) => None,
    }
}

/// The router of `network`. It stays where it is as long as that host lives, has the role and takes new work, and does
/// not come back to one that it left: each move interrupts it. A new one is the living, Ready router host that carries
/// the fewest (`load` tells, and is asked only then); among equals, networks that choose at the same time choose
/// differently. Where there is no other, a host that has the role keeps it.
pub fn choose(
    network: &Network,
    hosts: &[Arc<Host>],
    life: impl Fn(&str) -> Life,
    load: impl FnOnce() -> HashMap<String, usize>,
) -> Router {
    if network.spec.effective_ipam() == Ipam::None {
        return Router::Unneeded;
    }
    let chosen = |host: &Arc<Host>| {
        let name = host.name_any();
        let has_gateway = networks(host).iter().any(|n| n.routed && n.uid == uid_of(network));
        let state = match life(&name) {
            Life::Dead => State::Silent,
            Life::Held => State::Held,
            Life::Alive if !is_ready(host) => State::NotReady,
            Life::Alive if has_gateway => State::Routing,
            Life::Alive => State::Pending,
        };
        Router::Host { name, state }
    };
    let current = network.status.as_ref().and_then(|status| status.router.as_deref());
    let current = current.and_then(|current| hosts.iter().find(|host| host.name_any() == current));
    if let Some(host) = current
        && why_leave(&host.name_any(), Some(host), life(&host.name_any())).is_none()
    {
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
    let is_fit = |host: &&Arc<Host>| {
        is_router(host) && is_ready(host) && !host.spec.unschedulable && life(&host.name_any()) == Life::Alive
    };
    let kept = || current.filter(|host| is_router(host));
    hosts.iter().filter(is_fit).max_by_key(rank).or_else(kept).map_or(Router::Missing, chosen)
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
    use crate::network::testing::{network, router_host, vni};

    fn hosts(names: &[&str]) -> Vec<Arc<Host>> {
        names.iter().map(|name| Arc::new(router_host(name))).collect()
    }

    fn with_router(name: &str, router: &str) -> Network {
        let mut network = network(name);
        network.status.get_or_insert_default().router = Some(router.into());
        network
    }

    fn all_alive(_: &str) -> Life {
        Life::Alive
    }

    fn on(name: &str, state: State) -> Router {
        Router::Host { name: name.into(), state }
    }

    #[test]
    fn the_least_loaded_ready_router_is_chosen() {
        let mut hosts = hosts(&["a", "b", "c", "d", "e", "f"]);
        Arc::make_mut(&mut hosts[2]).spec.roles.clear();
        Arc::make_mut(&mut hosts[3]).status = None;
        Arc::make_mut(&mut hosts[4]).spec.unschedulable = true;
        let load = || load(&[Arc::new(with_router("x", "a"))]);
        let life = |name: &str| if name == "f" { Life::Held } else { Life::Alive };
        assert_eq!(choose(&network("n"), &hosts, life, load).host(), Some("b"));
        assert_eq!(choose(&network("n"), &hosts[2..], life, load), Router::Missing);
    }

    #[test]
    fn a_router_stays_while_it_lives_and_has_the_role() {
        let mut hosts = hosts(&["a", "b"]);
        let busy = || HashMap::from([("b".to_owned(), 9)]);
        let network = with_router("n", "b");
        assert_eq!(choose(&network, &hosts, all_alive, busy), on("b", State::Pending));
        let has = HostNetwork { uid: "uid-n".into(), vni: vni(100), routed: true };
        Arc::make_mut(&mut hosts[1]).status.as_mut().unwrap().networks = vec![has];
        assert_eq!(choose(&network, &hosts, all_alive, busy), on("b", State::Routing));
        Arc::make_mut(&mut hosts[1]).status = None;
        assert_eq!(choose(&network, &hosts, all_alive, busy), on("b", State::NotReady));
        Arc::make_mut(&mut hosts[1]).spec.roles.clear();
        assert_eq!(choose(&network, &hosts, all_alive, busy).host(), Some("a"));
        assert_eq!(choose(&network, &hosts[..1], all_alive, busy).host(), Some("a"), "its host is gone");
        assert_eq!(choose(&network, &hosts[1..], all_alive, busy), Router::Missing, "no role, no router");
    }

    #[test]
    fn a_dead_router_is_left_for_another_and_for_none() {
        let hosts = hosts(&["a", "b"]);
        let network = with_router("n", "b");
        let b_is = |life: Life| move |name: &str| if name == "b" { life } else { Life::Alive };
        assert_eq!(choose(&network, &hosts, b_is(Life::Dead), HashMap::new).host(), Some("a"));
        assert_eq!(choose(&network, &hosts, b_is(Life::Held), HashMap::new), on("b", State::Held), "storm");
        assert_eq!(choose(&network, &hosts[1..], b_is(Life::Dead), HashMap::new), on("b", State::Silent));
        let both = |_: &str| Life::Dead;
        assert_eq!(choose(&network, &hosts, both, HashMap::new), on("b", State::Silent));
    }

    #[test]
    fn an_unschedulable_router_is_left_where_another_can_take_over() {
        let mut hosts = hosts(&["a", "b"]);
        Arc::make_mut(&mut hosts[1]).spec.unschedulable = true;
        let network = with_router("n", "b");
        assert_eq!(choose(&network, &hosts, all_alive, HashMap::new).host(), Some("a"));
        assert_eq!(choose(&network, &hosts[1..], all_alive, HashMap::new).host(), Some("b"));
    }

    #[test]
    fn networks_that_choose_at_once_spread() {
        let hosts = hosts(&["a", "b"]);
        let chosen: Vec<_> = (0..40)
            .map(|n| choose(&network(&n.to_string()), &hosts, all_alive, HashMap::new).host().unwrap().to_owned())
            .collect();
        let on_a = chosen.iter().filter(|host| *host == "a").count();
        assert!((8..=32).contains(&on_a), "{on_a} of 40 on one of two hosts");
    }

    #[test]
    fn layer_2_alone_needs_none() {
        let mut network = network("n");
        network.spec.ipam = Some(Ipam::None);
        assert_eq!(choose(&network, &hosts(&["a"]), all_alive, HashMap::new), Router::Unneeded);
    }
}
