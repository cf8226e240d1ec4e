//! What a network's status is to say. Pure.

use ucloud_types::{
    Network, NetworkAllocationSpec, NetworkStatus,
    condition::{Finding, READY, Verdict},
    network::Ipam,
};

use super::router::Router;
use crate::runtime::report::{find, status_of};

/// The status of a network that has its allocation.
pub fn served(network: &Network, allocation: &NetworkAllocationSpec, router: &Router) -> NetworkStatus {
    let ipam = network.spec.effective_ipam();
    let prefix = (ipam != Ipam::None).then_some(allocation.prefix);
    let mut status = NetworkStatus {
        ipam: Some(ipam),
        vni: Some(allocation.vni),
        prefix,
        gateway: prefix.map(ucloud_types::Ipv6Prefix::gateway),
        router: router.host().map(str::to_owned),
        observed_generation: network.metadata.generation,
        conditions: status_of(network).conditions,
    };
    find(network, &mut status, &ready(router));
    status
}

fn ready(router: &Router) -> Finding {
    let finding = |verdict, reason, message: String| Finding::new(READY, verdict, reason, message);
    match router {
        Router::Unneeded => finding(Verdict::True, "Ready", "VMs can be attached".to_owned()),
        Router::Host { name, ready: true } => {
            finding(Verdict::True, "Ready", format!("VMs can be attached; host {name} carries the gateway"))
        }
        Router::Host { name, ready: false } => finding(
            Verdict::Unknown,
            "RouterNotReady",
            format!("host {name}, which carries the gateway, is not Ready: see its conditions"),
        ),
        Router::Missing => finding(
            Verdict::False,
            "NoRouter",
            "no host can carry the gateway: start ucloud-agent with the role router, or wait until such a host is Ready"
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

/// The pool has no free slot.
pub fn pool_exhausted(pool: &str, size: u64) -> Finding {
    let message = format!("pool {pool} has no free networks ({size} of {size} in use)");
    Finding::new(READY, Verdict::False, "PoolExhausted", message)
}

#[cfg(test)]
mod tests {
    use ucloud_types::condition::get;

    use super::*;
    use crate::network::testing::{allocation, network};

    fn on(ready: bool) -> Router {
        Router::Host { name: "h1".into(), ready }
    }

    #[test]
    fn address_management_brings_prefix_gateway_and_router() {
        let allocation = allocation("default", 105, "uid-n").spec;
        let status = served(&network("n"), &allocation, &on(true));
        assert_eq!(status.prefix, Some("fd00:0:0:5::/64".parse().unwrap()));
        assert_eq!(status.gateway, Some("fd00:0:0:5::1".parse().unwrap()));
        assert_eq!((status.router.as_deref(), status.ipam), (Some("h1"), Some(Ipam::Automatic)));

        let mut layer2 = network("n");
        layer2.spec.ipam = Some(Ipam::None);
        let status = served(&layer2, &allocation, &Router::Unneeded);
        assert_eq!((status.prefix, status.gateway, status.router), (None, None, None));
        assert_eq!(status.vni, Some(allocation.vni));
    }

    #[test]
    fn without_a_router_it_has_a_prefix_and_is_not_ready() {
        let allocation = allocation("default", 105, "uid-n").spec;
        for (router, reason) in [(Router::Missing, "NoRouter"), (on(false), "RouterNotReady"), (on(true), "Ready")] {
            let status = served(&network("n"), &allocation, &router);
            assert_eq!(get(&status.conditions, READY).unwrap().reason, reason);
            assert!(status.prefix.is_some());
        }
    }

    /// Pattern 13: a plan from a status that was planned before is that status.
    #[test]
    fn planning_again_changes_nothing() {
        let allocation = allocation("default", 105, "uid-n").spec;
        let mut network = network("n");
        let status = served(&network, &allocation, &on(true));
        network.status = Some(status.clone());
        assert_eq!(served(&network, &allocation, &on(true)), status);
        network.status = Some(unserved(&network, &pool_exhausted("default", 100)));
        assert_eq!(Some(unserved(&network, &pool_exhausted("default", 100))), network.status);
        let message = &get(&network.status.unwrap().conditions, READY).unwrap().message.clone();
        assert_eq!(message, "pool default has no free networks (100 of 100 in use)");
    }
}
