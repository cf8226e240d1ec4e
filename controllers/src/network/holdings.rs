//! Who holds how much of a pool. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt as _;
use ucloud_types::{
    Host, Network, NetworkAllocation, NetworkPool, Vni,
    condition::{Finding, READY, Verdict},
};

/// How many projects a message names.
const NAMED: usize = 5;

/// Who holds how much of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holdings {
    pool: String,
    size: u64,
    /// How many networks each project has.
    projects: BTreeMap<String, u64>,
    /// For how many more VNIs hosts still have devices.
    on_hosts: u64,
}

impl Holdings {
    /// Counts what is taken of the pool.
    pub fn of(pool: &NetworkPool, allocations: &[Arc<NetworkAllocation>], hosts: &[Arc<Host>]) -> Self {
        let name = pool.name_any();
        let mut projects: BTreeMap<String, u64> = BTreeMap::new();
        let mut vnis: BTreeSet<Vni> = BTreeSet::new();
        for allocation in allocations.iter().filter(|allocation| allocation.spec.pool == name) {
            if allocation.spec.vni.is_some_and(|vni| vnis.insert(vni)) {
                *projects.entry(allocation.spec.namespace.clone()).or_default() += 1;
            }
        }
        let range = pool.spec.vni_range.first..=pool.spec.vni_range.last;
        let networks = hosts.iter().filter_map(|host| host.status.as_ref()).flat_map(|status| &status.networks);
        let left_over = networks.map(|network| network.vni).filter(|vni| range.contains(vni) && !vnis.contains(vni));
        let on_hosts = left_over.collect::<BTreeSet<_>>().len();
        let on_hosts = u64::try_from(on_hosts).unwrap_or(u64::MAX);
        Self { pool: name, size: pool.spec.size(), projects, on_hosts }
    }

    /// How many networks the pool serves.
    pub fn allocated(&self) -> u64 {
        self.projects.values().sum()
    }

    /// How many more it can serve.
    pub fn left(&self) -> u64 {
        self.size.saturating_sub(self.allocated() + self.on_hosts)
    }

    /// Nothing is left: who holds it, for those who run the installation.
    pub fn exhausted(&self) -> Option<Finding> {
        if self.left() > 0 || self.size == 0 {
            return None;
        }
        let mut most: Vec<_> = self.projects.iter().collect();
        most.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), (*name).clone()));
        let mut holders: Vec<_> =
            most.iter().take(NAMED).map(|(name, count)| format!("{name} holds {count}")).collect();
        if let Some(first) = holders.first_mut() {
            first.insert_str(0, "project ");
        }
        if most.len() > NAMED {
            let rest: u64 = most[NAMED..].iter().map(|(_, count)| **count).sum();
            holders.push(format!("{} more projects {rest}", most.len() - NAMED));
        }
        Some(self.finding("Exhausted", holders, "add a pool, or delete networks"))
    }

    /// Nothing is left for this network. What other projects are called is none of this project's business.
    pub fn exhausted_for(&self, network: &Network) -> Finding {
        let own = network.namespace().and_then(|name| self.projects.get(&name).copied()).unwrap_or(0);
        let holders = vec![format!("this project holds {own}"), format!("others hold {}", self.allocated() - own)];
        self.finding("PoolExhausted", holders, "delete networks, or ask the operator for more")
    }

    fn finding(&self, reason: &'static str, mut holders: Vec<String>, advice: &str) -> Finding {
        if self.on_hosts > 0 {
            holders.push(format!("hosts still have devices of {}", self.on_hosts));
        }
        let message =
            format!("pool {} has {} of {} left: {}; {advice}", self.pool, self.left(), self.size, holders.join(", "));
        Finding::new(READY, Verdict::False, reason, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::{allocation, network, pool, router_host, vni};

    fn held(by: &[(&str, u32)]) -> Vec<Arc<NetworkAllocation>> {
        let mut all = Vec::new();
        for (namespace, count) in by {
            for _ in 0..*count {
                let mut one = allocation("default", 100 + u32::try_from(all.len()).unwrap(), "u");
                one.spec.namespace = (*namespace).to_owned();
                all.push(Arc::new(one));
            }
        }
        all
    }

    #[test]
    fn exhaustion_tells_who_holds_what() {
        let pool = pool("default", "fd00::/48", 100, 115);
        let message = |by: &[(&str, u32)]| Holdings::of(&pool, &held(by), &[]).exhausted().map(|found| found.message);
        assert_eq!(message(&[("a", 9), ("b", 6)]), None);
        assert_eq!(
            message(&[("b", 7), ("a", 9)]).unwrap(),
            "pool default has 0 of 16 left: project a holds 9, b holds 7; add a pool, or delete networks"
        );
        let many = [("a", 1), ("b", 2), ("c", 2), ("d", 2), ("e", 2), ("f", 2), ("g", 5)];
        assert!(
            message(&many)
                .unwrap()
                .contains("project g holds 5, b holds 2, c holds 2, d holds 2, e holds 2, 2 more projects 3;")
        );
        let told = Holdings::of(&pool, &held(&[("p", 9), ("secret", 7)]), &[]).exhausted_for(&network("n"));
        assert_eq!(
            told.message,
            "pool default has 0 of 16 left: this project holds 9, others hold 7; delete networks, or ask the operator for more"
        );
    }

    #[test]
    fn what_only_hosts_have_and_claims_on_prefixes_are_told_apart() {
        let pool = pool("default", "fd00::/48", 100, 101);
        let mut host = router_host("h1");
        let networks = [99, 100, 101].map(|number| ucloud_types::host::HostNetwork {
            uid: "u".into(),
            vni: vni(number),
            routed: false,
        });
        host.status.get_or_insert_default().networks = networks.to_vec();
        let mut claim = allocation("default", 101, "u");
        claim.spec.vni = None;
        let allocations = [Arc::new(allocation("default", 100, "u")), Arc::new(claim)];
        let holdings = Holdings::of(&pool, &allocations, &[Arc::new(host)]);
        assert_eq!((holdings.allocated(), holdings.left()), (1, 0));
        assert!(holdings.exhausted().unwrap().message.contains("hosts still have devices of 1;"));
    }
}
