//! Host: a machine that runs VMs.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Quantity, Vni,
    condition::Condition,
    image::{ImagePhase, Sha256},
    orphan::HostOrphan,
};

/// A machine that runs VMs. Its agent registers it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "Host",
    plural = "hosts",
    singular = "host",
    status = "HostStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "A machine that runs VMs. Its agent registers it.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Unschedulable", type_ = "boolean", json_path = ".spec.unschedulable"),
    printcolumn(name = "CPUs", type_ = "integer", json_path = ".status.capacity.cpus"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.capacity.memory"),
    printcolumn(name = "Accelerator", type_ = "string", json_path = ".status.accelerator"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Roles", type_ = "string", json_path = ".spec.roles", priority = 1),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.versions.agent", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct HostSpec {
    /// No new VM is bound to an unschedulable host; those that it has go on. Networks that it routes move to other
    /// routers, if there are any.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unschedulable: bool,

    /// What the host is for. A new host has the roles with which its agent was started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "set"))]
    pub roles: Vec<HostRole>,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostRole {
    /// It runs VMs.
    Compute,
    /// It carries gateways of networks.
    Router,
}

impl HostRole {
    /// All roles.
    pub const ALL: [Self; 2] = [Self::Compute, Self::Router];

    /// The role as it is written in a spec.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compute => "compute",
            Self::Router => "router",
        }
    }
}

/// What is known of a host. Written by its agent, but for the condition Ready once the agent is silent,
/// which is then the host controller's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostStatus {
    /// What the host has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Resources>,

    /// What VMs may take of it, overcommitment included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<Resources>,

    /// The host's addresses in the underlay.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<std::net::IpAddr>,

    /// How guests' code is run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,

    /// The versions of what runs on the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Versions>,

    /// The kernel's boot id: it changes with each boot.
    #[serde(default, rename = "bootID", skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,

    /// The pools that the host has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pools: Vec<HostPool>,

    /// The images that the host keeps or imports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["uid"]))]
    pub images: Vec<HostImage>,

    /// The networks for which the host has devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["uid"]))]
    pub networks: Vec<HostNetwork>,

    /// The port at which the agent takes and gives the bytes of Files, Images and Volumes, at the host's addresses. None if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub stream_port: Option<u16>,

    /// What was found on the host, and in the pools that it looks after, and belongs to no object. At most 100 things: the next
    /// ones are reported when these are gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub orphans: Vec<HostOrphan>,

    /// Ready, Accelerated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// CPUs and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory.
    pub memory: Quantity,
}

/// How guests' code is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// By the processor itself.
    Kvm,
    /// By QEMU's translator, which is many times slower.
    Tcg,
}

/// The versions of what runs on a host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    /// ucloud-agent.
    pub agent: String,
    /// The hypervisor's manager: libvirt.
    pub libvirt: String,
    /// The hypervisor: QEMU.
    pub qemu: String,
    /// The kernel.
    pub kernel: String,
}

/// A host's part of a storage pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPool {
    /// The StoragePool's name.
    pub name: String,
    /// Its size on this host.
    pub capacity: Quantity,
    /// What is free of it, to the nearest GiB below, so that small changes are no news.
    pub available: Quantity,
    /// Whether the host has looked in it for what belongs to no object, so that `orphans` has that. In a pool that all hosts
    /// share only its surveyor does.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub surveyed: bool,
    /// Why the host cannot use the pool, where it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An image on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostImage {
    /// The Image's UID.
    pub uid: String,
    /// Where the host's copy is in its life.
    pub phase: ImagePhase,
    /// How far the import is, from 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 100))]
    pub percent: Option<u8>,
    /// The checksum of the source, as it was found to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,
    /// The size of the disk that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<Quantity>,
    /// Why the import failed: a CamelCase word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why the import failed: a sentence for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A network on a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostNetwork {
    /// The Network's UID.
    pub uid: String,
    /// Its VNI.
    pub vni: Vni,
    /// Whether the host has the network's gateway.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub routed: bool,
}
