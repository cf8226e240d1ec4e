//! Finds or makes what a network has: the one NetworkAllocation of its VNI, and the claim on a prefix of its own.
//!
//! An allocation is named after its VNI, and creation is atomic: a VNI has one owner, whatever allocators believe. A network
//! gets one VNI because whoever allocates looks first (a list of the server's, not of a cache) for what there is, tries
//! slots in an order that the network's UID gives, and adopts what it meets there; and because the network's status, written
//! by compare-and-swap, decides should there ever be two. The claim on a prefix is named after the prefix, so it has one
//! owner too; it comes before the VNI.

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

/// The one of a network's allocations of VNIs that counts: that which its status names, else the one with the smallest VNI.
pub fn elect(allocations: Vec<NetworkAllocation>, named: Option<Vni>) -> Option<NetworkAllocation> {
    let of_vnis = allocations.into_iter().filter(|allocation| allocation.spec.vni.is_some());
    of_vnis.min_by_key(|allocation| (allocation.spec.vni != named, allocation.spec.vni))
}

fn build(network: &Network, vni: Option<Vni>, prefix: Ipv6Prefix) -> NetworkAllocation {
    let spec = NetworkAllocationSpec {
        pool: network.spec.effective_pool().to_owned(),
        vni,
        prefix,
        namespace: network.namespace().unwrap_or_default(),
        network: network.name_any(),
        network_uid: uid_of(network).to_owned(),
    };
    NetworkAllocation { metadata: ObjectMeta { name: Some(spec.name()), ..ObjectMeta::default() }, spec }
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
        let wanted = build(network, Some(vni), network.spec.prefix.unwrap_or(prefix));
        if let Some(allocation) = take(client, network, &wanted).await? {
            return Ok(Some(allocation));
        }
    }
    Ok(None)
}

/// Claims a prefix of the project's own for the network. False if another network has it.
pub async fn claim_prefix(client: &Client, network: &Network, prefix: Ipv6Prefix) -> Result<bool, Failure> {
    Ok(take(client, network, &build(network, None, prefix)).await?.is_some())
}

/// Makes an allocation; none if another network has what it is of.
async fn take(
    client: &Client,
    network: &Network,
    wanted: &NetworkAllocation,
) -> Result<Option<NetworkAllocation>, Failure> {
    match objects::create(client, wanted).await {
        Ok(allocation) => Ok(Some(allocation)),
        Err(Failure::Conflict { .. }) => {
            // somebody has it. Ourselves, if the reply to an earlier attempt was lost, or another allocator for us
            let there: Option<NetworkAllocation> = objects::get(client, None, &wanted.name_any()).await?;
            Ok(there.filter(|allocation| allocation.spec.network_uid == uid_of(network)))
        }
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::{allocation, vni};

    #[test]
    fn the_status_decides_between_two_allocations() {
        let two = || vec![allocation("default", 105, "u"), allocation("default", 101, "u")];
        assert_eq!(elect(two(), Some(vni(105))).unwrap().spec.vni, Some(vni(105)));
        assert_eq!(elect(two(), None).unwrap().spec.vni, Some(vni(101)), "all allocators elect the same");
        assert_eq!(elect(two(), Some(vni(7))).unwrap().spec.vni, Some(vni(101)));
        assert!(elect(Vec::new(), None).is_none());
    }
}
