//! Image: what VMs' disks are cloned from.

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{Quantity, condition::Condition, meta::DEFAULT_POOL};

/// What VMs' disks are cloned from.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "Image",
    plural = "images",
    singular = "image",
    shortname = "img",
    namespaced,
    status = "ImageStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "What VMs' disks are cloned from.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "string", json_path = ".status.progress"),
    printcolumn(name = "Format", type_ = "string", json_path = ".spec.format"),
    printcolumn(name = "Compression", type_ = "string", json_path = ".spec.compression", priority = 1),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.virtualSize"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "SHA256", type_ = "string", json_path = ".status.sha256", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// Where the bytes come from. It cannot be changed: make a new image instead.
    pub source: ImageSource,

    /// The format of the source; what is found there must be of this format. It cannot be changed.
    pub format: ImageFormat,

    /// How the source is compressed, if it is; what is found there must be compressed so, and once, and what it unpacks
    /// to must be of the format. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression: Option<Compression>,

    /// The checksum of the source as it is published, thus of the compressed bytes where it is compressed, as sha256:
    /// and 64 hexadecimal digits. An image whose source differs is refused. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Sha256>,

    /// The StoragePool that keeps it; "default" by default. It cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
}

impl ImageSpec {
    /// The effective pool.
    pub fn effective_pool(&self) -> &str {
        self.pool.as_deref().unwrap_or(DEFAULT_POOL)
    }
}

/// Where an image's bytes come from: exactly one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct ImageSource {
    /// A web server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// A file in the import folder of the hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileSource>,
    /// A File that somebody uploads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<UploadSource>,
    /// A disk in a Snapshot. Such images are made by the snapshot, and by nobody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotSource>,
}

/// A source on a web server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpSource {
    /// An http or https URL, without user name and password.
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^/@\s]+(/\S*)?$"))]
    pub url: String,
}

/// A source in the import folder of the hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileSource {
    /// The name of a file that an operator has put into the folder of this namespace in the hosts' import
    /// folder (`IMPORT/NAMESPACE/NAME`). It is a name, not a path.
    #[schemars(length(max = 255), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub name: String,
}

/// A source that somebody uploads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UploadSource {
    /// The name of a File in the image's namespace. It is imported once it is complete, and must stay as long as hosts
    /// may need a copy of the image.
    pub file: String,
}

/// A disk in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSource {
    /// The name of the Snapshot, in the image's namespace.
    pub name: String,
    /// The name of the disk in it.
    pub disk: String,
}

/// The format of a disk image, complete in one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// The plain bytes of a disk.
    Raw,
    /// VMware's, as monolithicSparse or streamOptimized.
    Vmdk,
    /// Hyper-V's, fixed or dynamic.
    Vhdx,
    /// VirtualBox's, fixed or dynamic.
    Vdi,
}

impl ImageFormat {
    /// The word that QEMU and libvirt use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
        }
    }
}

/// How a source is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// gzip (RFC 1952).
    Gz,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zst,
}

impl Compression {
    /// The word in an Image, which files have as their extension too.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gz => "gz",
            Self::Xz => "xz",
            Self::Zst => "zst",
        }
    }
}

/// A SHA-256 checksum, written as `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256(String);

/// Why a text is not a [`Sha256`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is not a checksum; write sha256: and 64 hexadecimal digits")]
pub struct ParseChecksumError(String);

impl Sha256 {
    /// The 64 lower-case hexadecimal digits alone; safe as a file's name.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl JsonSchema for Sha256 {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sha256".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^sha256:[0-9a-fA-F]{64}$" })
    }
}

impl From<[u8; 32]> for Sha256 {
    fn from(digest: [u8; 32]) -> Self {
        use std::fmt::Write as _;
        Self(digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = ParseChecksumError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.strip_prefix("sha256:") {
            Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Ok(Self(hex.to_ascii_lowercase()))
            }
            _ => Err(ParseChecksumError(text)),
        }
    }
}

impl From<Sha256> for String {
    fn from(checksum: Sha256) -> Self {
        checksum.to_string()
    }
}

impl std::fmt::Display for Sha256 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// What is known of an image. Written by the image controller alone, from what hosts report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// Where the image is in its life, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ImagePhase>,

    /// How far the import is, such as "42%".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,

    /// The host that imports the image first, and proves what it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importer: Option<String>,

    /// The size of the disk that it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<Quantity>,

    /// The checksum of the source as it is published (compressed, where it is), as it was found to be. Every host's copy
    /// must have it. The bytes of a snapshot are not summed: this is a number of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Sha256>,

    /// The generation of the spec that the controller has acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Terminating.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where an image is in its life, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePhase {
    /// No host imports it yet.
    Pending,
    /// A host fetches, checks and converts it.
    Importing,
    /// VMs can be made from it.
    Ready,
    /// It cannot be imported; condition Ready says why.
    Failed,
    /// It is being deleted.
    Terminating,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_canonical_and_never_a_path() {
        let text = format!("sha256:{}", "aB".repeat(32));
        let sum = Sha256::try_from(text).unwrap();
        assert_eq!(sum.hex(), "ab".repeat(32));
        assert_eq!(Sha256::from([0xab; 32]), sum);
        for text in ["", "sha256:", "md5:00", &format!("sha256:{}", "../".repeat(22)[..64].to_owned())] {
            assert!(Sha256::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
