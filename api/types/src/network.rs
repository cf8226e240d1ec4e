//! Network: a layer 2 network between VMs, with or without address management.

use std::net::Ipv6Addr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Ipv6Prefix, Vni, condition::Condition, meta::DEFAULT_POOL};

/// A layer 2 network between VMs (one VXLAN), with or without address management.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "Network",
    plural = "networks",
    singular = "network",
    shortname = "net",
    namespaced,
    status = "NetworkStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "A layer 2 network between VMs (one VXLAN), with or without address management.",
    printcolumn(name = "IPAM", type_ = "string", json_path = ".status.ipam"),
    printcolumn(name = "Prefix", type_ = "string", json_path = ".status.prefix"),
    printcolumn(name = "VNI", type_ = "integer", json_path = ".status.vni"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Router", type_ = "string", json_path = ".status.router", priority = 1),
    printcolumn(
        name = "Routed",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Routed\")].status",
        priority = 1
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// None (layer 2 alone), Manual (a /64 and a gateway) or Automatic (the same, with router
    /// advertisements; the default). It can be changed while VMs use the network; to None only while none of them
    /// declares addresses in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,

    /// The NetworkPool that the VNI and the prefix come from; "default" by default. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// A /64 of the project's own, in place of one of the pool's. The pool has to permit it to the project
    /// (`ownPrefixes`), and it belongs to one network alone. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Ipv6Prefix>,

    /// The MTU of the guests' interfaces; by default what the underlay leaves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1280, max = 9216))]
    pub mtu: Option<u32>,

    /// What router advertisements tell guests about name resolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<NetworkDns>,
}

impl NetworkSpec {
    /// The effective address management.
    pub fn effective_ipam(&self) -> Ipam {
        self.ipam.unwrap_or_default()
    }

    /// The effective pool.
    pub fn effective_pool(&self) -> &str {
        self.pool.as_deref().unwrap_or(DEFAULT_POOL)
    }
}

/// Who manages the addresses of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ipam {
    /// Nobody: the network is layer 2 alone.
    None,
    /// The user, within the /64 that the network was given. There is a gateway, but it does not advertise itself.
    Manual,
    /// The guests themselves, by stateless autoconfiguration from router advertisements.
    #[default]
    Automatic,
}

/// Name resolution, as told to guests by RDNSS and DNSSL (RFC 8106).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkDns {
    /// Addresses of recursive resolvers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3))]
    pub servers: Vec<Ipv6Addr>,
    /// Domains that guests append to short names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(
            length(max = 253),
            regex(pattern = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$")
        )
    )]
    pub search: Vec<String>,
}

/// What is known of a network. Written by the network controller alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// The address management in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam: Option<Ipam>,

    /// The VXLAN network identifier, unique in the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,

    /// The network's /64; none for a network without address management.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Ipv6Prefix>,

    /// The gateway's address in the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv6Addr>,

    /// The host that is to carry the gateway; none for a network without address management. The condition Routed
    /// tells whether it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<String>,

    /// The generation of the spec that the controller has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Routed, Terminating.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
