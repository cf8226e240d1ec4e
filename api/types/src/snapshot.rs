//! Snapshot: the disks of a VM, or a volume, as they were at one moment.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Quantity,
    condition::{Condition, Time},
};

/// The name of the one disk in a snapshot of a Volume.
pub const VOLUME_DISK: &str = "volume";

/// The name of the Image that a snapshot has of a disk.
pub fn image_name(snapshot: &str, disk: &str) -> String {
    format!("{snapshot}-{disk}")
}

/// The disks of a VM, or a volume, as they were at one moment, each of which becomes an Image. Nothing of its spec can be
/// changed: make a new snapshot instead.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "Snapshot",
    plural = "snapshots",
    singular = "snapshot",
    shortname = "snap",
    namespaced,
    status = "SnapshotStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "The disks of a VM, or a volume, as they were at one moment.",
    selectable = ".status.host",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.vm"),
    printcolumn(name = "Volume", type_ = "string", json_path = ".spec.volume"),
    printcolumn(name = "Consistency", type_ = "string", json_path = ".status.consistency"),
    printcolumn(name = "Taken", type_ = "date", json_path = ".status.takenAt"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct SnapshotSpec {
    /// The name of a VM in the snapshot's namespace: all disks that it has are taken at the same moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,

    /// The name of a Volume in the snapshot's namespace, whether or not a VM has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
}

/// What is known of a snapshot. The agent of `host` writes `takenAt`, `consistency` and the condition Taken, the snapshot
/// controller everything else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotStatus {
    /// Where the snapshot is in its life, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<SnapshotPhase>,

    /// The UID of the VM or Volume. Another one of the same name is not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_uid: Option<String>,

    /// The host that takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,

    /// The disks that are taken, decided before the first of them is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub disks: Vec<SnapshotDisk>,

    /// The moment that it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_at: Option<Time>,

    /// What it is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,

    /// Ready, Taken, Terminating.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A disk in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotDisk {
    /// The disk's name in the VM; `volume` where the snapshot is of a Volume.
    pub name: String,

    /// The UID of the Volume that it is; none for a disk of the VM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_uid: Option<String>,

    /// The StoragePool that keeps it, and its image.
    pub pool: String,

    /// The size that it had when the snapshot was decided.
    pub size: Quantity,

    /// The name of the Image that is made of it, in the snapshot's namespace. It is deleted with the snapshot.
    pub image: String,
}

/// Where a snapshot is in its life, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotPhase {
    /// Something that it needs is missing.
    Pending,
    /// Its host takes it.
    Taking,
    /// Disks can be made of its images.
    Ready,
    /// It cannot be taken any more; condition Ready says why.
    Failed,
    /// It is being deleted.
    Terminating,
}

/// What a snapshot is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Consistency {
    /// As after the power has failed at that moment: file systems and databases recover as they do then.
    Crash,
    /// The guest had written out its file systems and stood still, or was off.
    Filesystems,
}

#[cfg(test)]
mod tests {
    use kube::CustomResourceExt as _;

    #[test]
    fn a_snapshot_is_of_one_thing() {
        let crd = serde_json::to_value(super::Snapshot::crd()).unwrap();
        let spec = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        assert_eq!((&spec["minProperties"], &spec["maxProperties"]), (&1.into(), &1.into()));
    }
}
