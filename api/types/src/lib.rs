//! The kinds of ucloud: what users write (spec) and what controllers report (status).
//!
//! One file per kind, next to the values they are made of: quantities, MAC addresses, prefixes, VNIs and
//! conditions. There is no I/O here. Values are parsed once, when an object is read; whoever holds one of
//! these types need not check it again.
//!
//! Defaults are never written into a spec, so that what a Git repository holds and what the server holds
//! stay equal. Where a field has a default, a method of the spec gives the effective value.

#![expect(clippy::duplicated_attributes, reason = "each printcolumn of a kind has the same keys")]

pub mod condition;
pub mod file;
pub mod host;
pub mod image;
pub mod mac;
pub mod meta;
pub mod network;
pub mod network_allocation;
pub mod network_pool;
pub mod orphan;
pub mod prefix;
pub mod quantity;
pub mod recurrence;
pub mod security_group;
pub mod snapshot;
pub mod snapshot_schedule;
pub mod storage_pool;
pub mod vm;
pub mod vni;
pub mod volume;

pub use file::{File, FileSpec, FileStatus};
pub use host::{Host, HostSpec, HostStatus};
pub use image::{Image, ImageSpec, ImageStatus};
pub use mac::MacAddr;
pub use meta::{GROUP, VERSION};
pub use network::{Network, NetworkSpec, NetworkStatus};
pub use network_allocation::{NetworkAllocation, NetworkAllocationSpec};
pub use network_pool::{NetworkPool, NetworkPoolSpec, NetworkPoolStatus};
pub use orphan::{Orphan, OrphanSpec, OrphanStatus};
pub use prefix::Ipv6Prefix;
pub use quantity::Quantity;
pub use recurrence::Recurrence;
pub use security_group::{SecurityGroup, SecurityGroupSpec, SecurityGroupStatus};
pub use snapshot::{Snapshot, SnapshotSpec, SnapshotStatus};
pub use snapshot_schedule::{SnapshotSchedule, SnapshotScheduleSpec, SnapshotScheduleStatus};
pub use storage_pool::{StoragePool, StoragePoolSpec, StoragePoolStatus};
pub use vm::{VM, VMSpec, VMStatus};
pub use vni::Vni;
pub use volume::{Volume, VolumeSpec, VolumeStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

/// Every kind of the group, as the definition from which the API server serves it and from which
/// `manifests/crds` is generated.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![
        File::crd(),
        Host::crd(),
        Image::crd(),
        Network::crd(),
        NetworkAllocation::crd(),
        NetworkPool::crd(),
        Orphan::crd(),
        SecurityGroup::crd(),
        Snapshot::crd(),
        SnapshotSchedule::crd(),
        StoragePool::crd(),
        VM::crd(),
        Volume::crd(),
    ]
}
