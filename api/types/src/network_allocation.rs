//! NetworkAllocation: the proof that a VNI, and a prefix, belong to one network.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ipv6Prefix, Vni};

/// The proof that a VNI, and a prefix, belong to one network.
///
/// It is named after its VNI (`vni-100`). A prefix of a project's own has a second one, without a VNI, that is named after the
/// prefix (`prefix-20010db800010002`); one out of a pool needs none, as it goes with the VNI. Names are unique and creation is atomic, so two allocators can never
/// give out one VNI twice, whatever they believe; and one that does not learn whether its creation succeeded
/// finds out by reading it.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "NetworkAllocation",
    plural = "networkallocations",
    singular = "networkallocation",
    shortname = "netalloc",
    derive = "PartialEq",
    category = "ucloud-internal",
    doc = "The proof that a VNI, and a prefix, belong to one network. Made and removed by the network controller.",
    selectable = ".spec.networkUid",
    selectable = ".spec.pool",
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".spec.namespace"),
    printcolumn(name = "Network", type_ = "string", json_path = ".spec.network"),
    printcolumn(name = "Prefix", type_ = "string", json_path = ".spec.prefix"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkAllocationSpec {
    /// The NetworkPool it comes from.
    pub pool: String,
    /// The VNI; none where the prefix alone is claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// The prefix of the network: the part of the pool's that has the same index as the VNI in the pool's range, or the
    /// project's own.
    pub prefix: Ipv6Prefix,
    /// The namespace of the network.
    pub namespace: String,
    /// The name of the network.
    pub network: String,
    /// The UID of the network, which decides whose it is.
    pub network_uid: String,
}

impl NetworkAllocationSpec {
    /// The name of the allocation of a VNI.
    pub fn object_name(vni: Vni) -> String {
        format!("vni-{vni}")
    }

    /// The name of the claim on a /64 of a project's own.
    pub fn claim_name(prefix: Ipv6Prefix) -> String {
        format!("prefix-{:016x}", prefix.network().to_bits() >> 64)
    }

    /// The name that the allocation must have.
    pub fn name(&self) -> String {
        self.vni.map_or_else(|| Self::claim_name(self.prefix), Self::object_name)
    }
}
