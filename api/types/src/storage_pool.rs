//! StoragePool: where disks and images are kept.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Quantity, condition::Condition};

/// Where disks and images are kept.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "StoragePool",
    plural = "storagepools",
    singular = "storagepool",
    shortname = "sp",
    status = "StoragePoolStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "Where disks and images are kept.",
    printcolumn(name = "Hosts", type_ = "integer", json_path = ".status.hosts"),
    printcolumn(name = "Capacity", type_ = "string", json_path = ".status.capacity"),
    printcolumn(name = "Available", type_ = "string", json_path = ".status.available"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("oneOf" = [{"required": ["directory"]}, {"required": ["rbd"]}]))]
pub struct StoragePoolSpec {
    /// A directory that every host has for itself. Exactly one of `directory` and `rbd` is set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryPool>,
    /// A pool of a Ceph cluster, which all hosts see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rbd: Option<RbdPool>,
}

impl StoragePoolSpec {
    /// Whether all hosts see the same images and disks in it.
    pub const fn is_shared(&self) -> bool {
        self.rbd.is_some()
    }
}

/// A directory that every host has for itself: a disk made there stays with its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryPool {
    /// An absolute path, without `.` and `..`. Hosts make it when it is missing. It cannot be changed.
    #[schemars(length(max = 4096), regex(pattern = r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"))]
    pub path: String,
}

/// A pool of a Ceph cluster, which all hosts see: it belongs to this installation of ucloud alone. It cannot be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RbdPool {
    /// The name of Ceph's pool.
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub pool: String,
    /// The name of Ceph's user, without `client.`; "ucloud" by default. Its key is in the keyring that the configuration
    /// names, on each host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub user: Option<String>,
    /// The path of the cluster's configuration on each host; /etc/ceph/ceph.conf by default. Each cluster has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096), regex(pattern = r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$"))]
    pub conf: Option<String>,
}

impl RbdPool {
    /// The effective user.
    pub fn effective_user(&self) -> &str {
        self.user.as_deref().unwrap_or("ucloud")
    }

    /// The effective path of the configuration.
    pub fn effective_conf(&self) -> &str {
        self.conf.as_deref().unwrap_or("/etc/ceph/ceph.conf")
    }
}

/// What is known of a pool. Written by the storage pool controller alone, from what hosts report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoragePoolStatus {
    /// How many hosts have the pool.
    #[serde(default)]
    pub hosts: u32,
    /// Its size: of all hosts' directories together, or of Ceph's pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Quantity>,
    /// What is free of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<Quantity>,
    /// The host that looks in it for what belongs to no object, where all hosts see the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub surveyor: Option<String>,
    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
