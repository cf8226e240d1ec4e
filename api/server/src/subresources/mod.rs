//! What is done to a VM by a request of its own and not by writing its fields: binding it to a host, and starting,
//! stopping, restarting and restoring it. Each is a pure function of the VM, carried out by compare-and-swap. And the bytes of
//! Files, Images and Volumes, which the API server hands on and never keeps; and what hosts ask about what they have found.

mod binding;
mod content;
mod owners;
mod power;
mod restore;

pub use binding::{BindingHandler, VMBinding};
pub use content::{Content, ContentHandler};
pub use owners::OwnersHandler;
pub use power::{PowerHandler, PowerVerb};
pub use restore::RestoreHandler;

use serde_json::Value;
use ucloud_machinery::status::ApiError;
use ucloud_types::{GROUP, VM};

/// The plural of VMs, as errors name it.
const VMS: &str = "vms";

/// Changes the typed VM, and carries what changed over into the JSON object.
///
/// A change sets fields and removes none. All else stays as its author wrote it: a memory of `1024Mi` does not become `1Gi` because somebody stops the VM.
fn edit(object: &mut Value, change: impl FnOnce(&mut VM) -> Result<(), ApiError>) -> Result<(), ApiError> {
    let mut vm: VM = serde_json::from_value(object.clone())
        .map_err(|error| ApiError::internal(format!("the stored VM cannot be read: {error}")))?;
    let before = serde_json::to_value(&vm).map_err(ApiError::internal)?;
    change(&mut vm)?;
    let after = serde_json::to_value(&vm).map_err(ApiError::internal)?;
    for part in ["metadata", "spec", "status"] {
        let fields = after[part].as_object().into_iter().flatten();
        for (field, value) in fields.filter(|(field, value)| before[part].get(field) != Some(value)) {
            object[part][field] = value.clone();
        }
    }
    Ok(())
}

/// 409 about a VM.
fn conflict(vm: &VM, why: &str) -> ApiError {
    ApiError::conflict(GROUP, VMS, vm.metadata.name.as_deref().unwrap_or_default(), why)
}

/// 409 if the VM is being deleted.
fn refuse_terminating(vm: &VM) -> Result<(), ApiError> {
    if vm.metadata.deletion_timestamp.is_some() {
        return Err(conflict(vm, "the VM is being deleted"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_changed_stays_as_it_was_written() {
        let mut object = json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM", "metadata": {"name": "web", "labels": {"a": "b"}},
            "spec": {"cpus": 1, "memory": "1024Mi", "disks": [{"name": "root", "image": "debian", "size": "1.5Gi"}],
                "networks": [{"name": "eth0", "network": "n", "mac": "02:00:00:00:00:AA"}]},
        });
        let mut expected = object.clone();
        edit(&mut object, |_| Ok(())).unwrap();
        assert_eq!(object, expected);
        edit(&mut object, |vm| {
            vm.status.get_or_insert_default().restarts = Some(1);
            vm.metadata.finalizers = Some(vec!["x".to_owned()]);
            Ok(())
        })
        .unwrap();
        expected["status"] = json!({"restarts": 1});
        expected["metadata"]["finalizers"] = json!(["x"]);
        assert_eq!(object, expected);
    }
}
