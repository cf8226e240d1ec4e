//! `POST vms/NAME/binding`: gives a VM its host.
//!
//! The scheduler's only write. However many schedulers there are and whatever they believe, a VM is bound once: the
//! request names the VM's UID and the epoch that the binding makes, and counts only while the VM has no host and its
//! last epoch was the one before. The same write adds the agent's finalizer, so that there is no moment in which a
//! bound VM can vanish without its agent.

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use ucloud_machinery::{
    meta,
    status::{ApiError, FieldError, FieldPath},
    strategy::{Lister, Method, SubresourceHandler, SubresourceRequest, SubresourceResponse},
};
use ucloud_types::{
    GROUP, VERSION, VM,
    condition::{self, Finding, Verdict},
    meta::AGENT_FINALIZER,
    vm::Binding,
};

use super::{conflict, edit, refuse_terminating};

/// The kind of the request's body.
const KIND: &str = "VMBinding";

/// The request's body: which VM goes to which host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VMBinding {
    /// `ucloud.ungleich.ch/v1alpha1`.
    pub api_version: String,
    /// `VMBinding`.
    pub kind: String,
    /// Which VM is meant.
    pub metadata: BoundVm,
    /// The Host's name.
    pub host: String,
    /// The epoch of the new binding: the last one's plus one, 1 for a VM that never had a host.
    pub epoch: u64,
}

/// Which VM is meant. A VM that was deleted and made again under the same name has another UID.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BoundVm {
    /// The VM's name.
    pub name: String,
    /// The VM's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The VM's UID.
    pub uid: String,
    /// The state of the VM on which the decision was made, where it must not have changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl VMBinding {
    /// The binding of `vm` to `host` that follows the one it has, if any. The VM must have been read from the API.
    pub fn next(vm: &VM, host: &str) -> Self {
        let metadata = &vm.metadata;
        Self {
            api_version: format!("{GROUP}/{VERSION}"),
            kind: KIND.to_owned(),
            metadata: BoundVm {
                name: metadata.name.clone().unwrap_or_default(),
                namespace: metadata.namespace.clone(),
                uid: metadata.uid.clone().unwrap_or_default(),
                resource_version: None,
            },
            host: host.to_owned(),
            epoch: last_epoch(vm) + 1,
        }
    }
}

fn last_epoch(vm: &VM) -> u64 {
    vm.status.as_ref().and_then(|status| status.binding.as_ref()).map_or(0, |binding| binding.epoch)
}

/// Serves the subresource.
pub struct BindingHandler;

#[async_trait]
impl SubresourceHandler for BindingHandler {
    fn methods(&self) -> &'static [Method] {
        &[Method::Create]
    }

    fn kind(&self) -> &'static str {
        KIND
    }

    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError> {
        let context = request.context;
        let body = request.body.ok_or_else(|| ApiError::bad_request(format!("the body must be a {KIND}")))?;
        let binding: VMBinding = serde_json::from_value(body)
            .map_err(|error| ApiError::bad_request(format!("the body is no {KIND}: {error}")))?;
        check(&binding, context.name, context.namespace)?;
        find_host(context.lister, context.name, &binding.host)?;
        let now = Timestamp::now();
        request.target.update(&mut |vm| edit(vm, |vm| bind(vm, &binding, now))).await?;
        Ok(SubresourceResponse::created())
    }
}

/// What can be said of the request without looking at anything else.
fn check(binding: &VMBinding, name: &str, namespace: Option<&str>) -> Result<(), ApiError> {
    let version = format!("{GROUP}/{VERSION}");
    if binding.api_version != version || binding.kind != KIND {
        return Err(ApiError::bad_request(format!("the body must be a {KIND} of {version}")));
    }
    let other_namespace = binding.metadata.namespace.as_deref().is_some_and(|given| Some(given) != namespace);
    if binding.metadata.name != name || other_namespace {
        return Err(ApiError::bad_request("the name and namespace in metadata must be those of the request's path"));
    }
    Ok(())
}

fn find_host(lister: &dyn Lister, vm: &str, host: &str) -> Result<(), ApiError> {
    let error = match lister.get(GROUP, "hosts", None, host) {
        None => FieldError::not_found(FieldPath::new("host"), host),
        Some(found) if meta::is_terminating(&found) => {
            FieldError::invalid(FieldPath::new("host"), host, "the host is being deleted")
        }
        Some(_) => return Ok(()),
    };
    Err(ApiError::invalid(GROUP, KIND, vm, &[error]))
}

/// Binds the VM, if it is the one that is meant and in the state that the binding follows.
fn bind(vm: &mut VM, binding: &VMBinding, now: Timestamp) -> Result<(), ApiError> {
    let found = vm.metadata.uid.as_deref().unwrap_or_default();
    if found != binding.metadata.uid {
        let wanted = &binding.metadata.uid;
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        return Err(conflict(vm, &why));
    }
    let version = vm.metadata.resource_version.as_deref();
    if let Some(wanted) = binding.metadata.resource_version.as_deref()
        && version != Some(wanted)
    {
        return Err(conflict(vm, "the object has been modified since the binding was decided"));
    }
    refuse_terminating(vm)?;
    let generation = vm.metadata.generation;
    if let Some(bound) = vm.status.as_ref().and_then(|status| status.binding.as_ref()) {
        let why = format!("the VM is bound to host {:?} already, at epoch {}", bound.host, bound.epoch);
        return Err(conflict(vm, &why));
    }
    let next = last_epoch(vm) + 1;
    if binding.epoch != next {
        return Err(conflict(vm, &format!("the next epoch is {next}, not {}", binding.epoch)));
    }
    let status = vm.status.get_or_insert_default();
    status.binding = Some(Binding { host: binding.host.clone(), epoch: binding.epoch });
    let message = format!("bound to host {}", binding.host);
    let finding = Finding::new(condition::SCHEDULED, Verdict::True, "Bound", message);
    condition::set(&mut status.conditions, &finding, generation, now);
    let finalizers = vm.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == AGENT_FINALIZER) {
        finalizers.push(AGENT_FINALIZER.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use ucloud_machinery::status::Reason;

    use super::*;

    fn vm() -> VM {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
            "metadata": {"name": "web", "namespace": "default", "uid": "u1", "resourceVersion": "7", "generation": 3},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": "debian"}]},
            "status": {"phase": "Pending"},
        }))
        .unwrap()
    }

    #[test]
    fn a_binding_is_complete() {
        let mut vm = vm();
        let binding = VMBinding::next(&vm, "h1");
        assert_eq!(binding.epoch, 1);
        bind(&mut vm, &binding, Timestamp::UNIX_EPOCH).unwrap();
        let status = vm.status.unwrap();
        assert_eq!(status.binding, Some(Binding { host: "h1".into(), epoch: 1 }));
        assert_eq!(status.phase, Some(ucloud_types::vm::VMPhase::Pending), "the phase is the agent's");
        let scheduled = condition::get(&status.conditions, condition::SCHEDULED).unwrap();
        assert_eq!((scheduled.status.as_str(), scheduled.reason.as_str()), ("True", "Bound"));
        assert_eq!(scheduled.observed_generation, Some(3));
        assert_eq!(vm.metadata.finalizers, Some(vec![AGENT_FINALIZER.to_owned()]));
    }

    #[test]
    fn whatever_was_decided_on_another_state_is_refused() {
        let refused = |vm: &mut VM, binding: &VMBinding| {
            let before = vm.clone();
            let error = bind(vm, binding, Timestamp::UNIX_EPOCH).unwrap_err();
            assert_eq!(error.reason(), Reason::Conflict, "{error}");
            assert_eq!(*vm, before, "a refusal changes nothing");
            error.to_string()
        };
        let binding = VMBinding::next(&vm(), "h1");

        let mut other = vm();
        other.metadata.uid = Some("u2".into());
        assert!(refused(&mut other, &binding).contains("UID in precondition: u1"));

        let mut terminating = vm();
        terminating.metadata.deletion_timestamp = Some(condition::Time(Timestamp::UNIX_EPOCH));
        assert!(refused(&mut terminating, &binding).contains("being deleted"));

        for epoch in [0, 2] {
            assert!(refused(&mut vm(), &VMBinding { epoch, ..binding.clone() }).contains("next epoch is 1"));
        }

        let mut bound = vm();
        bind(&mut bound, &binding, Timestamp::UNIX_EPOCH).unwrap();
        assert!(refused(&mut bound, &binding).contains("bound to host \"h1\" already, at epoch 1"));
        let again = VMBinding::next(&bound, "h2");
        assert_eq!(again.epoch, 2);
        assert!(refused(&mut bound, &again).contains("already"));

        let mut stale = binding;
        stale.metadata.resource_version = Some("6".into());
        assert!(refused(&mut vm(), &stale).contains("modified"));
    }
}
