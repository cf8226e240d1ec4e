//! Whether a network may have what its spec asks for: the pool, and a prefix of its own. Pure.
//!
//! The API server refuses what it can see. What it could not see, or was taken back since, is said here.

use std::{net::IpAddr, sync::Arc};

use kube::ResourceExt as _;
use ucloud_types::{
    Host, Ipv6Prefix, Network, NetworkPool,
    condition::{Finding, READY, Verdict},
};

/// Why the network gets nothing from this pool; `all` are the pools, `hosts` the hosts.
pub fn refusal(
    network: &Network,
    pool: &NetworkPool,
    all: &[Arc<NetworkPool>],
    hosts: &[Arc<Host>],
) -> Option<Finding> {
    let (namespace, name) = (network.namespace().unwrap_or_default(), pool.name_any());
    if !pool.spec.admits(&namespace) {
        let message = format!(
            "NetworkPool {name} is not for project {namespace}: ask its operator, or make the network again with another"
        );
        return Some(finding("PoolNotPermitted", message));
    }
    let prefix = network.spec.prefix?;
    if !pool.spec.permits(&namespace, prefix) {
        let message =
            format!("NetworkPool {name} does not let project {namespace} bring {prefix} along: ask its operator");
        return Some(finding("PrefixNotPermitted", message));
    }
    if let Some(other) = all.iter().find(|other| other.spec.prefix.overlaps(prefix)) {
        let message =
            format!("{prefix} overlaps with what NetworkPool {} hands out: ask its operator", other.name_any());
        return Some(finding("PrefixOverlaps", message));
    }
    let in_prefix = |address: &IpAddr| matches!(address, IpAddr::V6(address) if prefix.contains(*address));
    let mut addresses = hosts.iter().filter_map(|host| host.status.as_ref()).flat_map(|status| &status.addresses);
    addresses.any(in_prefix).then(|| {
        finding("PrefixOverlaps", format!("{prefix} is part of the network that connects the hosts: use another"))
    })
}

/// Another network has the prefix.
pub fn taken(prefix: Ipv6Prefix) -> Finding {
    finding(
        "PrefixInUse",
        format!("another network has the prefix {prefix}: use another, or wait until that one is gone"),
    )
}

fn finding(reason: &'static str, message: String) -> Finding {
    Finding::new(READY, Verdict::False, reason, message)
}

#[cfg(test)]
mod tests {
    use ucloud_types::network_pool::OwnPrefix;

    use super::*;
    use crate::network::testing::{network, pool, router_host};

    #[test]
    fn what_a_network_may_not_have_is_said() {
        let mut host = router_host("h1");
        host.status.get_or_insert_default().addresses = vec!["fd99::1".parse().unwrap()];
        let hosts = [Arc::new(host)];
        let mut pool = pool("default", "fd00::/48", 100, 199);
        let reason = |network: &Network, pool: &NetworkPool| {
            refusal(network, pool, &[Arc::new(pool.clone())], &hosts).map(|finding| finding.reason)
        };
        let mut network = network("n");
        assert_eq!(reason(&network, &pool), None);
        network.spec.prefix = Some("2001:db8::/64".parse().unwrap());
        assert_eq!(reason(&network, &pool), Some("PrefixNotPermitted"));
        pool.spec.own_prefixes = vec![OwnPrefix { prefix: "::/0".parse().unwrap(), namespaces: vec!["p".into()] }];
        assert_eq!(reason(&network, &pool), None);
        for overlapping in ["fd00:0:0:7::/64", "fd99::/64"] {
            network.spec.prefix = Some(overlapping.parse().unwrap());
            assert_eq!(reason(&network, &pool), Some("PrefixOverlaps"), "{overlapping}");
        }
        pool.spec.namespaces = vec!["other".into()];
        assert_eq!(reason(&network, &pool), Some("PoolNotPermitted"));
    }
}
