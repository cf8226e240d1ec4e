//! VM: a virtual machine.

use std::{collections::BTreeMap, net::Ipv6Addr};

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    MacAddr, Quantity,
    condition::Condition,
    meta::{DEFAULT_POOL, IMAGES_NAMESPACE},
};

/// A virtual machine: how much of a host it takes, its disks and its networks.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "VM",
    plural = "vms",
    singular = "vm",
    namespaced,
    status = "VMStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "A virtual machine: how much of a host it takes, its disks and its networks.",
    selectable = ".status.binding.host",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.binding.host"),
    printcolumn(name = "Addresses", type_ = "string", json_path = ".status.interfaces[*].addresses[*].address"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "CPUs", type_ = "integer", json_path = ".spec.cpus", priority = 1),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.memory", priority = 1),
    printcolumn(name = "Strategy", type_ = "string", json_path = ".status.runStrategy", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VMSpec {
    /// Whether the VM runs: Always (the default), RerunOnFailure, Manual or Halted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,

    /// The number of virtual CPUs.
    #[schemars(range(min = 1, max = 512))]
    pub cpus: u32,

    /// The memory of the guest, such as 512Mi or 4Gi.
    pub memory: Quantity,

    /// The disks, in the order in which the guest finds them. It boots from the first.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<DiskSpec>,

    /// The network interfaces, in the order in which the guest finds them. May be empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub networks: Vec<InterfaceSpec>,

    /// Labels that a host must have to run this VM.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_selector: BTreeMap<String, String>,

    /// How long the guest may take to shut down before it is switched off, in seconds. 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 3600))]
    pub termination_grace_period_seconds: Option<u32>,
}

impl VMSpec {
    /// The effective run strategy.
    pub fn effective_run_strategy(&self) -> RunStrategy {
        self.run_strategy.unwrap_or_default()
    }

    /// The effective grace period, in seconds.
    pub fn effective_grace_seconds(&self) -> u32 {
        self.termination_grace_period_seconds.unwrap_or(30)
    }
}

/// What a VM takes of its project's quotas (`requests.cpu`, `requests.memory`, `requests.storage`), by its spec, whether it
/// runs or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory of the guest.
    pub memory: Quantity,
    /// The sizes of its disks together, as far as the spec tells them. Volumes count by themselves.
    pub storage: Quantity,
    /// The places of disks in the spec that have the size of their image, which the spec does not tell.
    pub unsized_disks: Vec<usize>,
}

impl VMSpec {
    /// What the VM takes of its project's quotas.
    pub fn requests(&self) -> Requests {
        let sizes = self.disks.iter().filter_map(|disk| disk.size).map(Quantity::bytes);
        let own = self.disks.iter().enumerate().filter(|(_, disk)| disk.volume.is_none());
        let unsized_disks = own.filter(|(_, disk)| disk.size.is_none());
        Requests {
            cpus: self.cpus,
            memory: self.memory,
            storage: Quantity::from_bytes(sizes.fold(0, u64::saturating_add)),
            unsized_disks: unsized_disks.map(|(index, _)| index).collect(),
        }
    }
}

/// Whether a VM runs, and what happens when it stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunStrategy {
    /// It runs; it is started again whenever it stops, for whatever reason.
    #[default]
    Always,
    /// It runs; it is started again when it failed, and left alone when the guest shut itself down.
    RerunOnFailure,
    /// It starts and stops only when somebody says so (`ucloudctl start`, `stop`, `restart`).
    Manual,
    /// It does not run.
    Halted,
}

/// A disk of a VM: a copy-on-write clone of an image, which goes with the VM, or a volume, which has a life of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{"required": ["image"]}, {"required": ["volume"]}]))]
pub struct DiskSpec {
    /// The disk's name, unique in the VM. The guest sees it as the disk's serial number.
    #[schemars(length(max = 32), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,

    /// The image of which the disk is a clone: NAME in the VM's own namespace, or images/NAME for a shared one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,

    /// The Volume, in the VM's own namespace, that the disk is. It can be attached and detached while the VM runs, unless
    /// it is the first disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,

    /// The size that the guest sees; the image's own size by default, and never less than that. The size of a volume is
    /// in the Volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,

    /// The StoragePool in which the disk is made; "default" by default. The pool of a volume is in the Volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// How much the guest may ask of it; as much as there is by default. The limits of a volume are in the Volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<DiskLimits>,
}

/// How much a guest may ask of a disk, reading and writing together. What is left out is not limited. A change is in force
/// from the next start of the VM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1))]
pub struct DiskLimits {
    /// Requests per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub iops: Option<u32>,

    /// Bytes per second, such as 100Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<Quantity>,
}

impl DiskSpec {
    /// The effective pool of a disk that is a clone of an image; none of a volume, which knows its own.
    pub fn effective_pool(&self) -> Option<&str> {
        self.volume.is_none().then(|| self.pool.as_deref().unwrap_or(DEFAULT_POOL))
    }

    /// Whether it is a clone of the image with this namespace and name, in a VM in the namespace `from`.
    pub fn is_clone_of(&self, from: &str, (namespace, name): (&str, &str)) -> bool {
        self.image.as_ref().is_some_and(|image| image.resolve(from) == (namespace, name))
    }
}

/// The name of an image: `NAME` (in the namespace of whoever refers to it) or `images/NAME` (shared by all).
/// No other namespace can be named.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ImageRef(
    #[schemars(length(max = 260), regex(pattern = r"^(images/)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"))] pub String,
);

impl ImageRef {
    /// The namespace and name of the image, as seen from an object in `namespace`.
    pub fn resolve<'a>(&'a self, namespace: &'a str) -> (&'a str, &'a str) {
        match self.0.strip_prefix(IMAGES_NAMESPACE).and_then(|rest| rest.strip_prefix('/')) {
            Some(name) => (IMAGES_NAMESPACE, name),
            None => (namespace, &self.0),
        }
    }
}

/// A network interface of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceSpec {
    /// The interface's name, unique in the VM. (What the guest calls it is the guest's affair.)
    #[schemars(length(max = 32), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub name: String,

    /// The Network, in the VM's own namespace, to which it is attached.
    pub network: String,

    /// Its MAC address; by default a locally administered one that is derived from the VM's UID and the interface's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,

    /// The IPv6 addresses that the guest is to use. They must lie in the network's prefix, where it has one. In a
    /// network with ipam Automatic they come on top of the address that the guest forms by itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<Ipv6Addr>,

    /// Whether the guest is held to its own MAC address and IP addresses; true by default. Only a project that an
    /// operator has allowed it may say false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security: Option<bool>,

    /// The SecurityGroups, in the VM's own namespace, that decide what the guest receives and sends. Everything passes
    /// where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub security_groups: Vec<String>,
}

impl InterfaceSpec {
    /// Whether the guest is held to its own addresses.
    pub fn effective_port_security(&self) -> bool {
        self.port_security.unwrap_or(true)
    }

    /// The effective MAC address in the VM with this UID.
    pub fn effective_mac(&self, vm_uid: &str) -> MacAddr {
        self.mac.unwrap_or_else(|| MacAddr::derive(vm_uid, &self.name))
    }
}

/// What is known of a VM. Each part has one writer: the API server's binding subresource (`binding`), its
/// start, stop and restart subresources (`powerRequest`), its restore subresource (`restoreRequest`), the scheduler (condition Scheduled), and the agent
/// of the VM's host (everything else).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VMStatus {
    /// Where the VM is in its life, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<VMPhase>,

    /// The host that alone may run the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,

    /// The run strategy in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_strategy: Option<RunStrategy>,

    /// The last start, stop or restart that somebody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_request: Option<PowerRequest>,

    /// The id of the last power request that the agent has carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_power_request: Option<u64>,

    /// The last restore of its disks that somebody asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_request: Option<RestoreRequest>,

    /// The id of the last restore that the agent has carried out, or given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_restore: Option<u64>,

    /// How often the agent has started the VM again after it stopped without being told to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,

    /// The generation of the spec that the agent has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The interfaces as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub interfaces: Vec<InterfaceStatus>,

    /// The disks as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<DiskStatus>,

    /// Scheduled, Ready, InterfacesReady, DisksReady, RestartRequired, Terminating.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where a VM is in its life, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VMPhase {
    /// It has no host yet.
    Pending,
    /// Its host makes its networks and disks.
    Provisioning,
    /// Its domain is being started.
    Starting,
    /// It runs.
    Running,
    /// It was asked to shut down.
    Stopping,
    /// It does not run, and should not.
    Stopped,
    /// It should run and cannot; condition Ready says why.
    Failed,
    /// It is being deleted.
    Terminating,
    /// Nobody can tell: its host does not answer.
    Unknown,
}

/// The host to which a VM is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// The Host's name.
    pub host: String,
    /// Grows by one each time the VM is bound: a host that holds an older epoch must not run the VM.
    #[schemars(range(min = 1))]
    pub epoch: u64,
}

/// A start, stop or restart that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PowerRequest {
    /// Grows by one with each request.
    pub id: u64,
    /// What to do.
    pub action: PowerAction,
}

/// What a power request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerAction {
    /// Run, if it does not.
    Start,
    /// Shut down, if it runs.
    Stop,
    /// Shut down, if it runs, and start.
    Restart,
}

/// A restore that somebody asked for: disks of the VM become again what they were when a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRequest {
    /// Grows by one with each request.
    pub id: u64,
    /// The name of the Snapshot.
    pub snapshot: String,
    /// The disks. All others stay as they are.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<RestoredDisk>,
}

/// A disk that is restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoredDisk {
    /// The disk's name in the spec.
    pub name: String,
    /// The UID of the Volume that it is; none for a clone of an image, which goes with the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_uid: Option<String>,
    /// The UID of the Image that the snapshot has of it.
    pub image_uid: String,
}

impl VM {
    /// The restore that was not carried out yet.
    pub fn pending_restore(&self) -> Option<&RestoreRequest> {
        let status = self.status.as_ref()?;
        status.restore_request.as_ref().filter(|request| Some(request.id) > status.observed_restore)
    }

    /// Whether a restore that was not carried out yet needs the Image with this UID.
    pub fn awaits_image(&self, uid: &str) -> bool {
        self.pending_restore().is_some_and(|request| request.disks.iter().any(|disk| disk.image_uid == uid))
    }
}

/// An interface as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceStatus {
    /// The interface's name in the spec.
    pub name: String,
    /// Its network.
    pub network: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses and how each is known, sorted by address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["address"]))]
    pub addresses: Vec<InterfaceAddress>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceAddress {
    /// The address.
    pub address: Ipv6Addr,
    /// How it is known.
    pub source: AddressSource,
}

/// How an address of an interface is known. Where several hold, the first is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum AddressSource {
    /// The guest was seen to use it, by neighbour discovery.
    Learnt,
    /// The spec says that the guest is to use it.
    Declared,
    /// The guest forms it by stateless autoconfiguration (RFC 4862), if it takes its identifier from its MAC address
    /// (RFC 4291, appendix A). Told until the guest is seen to use an address in the network's prefix.
    Computed,
}

/// A disk as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiskStatus {
    /// The disk's name in the spec.
    pub name: String,
    /// The pool that holds it.
    pub pool: String,
    /// The Volume that it is; none for a clone of an image, which goes with the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The size that the guest sees.
    pub size: Quantity,
    /// The UID of the Image of a snapshot that it was restored from; none for one that was never restored. What a Volume
    /// was restored from is in the Volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<String>,
}
