//! What a network's status is to say. Pure.

use ucloud_types::{
    Network, NetworkAllocationSpec, NetworkStatus,
    condition::{self, Finding, READY, ROUTED, Verdict},
    network::Ipam,
};

use super::router::{Router, State};
use crate::runtime::report::{find, status_of};

/// The status of a network that has its allocation.
pub fn served(network: &Network, allocation: &NetworkAllocationSpec, router: &Router) -> NetworkStatus {
    let ipam = network.spec.effective_ipam();
    let prefix = (ipam != Ipam::None).then_some(allocation.prefix);
    let mut status = NetworkStatus {
        ipam: Some(ipam),
        vni: allocation.vni,
        prefix,
        gateway: prefix.map(ucloud_types::Ipv6Prefix::gateway),
        router: router.host().map(str::to_owned),
        observed_generation: network.metadata.generation,
        conditions: status_of(network).conditions,
    };
    find(network, &mut status, &ready(router));
    match routed(router) {
        Some(routed) => find(network, &mut status, &routed),
        None => {
            condition::clear(&mut status.conditions, ROUTED);
        }
    }
    status
}

const SILENT: &str = "RouterSilent";
const NO_ROUTER: &str = "NoRouter";

/// Whether VMs can be attached and find what the network promises. That its router has the gateway up is not waited for.
fn ready(router: &Router) -> Finding {
    let finding = |verdict, reason, message: String| Finding::new(READY, verdict, reason, message);
    match router {
        Router::Unneeded => finding(Verdict::True, "Ready", "VMs can be attached".to_owned()),
        Router::Host { name, state: State::Routing | State::Pending } => {
            finding(Verdict::True, "Ready", format!("VMs can be attached; host {name} carries the gateway"))
        }
        Router::Host { name, state: State::NotReady } => finding(
            Verdict::Unknown,
            "RouterNotReady",
            format!("host {name}, which carries the gateway, is not Ready: see its conditions"),
        ),
        Router::Host { state: State::Silent | State::Held, .. } | Router::Missing => {
            let Finding { verdict, reason, message, .. } = unrouted(router);
            finding(verdict, reason, message)
        }
    }
}

/// Whether the gateway is up; none for a network that has none.
fn routed(router: &Router) -> Option<Finding> {
    let finding = |verdict, reason, message: String| Some(Finding::new(ROUTED, verdict, reason, message));
    match router {
        Router::Unneeded => None,
        Router::Host { name, state: State::Routing } => {
            finding(Verdict::True, "Routed", format!("host {name} has the gateway"))
        }
        Router::Host { name, state: State::Pending } => finding(
            Verdict::False,
            "GatewayPending",
            format!("host {name} is about to bring the gateway up; where it does not, its agent's log says why"),
        ),
        Router::Host { name, state: State::NotReady } => {
            finding(Verdict::Unknown, "RouterNotReady", format!("host {name} is not Ready: see its conditions"))
        }
        Router::Host { state: State::Silent | State::Held, .. } | Router::Missing => Some(unrouted(router)),
    }
}

/// Why nobody can be relied on to route.
fn unrouted(router: &Router) -> Finding {
    let finding = |verdict, reason, message: String| Finding::new(ROUTED, verdict, reason, message);
    match router {
        Router::Host { name, state: State::Held } => finding(
            Verdict::Unknown,
            SILENT,
            format!(
                "host {name}, which carries the gateway, is silent, as are most routers: nothing is moved, as they may \
                 route on. See whether the routers reach the API server; to have it moved all the same, take the role \
                 router from {name}"
            ),
        ),
        Router::Host { name, .. } => finding(
            Verdict::Unknown,
            SILENT,
            format!(
                "host {name}, which carries the gateway, is silent, and no other router can take over: see to {name}, \
                 or start ucloud-agent with the role router on another host"
            ),
        ),
        _ => finding(
            Verdict::False,
            NO_ROUTER,
            "no host can carry the gateway, and the network is layer 2 alone meanwhile: start ucloud-agent with the \
             role router, or wait until such a host is Ready"
                .to_owned(),
        ),
    }
}

/// The status of a network that cannot have an allocation: `why` says what is missing. What it had, it keeps.
pub fn unserved(network: &Network, why: &Finding) -> NetworkStatus {
    let mut status = status_of(network);
    status.ipam = Some(network.spec.effective_ipam());
    status.observed_generation = network.metadata.generation;
    find(network, &mut status, why);
    status
}

/// The pool that the network asks for is not there.
pub fn pool_not_found(pool: &str) -> Finding {
    let message = format!("NetworkPool {pool} does not exist: create it, or make the network again with another pool");
    Finding::new(READY, Verdict::False, "PoolNotFound", message)
}

#[cfg(test)]
mod tests {
    use ucloud_types::condition::get;

    use super::*;
    use crate::network::testing::{allocation, network};

    fn on(state: State) -> Router {
        Router::Host { name: "h1".into(), state }
    }

    #[test]
    fn address_management_brings_prefix_gateway_and_router() {
        let allocation = allocation("default", 105, "uid-n").spec;
        let status = served(&network("n"), &allocation, &on(State::Routing));
        assert_eq!(status.prefix, Some("fd00:0:0:5::/64".parse().unwrap()));
        assert_eq!(status.gateway, Some("fd00:0:0:5::1".parse().unwrap()));
        assert_eq!((status.router.as_deref(), status.ipam), (Some("h1"), Some(Ipam::Automatic)));

        let mut layer2 = network("n");
        layer2.spec.ipam = Some(Ipam::None);
        let status = served(&layer2, &allocation, &Router::Unneeded);
        assert_eq!((status.prefix, status.gateway, status.router), (None, None, None));
        assert_eq!(status.vni, allocation.vni);
    }

    #[test]
    fn what_the_router_is_shows_in_two_conditions() {
        let allocation = allocation("default", 105, "uid-n").spec;
        let reasons = |router: &Router| {
            let status = served(&network("n"), &allocation, router);
            assert!(status.prefix.is_some() && status.vni.is_some(), "VMs can be attached in any case");
            [READY, ROUTED].map(|type_| {
                let condition = get(&status.conditions, type_).unwrap();
                (condition.status.clone(), condition.reason.clone())
            })
        };
        for (router, ready, routed) in [
            (on(State::Routing), ("True", "Ready"), ("True", "Routed")),
            (on(State::Pending), ("True", "Ready"), ("False", "GatewayPending")),
            (on(State::NotReady), ("Unknown", "RouterNotReady"), ("Unknown", "RouterNotReady")),
            (on(State::Silent), ("Unknown", "RouterSilent"), ("Unknown", "RouterSilent")),
            (on(State::Held), ("Unknown", "RouterSilent"), ("Unknown", "RouterSilent")),
            (Router::Missing, ("False", "NoRouter"), ("False", "NoRouter")),
        ] {
            let expected = [ready, routed].map(|(status, reason)| (status.to_owned(), reason.to_owned()));
            assert_eq!(reasons(&router), expected, "{router:?}");
        }
    }

    #[test]
    fn a_network_that_becomes_layer_2_alone_keeps_its_vni_only() {
        let allocation = allocation("default", 105, "uid-n").spec;
        let mut network = network("n");
        network.status = Some(served(&network, &allocation, &on(State::Routing)));
        network.spec.ipam = Some(Ipam::None);
        let status = served(&network, &allocation, &Router::Unneeded);
        assert_eq!((status.prefix, status.gateway, status.router), (None, None, None));
        assert_eq!(status.vni, allocation.vni);
        assert!(get(&status.conditions, ROUTED).is_none());
    }

    /// Pattern 13: a plan from a status that was planned before is that status.
    #[test]
    fn planning_again_changes_nothing() {
        let allocation = allocation("default", 105, "uid-n").spec;
        let mut network = network("n");
        let status = served(&network, &allocation, &on(State::Routing));
        network.status = Some(status.clone());
        assert_eq!(served(&network, &allocation, &on(State::Routing)), status);
        network.status = Some(unserved(&network, &pool_not_found("default")));
        assert_eq!(Some(unserved(&network, &pool_not_found("default"))), network.status);
    }
}
