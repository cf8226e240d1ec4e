//! Writing to the API server: only what changed, only on top of what was read, never without end.

use std::{future::Future, time::Duration};

use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::fmt::Debug;
use ucloud_types::{Host, VM};

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

    /// Changes the VM's status to `next`, if that is a change and if the VM is still as `vm`. None if there is none.
    pub async fn report_vm<S: Serialize>(&self, vm: &VM, next: &S) -> Result<Option<VM>, ApiError> {
        let (namespace, name) = names(vm);
        self.report(&self.namespaced(namespace), name, vm, vm.status.as_ref(), next).await
    }

    /// Changes the Host's status to `next`, if that is a change and if the Host is still as `host`.
    pub async fn report_host<S: Serialize>(&self, host: &Host, next: &S) -> Result<Option<Host>, ApiError> {
        let name = host.metadata.name.as_deref().unwrap_or_default();
        self.report(&Api::all(self.client.clone()), name, host, host.status.as_ref(), next).await
    }

    async fn report<K, S>(
        &self,
        api: &Api<K>,
        name: &str,
        object: &K,
        current: Option<&S>,
        next: &impl Serialize,
    ) -> Result<Option<K>, ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
        S: Serialize,
    {
        let Some(changes) = difference(&current, next).map_err(ApiError::Encode)? else { return Ok(None) };
        let patch = json!({
            "metadata": {"resourceVersion": object.meta().resource_version},
            "status": changes,
        });
        self.call(api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await.map(Some)
    }

    /// Replaces the VM's finalizers, if the VM is still as `vm`.
    pub async fn set_finalizers(&self, vm: &VM, finalizers: &[String]) -> Result<(), ApiError> {
        let (namespace, name) = names(vm);
        let patch = json!({"metadata": {
            "resourceVersion": vm.metadata.resource_version,
            "uid": vm.metadata.uid,
            "finalizers": finalizers,
        }});
        self.call(self.namespaced::<VM>(namespace).patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
        Ok(())
    }
}

fn names(vm: &VM) -> (&str, &str) {
    (vm.metadata.namespace.as_deref().unwrap_or_default(), vm.metadata.name.as_deref().unwrap_or_default())
}

/// The fields of a status that differ, as a merge patch (RFC 7396) of it. None if there are none.
fn difference(
    current: &impl Serialize,
    next: &impl Serialize,
) -> Result<Option<Map<String, Value>>, serde_json::Error> {
    let fields = |value| match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    };
    let current = fields(serde_json::to_value(current)?);
    let next = fields(serde_json::to_value(next)?);
    let removed = current.keys().filter(|key| !next.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let changed = next.iter().filter(|(key, value)| current.get(*key) != Some(value));
    let changes: Map<_, _> = changed.map(|(key, value)| (key.clone(), value.clone())).chain(removed).collect();
    Ok((!changes.is_empty()).then_some(changes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_has_what_differs_and_nothing_else() {
        let current = json!({"phase": "Running", "restarts": 1, "disks": [{"name": "root"}]});
        assert_eq!(difference(&current, &current).unwrap(), None);
        let next = json!({"phase": "Stopped", "disks": [{"name": "root"}]});
        assert_eq!(
            Value::from(difference(&current, &next).unwrap().unwrap()),
            json!({"phase": "Stopped", "restarts": null})
        );
        assert_eq!(Value::from(difference(&Value::Null, &next).unwrap().unwrap()), next);
    }
}
