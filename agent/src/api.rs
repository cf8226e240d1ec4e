//! Writing to the API server: only what changed, only on top of what was read, never without end.

use std::{future::Future, time::Duration};

use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::fmt::Debug;
use ucloud_types::{
    File, FileStatus, Host, HostStatus, Orphan, Snapshot, SnapshotStatus, VM, VMStatus, Volume, VolumeStatus,
    condition::{READY, REMOVED, SCHEDULED, TAKEN},
    orphan::OwnerReview,
};

/// The name under which the agents own what they report. A VM's moves with it from host to host.
const MANAGER: &str = "ucloud-agent";
/// The fields of a VM's status that subresources write.
const OTHERS: [&str; 3] = ["binding", "powerRequest", "restoreRequest"];

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody else wrote in between: what was decided may be wrong by now.
    #[error("the object has changed since it was read")]
    Conflict,
    /// The object is not there, or no longer this host's: the API server does not tell which.
    #[error("the object is gone, or bound to another host")]
    Gone,
    /// The API server did not answer in time. Whether it did what it was asked is unknown.
    #[error("the API server did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// Something else.
    #[error("the API server did not do it")]
    Other(#[source] Box<kube::Error>),
    /// What was to be written cannot be put into JSON.
    #[error("cannot encode a status")]
    Encode(#[source] serde_json::Error),
}

/// The API server, as the agent uses it.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    limit: Duration,
}

impl ApiServer {
    /// Every call takes at most `limit`.
    pub fn new(client: Client, limit: Duration) -> Self {
        Self { client, limit }
    }

    /// The same, with another limit.
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self { limit, ..self.clone() }
    }

    /// The client underneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Objects of a namespaced kind.
    pub fn namespaced<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// What `call` answers.
    pub async fn call<T>(&self, call: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
        match tokio::time::timeout(self.limit, call).await {
            Err(_) => Err(ApiError::Timeout(self.limit)),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => Err(ApiError::Conflict),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 403 => Err(ApiError::Gone),
            Ok(Err(error)) => Err(ApiError::Other(Box::new(error))),
        }
    }

    /// The VM as it is now. The API server answers from what is stored, not from a past.
    pub async fn read_vm(&self, vm: &VM) -> Result<VM, ApiError> {
        let (namespace, name) = names(vm);
        self.call(self.namespaced::<VM>(namespace).get(name)).await
    }

    /// Applies the agent's part of the VM's status `next`, if that changes it and if the VM is still as `vm`: that the
    /// write succeeds is the proof that the VM is still bound as it was. None if there is nothing to change.
    pub async fn report_vm(&self, vm: &VM, next: &VMStatus) -> Result<Option<VM>, ApiError> {
        let (namespace, name) = names(vm);
        let version = vm.metadata.resource_version.as_deref();
        let status = vm.status.as_ref();
        self.report(&self.namespaced(namespace), (name, vm, version), status, next, without_others).await
    }

    /// Applies the agent's part of the File's status `next`, if that changes it and if the File is still as `file`.
    pub async fn report_file(&self, file: &File, next: &FileStatus) -> Result<Option<File>, ApiError> {
        let (namespace, name) = names(file);
        let version = file.metadata.resource_version.as_deref();
        self.report(&self.namespaced(namespace), (name, file, version), file.status.as_ref(), next, files_own).await
    }

    /// The Volume as it is now.
    pub async fn read_volume(&self, namespace: &str, name: &str) -> Result<Volume, ApiError> {
        self.call(self.namespaced::<Volume>(namespace).get(name)).await
    }

    /// Applies the agents' part of the Volume's status `next`, if that changes it and if the Volume is still as `volume`:
    /// that the write succeeds is the proof that nobody else has claimed it.
    pub async fn report_volume(&self, volume: &Volume, next: &VolumeStatus) -> Result<Option<Volume>, ApiError> {
        let (namespace, name) = names(volume);
        let version = volume.metadata.resource_version.as_deref();
        let status = volume.status.as_ref();
        self.report(&self.namespaced(namespace), (name, volume, version), status, next, agents_own).await
    }

    /// The Snapshot as it is now.
    pub async fn read_snapshot(&self, snapshot: &Snapshot) -> Result<Snapshot, ApiError> {
        let (namespace, name) = names(snapshot);
        self.call(self.namespaced::<Snapshot>(namespace).get_status(name)).await
    }

    /// Applies the agent's part of the Snapshot's status `next`, if that changes it and if the Snapshot is still the same
    /// one; and, where that is the `proof` that it is still to be taken, if it is still as `snapshot`.
    pub async fn report_snapshot(
        &self,
        snapshot: &Snapshot,
        next: &SnapshotStatus,
        proof: bool,
    ) -> Result<Option<Snapshot>, ApiError> {
        let (namespace, name) = names(snapshot);
        let version = snapshot.metadata.resource_version.as_deref().filter(|_| proof);
        let status = snapshot.status.as_ref();
        self.report(&self.namespaced(namespace), (name, snapshot, version), status, next, takers_own).await
    }

    /// The Orphan as it is now.
    pub async fn read_orphan(&self, name: &str) -> Result<Orphan, ApiError> {
        self.call(Api::<Orphan>::all(self.client.clone()).get(name)).await
    }

    /// Those of the UIDs that no object has: of no host, and not even one that is being deleted.
    pub async fn missing_owners(&self, host: &str, uids: Vec<String>) -> Result<Vec<String>, ApiError> {
        let path = format!("{}/{host}/{}", Host::url_path(&(), None), OwnerReview::SUBRESOURCE);
        let body = serde_json::to_vec(&OwnerReview::of(uids)).map_err(ApiError::Encode)?;
        let request = http::Request::post(path).header("content-type", "application/json").body(body);
        let request = request.map_err(|error| ApiError::Other(Box::new(kube::Error::HttpError(error))))?;
        let answer: OwnerReview = self.call(self.client.request(request)).await?;
        Ok(answer.status.unwrap_or_default().missing)
    }

    /// Applies the Host's status `next`, if that changes it and if the Host is still the same one. What others wrote
    /// meanwhile is no reason not to: the agent knows best how its host is.
    pub async fn report_host(&self, host: &Host, next: &HostStatus) -> Result<Option<Host>, ApiError> {
        let name = host.metadata.name.as_deref().unwrap_or_default();
        let api = Api::all(self.client.clone());
        self.report(&api, (name, host, None), host.status.as_ref(), next, |status| status).await
    }

    async fn report<K, S>(
        &self,
        api: &Api<K>,
        (name, object, version): (&str, &K, Option<&str>),
        current: Option<&S>,
        next: &S,
        own: impl FnOnce(Value) -> Value,
    ) -> Result<Option<K>, ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
        S: Serialize + PartialEq + Default,
    {
        if *current.unwrap_or(&S::default()) == *next {
            return Ok(None);
        }
        let config = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "uid": object.meta().uid, "resourceVersion": version},
            "status": own(serde_json::to_value(next).map_err(ApiError::Encode)?),
        });
        let params = PatchParams::apply(MANAGER).force();
        self.call(api.patch_status(name, &params, &Patch::Apply(&config))).await.map(Some)
    }

    /// Replaces the object's finalizers, if it is still as `object`.
    pub async fn set_finalizers<K>(&self, object: &K, finalizers: &[String]) -> Result<(), ApiError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let (namespace, name) = names(object);
        let patch = json!({"metadata": {
            "resourceVersion": object.meta().resource_version,
            "uid": object.meta().uid,
            "finalizers": finalizers,
        }});
        self.call(self.namespaced::<K>(namespace).patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        Ok(())
    }
}

fn names<K: Resource>(object: &K) -> (&str, &str) {
    let metadata = object.meta();
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}

/// What of a File's status its host writes.
fn files_own(mut status: Value) -> Value {
    if let Some(map) = status.as_object_mut() {
        map.remove("host");
        if let Some(conditions) = map.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|condition| condition["type"] == READY);
        }
    }
    status
}

/// What of a Snapshot's status the host that takes it writes.
fn takers_own(mut status: Value) -> Value {
    if let Some(map) = status.as_object_mut() {
        map.retain(|field, _| ["takenAt", "consistency", "conditions"].contains(&field.as_str()));
        if let Some(conditions) = map.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|condition| condition["type"] == TAKEN);
        }
    }
    status
}

/// What of a Volume's status agents write.
fn agents_own(mut status: Value) -> Value {
    if let Some(map) = status.as_object_mut() {
        map.remove("phase");
        if let Some(conditions) = map.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|condition| condition["type"] == REMOVED);
        }
    }
    status
}

/// A VM's status without what others write of it.
fn without_others(mut status: Value) -> Value {
    if let Some(map) = status.as_object_mut() {
        map.retain(|field, _| !OTHERS.contains(&field.as_str()));
        if let Some(conditions) = map.get_mut("conditions").and_then(Value::as_array_mut) {
            conditions.retain(|condition| condition["type"] != SCHEDULED);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_applies_nothing_that_others_write() {
        let status = json!({
            "phase": "Running", "binding": {"host": "h1", "epoch": 1}, "powerRequest": {"id": 1, "action": "Stop"},
            "restoreRequest": {"id": 1, "snapshot": "kept", "disks": []},
            "conditions": [{"type": "Scheduled"}, {"type": "Ready"}],
        });
        assert_eq!(without_others(status), json!({"phase": "Running", "conditions": [{"type": "Ready"}]}));
        let status = json!({
            "host": "h1", "received": "1Gi",
            "conditions": [{"type": "Scheduled"}, {"type": "Ready"}, {"type": "Terminating"}],
        });
        assert_eq!(files_own(status), json!({"received": "1Gi", "conditions": [{"type": "Ready"}]}));
        let status = json!({
            "phase": "Attached", "host": "h1", "size": "1Gi", "attachment": {"vm": "web"},
            "conditions": [{"type": "Ready"}, {"type": "Terminating"}, {"type": "Removed"}],
        });
        let own = json!({
            "host": "h1", "size": "1Gi", "attachment": {"vm": "web"}, "conditions": [{"type": "Removed"}],
        });
        assert_eq!(agents_own(status), own);
    }
}
