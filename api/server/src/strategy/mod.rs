//! What each of ucloud's kinds demands beyond its schema: one file per kind.
//!
//! A strategy names every field that is wrong, not only the first. Two rules hold for all kinds: what their Rust type
//! cannot read is refused, also in a status (one object that clients cannot read would stop their watches), and what
//! depends on other objects is looked up in the watch cache, which may be a moment behind; where that is not enough, a
//! controller settles the race.

mod address;
mod field;
mod file;
mod host;
mod image;
mod network;
mod network_allocation;
mod network_pool;
mod orphan;
mod security_group;
mod snapshot;
mod snapshot_schedule;
mod storage_pool;
mod vm;
mod volume;

pub use file::FileStrategy;
pub use host::HostStrategy;
pub use image::ImageStrategy;
pub use network::NetworkStrategy;
pub use network_allocation::NetworkAllocationStrategy;
pub use network_pool::NetworkPoolStrategy;
pub use orphan::OrphanStrategy;
pub use security_group::SecurityGroupStrategy;
pub use snapshot::SnapshotStrategy;
pub use snapshot_schedule::SnapshotScheduleStrategy;
pub use storage_pool::StoragePoolStrategy;
pub use vm::VmStrategy;
pub use volume::VolumeStrategy;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use ucloud_machinery::{
    meta::names::dns1123_subdomain,
    status::{FieldError, FieldPath},
};

/// The object as its Rust type, or the place where it is none.
fn typed<K: DeserializeOwned>(object: &Value) -> Result<K, FieldError> {
    // only where something is wrong is it worth the cost to follow where
    K::deserialize(object).or_else(|_| serde_path_to_error::deserialize(object)).map_err(|error| {
        let path = error.path().to_string();
        let found = object.pointer(&pointer(error.path())).cloned().unwrap_or_default();
        FieldError::invalid(FieldPath::new(&path), found, &error.into_inner().to_string())
    })
}

/// The errors of a status that its Rust type cannot read.
fn status_errors<K: DeserializeOwned>(object: &Value) -> Vec<FieldError> {
    typed::<K>(object).err().into_iter().collect()
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |pointer, segment| match segment {
        Segment::Seq { index } => format!("{pointer}/{index}"),
        Segment::Map { key } => format!("{pointer}/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => pointer,
    })
}

/// Refuses a change; `advice` says what to do instead.
fn check_immutable<T: PartialEq + Serialize>(path: &str, old: &T, new: &T, advice: &str, errors: &mut Vec<FieldError>) {
    if old != new {
        let value = serde_json::to_value(new).unwrap_or_default();
        errors.push(FieldError::invalid(FieldPath::new(path), value, &format!("field is immutable; {advice}")));
    }
}

/// The name of another object must be one.
fn check_name(path: FieldPath, name: &str, errors: &mut Vec<FieldError>) {
    if let Err(rule) = dns1123_subdomain(name) {
        errors.push(FieldError::invalid(path, name, &rule));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ucloud_types::{Network, VM};

    use super::*;

    #[test]
    fn what_the_type_cannot_read_is_named_with_its_path() {
        let object = json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM", "metadata": {"name": "a"},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": []},
            "status": {"interfaces": [{"name": "eth0", "network": "n", "mac": "00:00:00:00:00:00"}]}});
        let [error] = status_errors::<VM>(&object).try_into().unwrap();
        assert_eq!(error.field.as_str(), "status.interfaces[0].mac");
        assert_eq!(error.value, Some(json!("00:00:00:00:00:00")));
    }

    #[test]
    fn a_default_that_is_written_out_is_no_change() {
        let network = |spec: Value| {
            typed::<Network>(&json!({"apiVersion": "x", "kind": "Network", "metadata": {}, "spec": spec})).unwrap()
        };
        let mut errors = Vec::new();
        let (old, new) = (network(json!({})), network(json!({"ipam": "Automatic"})));
        check_immutable("spec.ipam", &old.spec.effective_ipam(), &new.spec.effective_ipam(), "", &mut errors);
        assert!(errors.is_empty());
    }
}
