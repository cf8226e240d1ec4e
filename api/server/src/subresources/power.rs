//! `POST vms/NAME/start`, `stop` and `restart`: what a person asks of a VM, put into the words that its agent reads.
//!
//! A VM that is switched on and off by its spec (Always, Halted) is switched there: this is the user's own change of
//! the spec, as `scale` is for replicas. Otherwise the request is recorded in `status.powerRequest` under the next id,
//! and the agent says in `status.observedPowerRequest` which one it has carried out.

use async_trait::async_trait;
use ucloud_machinery::{
    status::ApiError,
    strategy::{Method, SubresourceHandler, SubresourceRequest, SubresourceResponse},
};
use ucloud_types::{
    VM,
    vm::{PowerAction, PowerRequest, RunStrategy},
};

use super::{conflict, edit, refuse_terminating};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerVerb {
    /// Run.
    Start,
    /// Do not run.
    Stop,
    /// Stop and run again.
    Restart,
}

impl PowerVerb {
    /// The subresource's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// Serves one of the three subresources.
pub struct PowerHandler(pub PowerVerb);

#[async_trait]
impl SubresourceHandler for PowerHandler {
    fn methods(&self) -> &'static [Method] {
        &[Method::Create]
    }

    fn kind(&self) -> &'static str {
        "VM"
    }

    async fn handle(&self, request: SubresourceRequest<'_>) -> Result<SubresourceResponse, ApiError> {
        let vm = request.target.update(&mut |vm| edit(vm, |vm| apply(self.0, vm))).await?;
        Ok(SubresourceResponse::ok(vm))
    }
}

fn apply(verb: PowerVerb, vm: &mut VM) -> Result<(), ApiError> {
    refuse_terminating(vm)?;
    match (verb, vm.spec.effective_run_strategy()) {
        (PowerVerb::Start, RunStrategy::Halted) => vm.spec.run_strategy = Some(RunStrategy::Always),
        (PowerVerb::Start, _) => record(vm, PowerAction::Start),
        (PowerVerb::Stop, RunStrategy::Always) => vm.spec.run_strategy = Some(RunStrategy::Halted),
        (PowerVerb::Stop, RunStrategy::Halted) => {}
        (PowerVerb::Stop, RunStrategy::Manual | RunStrategy::RerunOnFailure) => record(vm, PowerAction::Stop),
        (PowerVerb::Restart, RunStrategy::Halted) => {
            return Err(conflict(
                vm,
                "the VM is halted (spec.runStrategy) and has nothing to restart; start it instead",
            ));
        }
        (PowerVerb::Restart, _) => record(vm, PowerAction::Restart),
    }
    Ok(())
}

fn record(vm: &mut VM, action: PowerAction) {
    let status = vm.status.get_or_insert_default();
    let last = status.power_request.as_ref().map_or(0, |request| request.id);
    status.power_request = Some(PowerRequest { id: last + 1, action });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn vm(strategy: Option<RunStrategy>) -> VM {
        let mut vm: VM = serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM", "metadata": {"name": "web"},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": "debian"}]},
        }))
        .unwrap();
        vm.spec.run_strategy = strategy;
        vm
    }

    fn request(vm: &VM) -> Option<(u64, PowerAction)> {
        vm.status.as_ref()?.power_request.as_ref().map(|request| (request.id, request.action))
    }

    #[test]
    fn a_switch_in_the_spec_is_switched_there() {
        let mut vm = vm(None);
        apply(PowerVerb::Stop, &mut vm).unwrap();
        assert_eq!(vm.spec.run_strategy, Some(RunStrategy::Halted));
        let halted = vm.clone();
        apply(PowerVerb::Stop, &mut vm).unwrap();
        assert_eq!(vm, halted, "what is halted is halted");
        apply(PowerVerb::Start, &mut vm).unwrap();
        assert_eq!(vm.spec.run_strategy, Some(RunStrategy::Always));
        assert_eq!(request(&vm), None);
    }

    #[test]
    fn other_requests_are_counted() {
        for strategy in [RunStrategy::Manual, RunStrategy::RerunOnFailure] {
            let mut vm = vm(Some(strategy));
            for (id, verb, action) in [
                (1, PowerVerb::Start, PowerAction::Start),
                (2, PowerVerb::Stop, PowerAction::Stop),
                (3, PowerVerb::Restart, PowerAction::Restart),
                (4, PowerVerb::Restart, PowerAction::Restart),
            ] {
                apply(verb, &mut vm).unwrap();
                assert_eq!(request(&vm), Some((id, action)));
            }
            assert_eq!(vm.spec.run_strategy, Some(strategy), "the spec stays the user's");
        }
        let mut always = vm(Some(RunStrategy::Always));
        apply(PowerVerb::Start, &mut always).unwrap();
        assert_eq!(request(&always), Some((1, PowerAction::Start)));
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_advice() {
        let error = apply(PowerVerb::Restart, &mut vm(Some(RunStrategy::Halted))).unwrap_err();
        assert_eq!(error.code(), 409);
        assert!(error.to_string().contains("start it instead"), "{error}");
        let mut leaving = vm(None);
        leaving.metadata.deletion_timestamp = Some(ucloud_types::condition::Time(jiff::Timestamp::UNIX_EPOCH));
        for verb in [PowerVerb::Start, PowerVerb::Stop, PowerVerb::Restart] {
            assert_eq!(apply(verb, &mut leaving).unwrap_err().code(), 409);
        }
    }
}
