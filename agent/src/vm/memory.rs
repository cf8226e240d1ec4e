//! What the agent remembers of VMs, by UID. All of it may be lost at any moment.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use kube::Resource;
use ucloud_agent_core::vm::Memory;
use ucloud_types::VM;

use super::backoff::Backoff;

/// What the agent remembers of one VM.
#[derive(Clone, Default)]
pub struct Remembered {
    /// What the core decides by.
    pub core: Memory,
    /// The epoch at which the API server confirmed that the VM is to run here.
    pub confirmed: Option<u64>,
    /// The VM as the API server last answered a write. The cache may be behind it.
    pub latest: Option<Arc<VM>>,
    /// How often the VM was started again.
    pub restarts: u32,
    /// How often in a row it could not be brought to rest, for whatever cause.
    pub failures: u32,
    /// How long no step is taken, because one failed.
    pub backoff: Backoff,
    /// When the network is asked next for the addresses of the VM, and how often it was asked.
    pub asked: Option<(Timestamp, u32)>,
}

/// What the agent remembers of all VMs.
#[derive(Default)]
pub struct Memories(Mutex<HashMap<String, Remembered>>);

impl Memories {
    /// Reads or changes what is remembered of the VM with this UID.
    pub fn with<T>(&self, uid: &str, change: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(all.entry(uid.to_owned()).or_default())
    }

    /// Forgets all VMs but these.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
    }

    /// The newest that is known of this VM: what is cached, or what the API server answered since.
    pub fn newest(&self, cached: Arc<VM>) -> Arc<VM> {
        let Some(uid) = cached.metadata.uid.clone() else { return cached };
        self.with(&uid, |remembered| match &remembered.latest {
            Some(latest) if revision(&**latest) > revision(&*cached) => Arc::clone(latest),
            _ => {
                remembered.latest = None;
                cached
            }
        })
    }
}

/// The revision of an object: they grow with each write (KEP 5504 makes that a promise).
pub fn revision<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(uid: &str, version: &str) -> Arc<VM> {
        Arc::new(
            serde_json::from_value(serde_json::json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
                "metadata": {"name": "web", "namespace": "default", "uid": uid, "resourceVersion": version},
                "spec": {"cpus": 1, "memory": "1Gi", "disks": []}
            }))
            .unwrap(),
        )
    }

    #[test]
    fn an_older_list_does_not_undo_an_answer() {
        let memories = Memories::default();
        memories.with("a", |remembered| remembered.latest = Some(vm("a", "10")));
        assert_eq!(memories.newest(vm("a", "9")).metadata.resource_version.as_deref(), Some("10"));
        assert_eq!(memories.newest(vm("b", "9")).metadata.uid.as_deref(), Some("b"), "another VM of the same name");
        assert_eq!(memories.newest(vm("a", "11")).metadata.resource_version.as_deref(), Some("11"));
        assert_eq!(memories.newest(vm("a", "9")).metadata.resource_version.as_deref(), Some("9"), "it was let go of");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let memories = Memories::default();
        memories.with("a", |remembered| remembered.restarts = 3);
        memories.keep(&BTreeSet::new());
        assert_eq!(memories.with("a", |remembered| remembered.restarts), 0);
    }
}
