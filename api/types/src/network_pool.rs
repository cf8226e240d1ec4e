//! NetworkPool: where networks get their VNIs and prefixes from.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ipv6Prefix, Vni, condition::Condition};

/// Where networks get their VNIs and prefixes from.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "NetworkPool",
    plural = "networkpools",
    singular = "networkpool",
    shortname = "netpool",
    status = "NetworkPoolStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "Where networks get their VNIs and prefixes from.",
    printcolumn(name = "Prefix", type_ = "string", json_path = ".spec.prefix"),
    printcolumn(name = "Allocated", type_ = "integer", json_path = ".status.allocated"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPoolSpec {
    /// The prefix out of which each network gets a /64, such as fd00:1234::/48. It cannot be changed, and
    /// must not overlap with that of another pool.
    pub prefix: Ipv6Prefix,
    /// The VNIs that networks get. It cannot be changed, and must not overlap with that of another pool.
    pub vni_range: VniRange,

    /// The projects (namespaces) that may take networks from the pool; all where none is named. Networks that have theirs
    /// keep it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,

    /// Prefixes that projects may bring along: a network with such a prefix takes its VNI alone from the pool.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1024), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["prefix"]))]
    pub own_prefixes: Vec<OwnPrefix>,
}

/// A prefix that projects may bring along.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OwnPrefix {
    /// The prefix, a /64 or shorter. It must not overlap with what any pool hands out, nor with the underlay.
    pub prefix: Ipv6Prefix,
    /// The projects (namespaces) whose networks may have a /64 of it. To tell the one from the other is their affair.
    #[schemars(length(min = 1, max = 64), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,
}

/// A range of VNIs, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VniRange {
    /// The first.
    pub first: Vni,
    /// The last.
    pub last: Vni,
}

impl VniRange {
    /// How many VNIs there are in the range; 0 where the last comes before the first.
    pub const fn size(self) -> u64 {
        (self.last.get() as u64 + 1).saturating_sub(self.first.get() as u64)
    }

    /// Whether the two share a VNI.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl NetworkPoolSpec {
    /// The length of the prefix that each network gets.
    pub const NETWORK_PREFIX_LENGTH: u8 = 64;

    /// How many networks the pool can serve: as many as it has both VNIs and prefixes for.
    pub fn size(&self) -> u64 {
        let prefixes = match Self::NETWORK_PREFIX_LENGTH.checked_sub(self.prefix.length()) {
            None => 0,
            Some(bits) => 1u64.checked_shl(u32::from(bits)).unwrap_or(u64::MAX),
        };
        prefixes.min(self.vni_range.size())
    }

    /// Whether networks of this project may be taken from the pool.
    pub fn admits(&self, namespace: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.iter().any(|admitted| admitted == namespace)
    }

    /// Whether networks of this project may bring this prefix along.
    pub fn permits(&self, namespace: &str, prefix: Ipv6Prefix) -> bool {
        self.own_prefixes.iter().any(|own| {
            own.prefix.length() <= prefix.length()
                && own.prefix.contains(prefix.network())
                && own.namespaces.iter().any(|permitted| permitted == namespace)
        })
    }

    /// The VNI and prefix with this index, counted from zero. None behind the end of the pool.
    pub fn slot(&self, index: u64) -> Option<(Vni, Ipv6Prefix)> {
        let vni = u32::try_from(index)
            .ok()
            .filter(|_| index < self.size())
            .and_then(|i| Vni::new(self.vni_range.first.get() + i))?;
        Some((vni, self.prefix.subnet(Self::NETWORK_PREFIX_LENGTH, index)?))
    }
}

/// What is known of a pool. Written by the network controller alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPoolStatus {
    /// How many networks the pool serves.
    #[serde(default)]
    pub allocated: u64,
    /// How many more it can serve.
    #[serde(default)]
    pub free: u64,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(prefix: &str, first: u32, last: u32) -> NetworkPoolSpec {
        NetworkPoolSpec {
            prefix: prefix.parse().unwrap(),
            vni_range: VniRange { first: Vni::new(first).unwrap(), last: Vni::new(last).unwrap() },
            namespaces: Vec::new(),
            own_prefixes: Vec::new(),
        }
    }

    #[test]
    fn a_pool_serves_what_it_has_both_of() {
        assert_eq!(pool("fd00::/48", 100, 199).size(), 100);
        assert_eq!(pool("fd00::/62", 100, 199).size(), 4);
        assert_eq!(pool("fd00::/65", 100, 199).size(), 0);
        assert_eq!(pool("::/0", 1, Vni::MAX).size(), u64::from(Vni::MAX));
        assert_eq!(pool("fd00::/48", 7, 6).size(), 0);
    }

    #[test]
    fn a_pool_is_open_to_all_or_to_those_that_it_names() {
        let mut pool = pool("fd00::/48", 100, 199);
        assert!(pool.admits("a"));
        pool.namespaces = vec!["a".into()];
        assert!(pool.admits("a") && !pool.admits("b"));
    }

    #[test]
    fn a_prefix_of_ones_own_is_permitted_by_name() {
        let mut pool = pool("fd00::/48", 100, 199);
        let own = OwnPrefix { prefix: "2001:db8::/48".parse().unwrap(), namespaces: vec!["a".into()] };
        pool.own_prefixes = vec![own];
        for (namespace, prefix, permitted) in [
            ("a", "2001:db8:0:7::/64", true),
            ("b", "2001:db8:0:7::/64", false),
            ("a", "2001:db8:1::/64", false),
            ("a", "2001:db8::/32", false),
        ] {
            assert_eq!(pool.permits(namespace, prefix.parse().unwrap()), permitted, "{namespace} {prefix}");
        }
    }

    #[test]
    fn slots_pair_vni_and_prefix_by_index() {
        let pool = pool("fd00::/62", 100, 199);
        assert_eq!(pool.slot(3), Some((Vni::new(103).unwrap(), "fd00:0:0:3::/64".parse().unwrap())));
        assert_eq!(pool.slot(4), None);
    }
}
