//! Volume: a disk with a life of its own, which one VM at a time has.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Quantity,
    condition::Condition,
    meta::DEFAULT_POOL,
    snapshot::{VOLUME_DISK, image_name},
    vm::{DiskLimits, ImageRef},
};

/// A disk with a life of its own, which one VM at a time has.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "Volume",
    plural = "volumes",
    singular = "volume",
    shortname = "vol",
    namespaced,
    status = "VolumeStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "A disk with a life of its own, which one VM at a time has.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.size"),
    printcolumn(name = "VM", type_ = "string", json_path = ".status.attachment.vm"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host", priority = 1),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct VolumeSpec {
    /// The size that guests see. It can grow, also while a VM has the volume, and never shrinks.
    pub size: Quantity,

    /// The StoragePool that keeps it; "default" by default. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// What it holds in the beginning; nothing by default. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<VolumeSource>,

    /// How much the guest of the VM that has it may ask of it; as much as there is by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<DiskLimits>,

    /// What becomes of the volume when the VM that has it is deleted: Retain (the default) or Delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaim_policy: Option<ReclaimPolicy>,
}

impl VolumeSpec {
    /// The effective pool.
    pub fn effective_pool(&self) -> &str {
        self.pool.as_deref().unwrap_or(DEFAULT_POOL)
    }

    /// The Orphan that becomes the volume.
    pub fn orphan(&self) -> Option<&str> {
        self.source.as_ref().and_then(|source| source.orphan.as_deref())
    }

    /// The effective reclaim policy.
    pub fn effective_reclaim_policy(&self) -> ReclaimPolicy {
        self.reclaim_policy.unwrap_or_default()
    }
}

impl Volume {
    /// The image of which it is a clone in the beginning.
    pub fn image(&self) -> Option<ImageRef> {
        let source = self.spec.source.as_ref()?;
        if let Some(image) = &source.image {
            return Some(image.clone());
        }
        let (snapshot, disk) = match &source.snapshot {
            Some(snapshot) => (snapshot.name.clone(), snapshot.disk.as_deref()),
            None => (self.source_snapshot()?, None),
        };
        Some(ImageRef(image_name(&snapshot, disk.unwrap_or(VOLUME_DISK))))
    }

    /// The name of the Snapshot that is taken of the Volume of which it is to be a copy. It is there until the copy is made.
    pub fn source_snapshot(&self) -> Option<String> {
        self.spec.source.as_ref()?.volume.as_ref()?;
        Some(format!("{}-source", self.metadata.name.as_deref()?))
    }
}

/// What a volume holds in the beginning: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct VolumeSource {
    /// An image, of which the volume is a copy-on-write clone: NAME in the volume's own namespace, or images/NAME for a
    /// shared one. It must be in the same pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageRef>,

    /// A disk in a Snapshot, in the volume's own namespace. It must be in the same pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotDiskRef>,

    /// The name of another Volume, in the volume's own namespace, of which it is a copy, as that is at one moment soon after the
    /// copy is created. It must be in the same pool. A VM may have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,

    /// An Orphan that is a disk, which becomes the volume: it must be in the same pool, and name the volume in `spec.adopt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orphan: Option<String>,
}

/// A disk in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotDiskRef {
    /// The name of the Snapshot.
    pub name: String,
    /// The disk's name in it; that of a snapshot of a volume by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"))]
    pub disk: Option<String>,
}

/// What becomes of a volume when the VM that has it is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReclaimPolicy {
    /// It stays, and another VM may have it.
    #[default]
    Retain,
    /// It is deleted with the VM, and all that it holds.
    Delete,
}

/// What is known of a volume. The agent of the VM that has it writes `attachment`, `attachments`, `host`, `size`, `restored`
/// and the condition
/// Removed, the volume controller everything else; it takes away the attachment of a VM that is gone, too.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeStatus {
    /// Where the volume is in its life, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<VolumePhase>,

    /// The VM that has it. No other may open it until this is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,

    /// How often VMs came to have it. What it holds is the same as long as this is, and no VM has it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attachments: u64,

    /// The host that has its bytes; in a pool that all hosts share, the last that used it. None before the first VM has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,

    /// The size that it has. None before it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,

    /// The UID of the Image of a snapshot that it was restored from; none for one that was never restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<String>,

    /// Ready, Terminating, Removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Where a volume is in its life, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VolumePhase {
    /// It is made when the first VM has it.
    Pending,
    /// It is there, and no VM has it.
    Available,
    /// A VM has it.
    Attached,
    /// It is being deleted.
    Terminating,
}

/// The VM that has a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// The VM's name, in the volume's namespace.
    pub vm: String,
    /// The VM's UID.
    pub vm_uid: String,
    /// The host that it is bound to.
    pub host: String,
    /// The epoch of that binding.
    #[schemars(range(min = 1))]
    pub epoch: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_volume_is_made_of_is_an_image() {
        for (source, image, snapshot) in [
            (json!({"image": "images/debian"}), "images/debian", None),
            (json!({"snapshot": {"name": "monday"}}), "monday-volume", None),
            (json!({"snapshot": {"name": "monday", "disk": "root"}}), "monday-root", None),
            (json!({"volume": "data"}), "copy-source-volume", Some("copy-source")),
        ] {
            let volume: Volume = serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume", "metadata": {"name": "copy"},
                "spec": {"size": "1Gi", "source": source},
            }))
            .unwrap();
            assert_eq!(volume.image(), Some(ImageRef(image.to_owned())));
            assert_eq!(volume.source_snapshot().as_deref(), snapshot);
        }
    }
}
