//! In which order the slots of a pool are tried for a network. Pure.
//!
//! The order depends on the network's UID alone. So whoever allocates for one network, a retry after a lost reply or a
//! second process, tries the same slots and meets what was made before; and different networks start at different places.

use std::{collections::HashSet, hash::Hasher as _};

use fnv::FnvHasher;
use ucloud_types::{Ipv6Prefix, NetworkPoolSpec, Vni};

/// The slots of `pool` that are not known to be taken, in the order for this network. `first` comes before all others,
/// if it lies in the pool: the VNI that the network had already.
pub fn slots<'a>(
    pool: &'a NetworkPoolSpec,
    network_uid: &str,
    first: Option<Vni>,
    taken: &'a HashSet<Vni>,
) -> impl Iterator<Item = (Vni, Ipv6Prefix)> + 'a {
    let size = pool.size();
    let mut hasher = FnvHasher::default();
    hasher.write(network_uid.as_bytes());
    let start = hasher.finish().checked_rem(size).unwrap_or(0);
    let before = first
        .and_then(|vni| u64::from(vni.get()).checked_sub(pool.vni_range.first.get().into()))
        .filter(|index| *index < size);
    before
        .into_iter()
        .chain((0..size).map(move |n| (start + n) % size))
        .filter_map(|index| pool.slot(index))
        .filter(|(vni, _)| !taken.contains(vni))
}

#[cfg(test)]
mod tests {
    use ucloud_types::network_pool::VniRange;

    use super::*;

    fn vni(number: u32) -> Vni {
        Vni::new(number).unwrap()
    }

    fn pool(last: u32) -> NetworkPoolSpec {
        NetworkPoolSpec {
            prefix: "fd00::/48".parse().unwrap(),
            vni_range: VniRange { first: vni(100), last: vni(last) },
            namespaces: Vec::new(),
            own_prefixes: Vec::new(),
        }
    }

    fn order(pool: &NetworkPoolSpec, uid: &str, first: Option<Vni>, taken: &[u32]) -> Vec<u32> {
        let taken = taken.iter().copied().map(vni).collect();
        slots(pool, uid, first, &taken).map(|(vni, _)| vni.get()).collect()
    }

    #[test]
    fn every_slot_is_tried_once_in_an_order_of_the_networks_own() {
        let pool = pool(109);
        let mut seen = order(&pool, "uid-1", None, &[]);
        assert_eq!(seen, order(&pool, "uid-1", None, &[]), "a retry tries the same");
        assert_ne!(seen, order(&pool, "uid-2", None, &[]));
        seen.sort_unstable();
        assert_eq!(seen, (100..110).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_taken_is_left_out() {
        assert_eq!(order(&pool(102), "u", None, &[100, 102]), [101]);
        assert!(order(&pool(102), "u", None, &[100, 101, 102]).is_empty());
        assert!(order(&pool(99), "u", None, &[]).is_empty(), "an empty range");
    }

    #[test]
    fn the_vni_that_the_network_had_comes_first() {
        for first in 100..110 {
            assert_eq!(order(&pool(109), "u", Some(vni(first)), &[])[0], first);
        }
        assert_eq!(order(&pool(109), "u", Some(vni(7)), &[]), order(&pool(109), "u", None, &[]));
    }
}
