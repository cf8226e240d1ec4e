//! File: bytes that somebody uploads, which a host looks after.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Quantity, condition::Condition, image::Sha256, meta::DEFAULT_POOL};

/// Bytes that somebody uploads. Nothing of its spec can be changed: make a new file instead.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "File",
    plural = "files",
    singular = "file",
    namespaced,
    status = "FileStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "Bytes that somebody uploads.",
    selectable = ".status.host",
    printcolumn(name = "Size", type_ = "string", json_path = ".spec.size"),
    printcolumn(name = "Received", type_ = "string", json_path = ".status.received"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Host", type_ = "string", json_path = ".status.host", priority = 1),
    printcolumn(name = "SHA256", type_ = "string", json_path = ".status.sha256", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct FileSpec {
    /// How many bytes it has, at least 1. No more than these are taken, and it is complete once they are there.
    pub size: Quantity,

    /// The checksum that all of it has, as sha256: and 64 hexadecimal digits. Bytes with another one are thrown away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,

    /// The StoragePool that keeps it; "default" by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

impl FileSpec {
    /// The effective pool.
    pub fn effective_pool(&self) -> &str {
        self.pool.as_deref().unwrap_or(DEFAULT_POOL)
    }
}

/// What is known of a file. The file controller writes `host` and the condition Scheduled, the host's agent the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileStatus {
    /// The host that keeps the bytes, or looks after them where the pool is one of all hosts. Once it is chosen it stays; in such a pool,
    /// until its Host is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,

    /// How many bytes are there, as of a moment ago while more are coming.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received: Option<Quantity>,

    /// The checksum of the complete file, as the host found it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,

    /// Scheduled, Ready, Terminating.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
