//! Finds or makes the one NetworkAllocation of a network.
//!
//! An allocation is named after its VNI, and creation is atomic: a VNI has one owner, whatever allocators believe. A network
//! gets one VNI because whoever allocates looks first (a list of the server's, not of a cache) for what there is, tries
//! slots in an order that the network's UID gives, and adopts what it meets there; and because the network's status, written
//! by compare-and-swap, decides should there ever be two.

use std::collections::HashSet;

use kube::{Client, ResourceExt as _, core::ObjectMeta};
use ucloud_types::{Ipv6Prefix, Network, NetworkAllocation, NetworkAllocationSpec, NetworkPoolSpec, Vni};

use super::probe::slots;
use crate::runtime::{Failure, objects, uid_of};

/// All allocations of the network, as they are on the server.
pub async fn of_network(client: &Client, network: &Network) -> Result<Vec<NetworkAllocation>, Failure> {
    let fields = format!("spec.networkUid={}", uid_of(network));
    objects::list(client, None, Some(&fields)).await
}

/// The one of a network's allocations that counts: that which its status names, else the one with the smallest VNI.
pub fn elect(allocations: Vec<NetworkAllocation>, named: Option<Vni>) -> Option<NetworkAllocation> {
    allocations.into_iter().min_by_key(|allocation| (Some(allocation.spec.vni) != named, allocation.spec.vni))
}

fn build(network: &Network, vni: Vni, prefix: Ipv6Prefix) -> NetworkAllocation {
    let spec = NetworkAllocationSpec {
        pool: network.spec.effective_pool().to_owned(),
        vni,
        prefix,
        namespace: network.namespace().unwrap_or_default(),
        network: network.name_any(),
        network_uid: uid_of(network).to_owned(),
    };
    let name = NetworkAllocationSpec::object_name(vni);
    NetworkAllocation { metadata: ObjectMeta { name: Some(name), ..ObjectMeta::default() }, spec }
}

/// Takes a free slot of the pool for the network; none if all are taken. `taken` are the VNIs that are known not to be free; the server has the
/// last word.
pub async fn take_slot(
    client: &Client,
    network: &Network,
    pool: &NetworkPoolSpec,
    taken: &HashSet<Vni>,
) -> Result<Option<NetworkAllocation>, Failure> {
    let before = network.status.as_ref().and_then(|status| status.vni);
    for (vni, prefix) in slots(pool, uid_of(network), before, taken) {
        let wanted = build(network, vni, prefix);
        match objects::create(client, &wanted).await {
            Ok(allocation) => return Ok(Some(allocation)),
            Err(Failure::Conflict { .. }) => {
                // somebody has it. Ourselves, if the reply to an earlier attempt was lost, or another allocator for us
                let there: Option<NetworkAllocation> = objects::get(client, None, &wanted.name_any()).await?;
                if let Some(ours) = there.filter(|allocation| allocation.spec.network_uid == uid_of(network)) {
                    return Ok(Some(ours));
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::{allocation, vni};

    #[test]
    fn the_status_decides_between_two_allocations() {
        let two = || vec![allocation("default", 105, "u"), allocation("default", 101, "u")];
        assert_eq!(elect(two(), Some(vni(105))).unwrap().spec.vni, vni(105));
        assert_eq!(elect(two(), None).unwrap().spec.vni, vni(101), "all allocators elect the same");
        assert_eq!(elect(two(), Some(vni(7))).unwrap().spec.vni, vni(101));
        assert!(elect(Vec::new(), None).is_none());
    }
}
