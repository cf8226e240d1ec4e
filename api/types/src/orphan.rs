//! Orphan: what was found on a host, or in a pool, and belongs to no object.

use fnv::FnvHasher;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::hash::Hasher as _;

use crate::{
    GROUP, Quantity, VERSION,
    condition::{Condition, Time},
};

/// What was found on a host, or in a pool, and belongs to no object. The orphan controller makes it; only `destroy` and `adopt`
/// of its spec can be changed.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "Orphan",
    plural = "orphans",
    singular = "orphan",
    status = "OrphanStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "What was found on a host, or in a pool, and belongs to no object.",
    selectable = ".status.host",
    printcolumn(name = "Kind", type_ = "string", json_path = ".spec.kind"),
    printcolumn(name = "Host", type_ = "string", json_path = ".spec.host"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool"),
    printcolumn(name = "Size", type_ = "string", json_path = ".status.size"),
    printcolumn(name = "Origin", type_ = "string", json_path = ".status.origin"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "UID", type_ = "string", json_path = ".spec.uid", priority = 1),
    printcolumn(name = "Disk", type_ = "string", json_path = ".spec.name", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct OrphanSpec {
    /// What it is.
    pub kind: OrphanKind,

    /// The UID of the object that it belonged to, as its own name says.
    #[schemars(length(min = 1, max = 128))]
    pub uid: String,

    /// The name of a disk in its VM; `volume` for one that was a Volume. Other things have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,

    /// The StoragePool that it is in. A domain is in none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,

    /// The host that it is on. None in a pool that all hosts share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,

    /// Whether it is to be destroyed: `ucloudctl destroy` sets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub destroy: bool,

    /// The Volume that a disk is to become: `ucloudctl adopt` sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adoption>,
}

impl OrphanSpec {
    /// The name of the Orphan: what is found twice, by whomever, is one object.
    pub fn object_name(&self) -> String {
        let mut hasher = FnvHasher::default();
        for part in [self.host.as_deref(), self.pool.as_deref(), Some(&self.uid), self.name.as_deref()] {
            hasher.write(part.unwrap_or_default().as_bytes());
            // no part has such a byte
            hasher.write_u8(0);
        }
        format!("{}-{:016x}", self.kind.word(), hasher.finish())
    }

    /// Whether it is what a host reports.
    pub fn is(&self, found: &HostOrphan) -> bool {
        (self.kind, &self.uid, &self.name, &self.pool) == (found.kind, &found.uid, &found.name, &found.pool)
    }

    /// What it is, for people.
    pub fn describe(&self) -> String {
        describe(self.kind, &self.uid, self.name.as_deref())
    }
}

fn describe(kind: OrphanKind, uid: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{} {name} of {uid}", kind.word()),
        None => format!("{} {uid}", kind.word()),
    }
}

/// What an orphan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum OrphanKind {
    /// A domain of libvirt, which may run.
    Domain,
    /// A disk, of a VM or a Volume.
    Disk,
    /// A copy of an image.
    Image,
    /// The bytes of a File.
    File,
}

impl OrphanKind {
    /// The kind as one says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Disk => "disk",
            Self::Image => "image",
            Self::File => "file",
        }
    }
}

/// The Volume that a disk is to become. It must name the Orphan as its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Adoption {
    /// The Volume's namespace.
    pub namespace: String,
    /// The Volume's name.
    pub volume: String,
}

/// What is known of an orphan. Written by the orphan controller alone, from what hosts report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OrphanStatus {
    /// What becomes of it, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<OrphanPhase>,

    /// The host that destroys it, or has a Volume take it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,

    /// How large it is: the memory of a domain, the size that guests see of a disk or an image, the bytes of a File.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,

    /// NAMESPACE/NAME of the object that it says it was of, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,

    /// When it is destroyed unless somebody adopts it before. None: never by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destroy_at: Option<Time>,

    /// The UID of the Volume that takes it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_uid: Option<String>,

    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What becomes of an orphan, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OrphanPhase {
    /// Nothing, until somebody says so.
    Found,
    /// Its host destroys it.
    Destroying,
    /// A Volume takes it over.
    Adopting,
}

/// The most orphans that a host reports. It reports the next ones when these are gone.
pub const MOST_ORPHANS: usize = 100;

/// What a host has found and no object explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostOrphan {
    /// What it is.
    pub kind: OrphanKind,
    /// The UID of the object that it belonged to.
    pub uid: String,
    /// The name of a disk in its VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The StoragePool that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// NAMESPACE/NAME of the object that it says it was of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// How large it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Quantity>,
    /// Why the host could not do with it what it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl HostOrphan {
    /// Something of which nothing else is known yet.
    pub fn new(kind: OrphanKind, uid: impl Into<String>) -> Self {
        Self { kind, uid: uid.into(), name: None, pool: None, origin: None, size: None, error: None }
    }

    /// Whether both are the same thing, whatever is known of it.
    pub fn is(&self, other: &Self) -> bool {
        (self.kind, &self.uid, &self.name, &self.pool) == (other.kind, &other.uid, &other.name, &other.pool)
    }

    /// What it is, for people.
    pub fn describe(&self) -> String {
        describe(self.kind, &self.uid, self.name.as_deref())
    }
}

/// The question of a host which of these UIDs are those of no object: `POST hosts/NAME/owners`. It is answered, and not stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerReview {
    /// `ucloud.ungleich.ch/v1alpha1`.
    pub api_version: String,
    /// `OwnerReview`.
    pub kind: String,
    /// The question.
    pub spec: OwnerReviewSpec,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<OwnerReviewStatus>,
}

/// The question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerReviewSpec {
    /// UIDs of VMs, Volumes, Images and Files.
    pub uids: Vec<String>,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OwnerReviewStatus {
    /// Those of which there is no object, not even one that is being deleted.
    pub missing: Vec<String>,
}

impl OwnerReview {
    /// The kind of the request and the answer.
    pub const KIND: &'static str = "OwnerReview";
    /// The name of the subresource of Hosts.
    pub const SUBRESOURCE: &'static str = "owners";

    /// The question about these UIDs.
    pub fn of(uids: Vec<String>) -> Self {
        Self {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: Self::KIND.to_owned(),
            spec: OwnerReviewSpec { uids },
            status: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(host: Option<&str>, name: &str) -> OrphanSpec {
        OrphanSpec {
            kind: OrphanKind::Disk,
            uid: "0b4ae8d6".into(),
            name: Some(name.into()),
            pool: Some("default".into()),
            host: host.map(str::to_owned),
            destroy: false,
            adopt: None,
        }
    }

    #[test]
    fn one_thing_has_one_name() {
        let first = disk(Some("h1"), "root");
        let ordered = OrphanSpec { destroy: true, ..first.clone() };
        assert_eq!(first.object_name(), ordered.object_name(), "whatever is to become of it");
        assert_eq!(first.object_name(), "disk-9c6a9d386600fc43", "and for ever");
        let others = [disk(Some("h2"), "root"), disk(None, "root"), disk(Some("h1"), "data")];
        for other in others {
            assert_ne!(first.object_name(), other.object_name());
        }
    }

    #[test]
    fn what_is_reported_is_found_again() {
        let mut reported = HostOrphan::new(OrphanKind::Disk, "0b4ae8d6");
        assert!(!disk(None, "root").is(&reported));
        reported.name = Some("root".into());
        reported.pool = Some("default".into());
        reported.size = "1Gi".parse().ok();
        assert!(disk(None, "root").is(&reported) && disk(Some("h1"), "root").is(&reported));
        assert_eq!(reported.describe(), "disk root of 0b4ae8d6");
    }
}
