//! The VMs of hosts that are silent, or gone: they say that nobody knows how they are.
//!
//! A VM may run on while its host cannot be heard, so nothing is done: it stays bound, and is started nowhere else. It is
//! said once for each silence; what the VM's agent reports after that is the truth again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use kube::{
    Client,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{
    Host, VM, VMStatus,
    condition::{Finding, READY, TERMINATING, Time, Verdict},
    vm::VMPhase,
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime,
    hearing::{LEASE_EXPIRED, ready},
    is_deleting, objects,
    report::{Reports, Share, find, status_of},
    uid_of,
};

const NAME: &str = "lost-vm";
/// What is unknown of a VM whose host is lost. When the host is back, its agent takes these again.
const SHARE: Share = Share::Part { fields: &["phase"], conditions: &[READY, TERMINATING] };

/// Why nobody knows how a VM is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Loss {
    /// Its host has been silent since then.
    Silent(Time),
    /// Its host has been deleted.
    Gone,
}

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, vms: &Cache<VM>, hosts: &Cache<Host>) -> impl Future<Output = ()> + use<> {
    let said = Arc::new(Mutex::new(HashMap::new()));
    let (all, gone) = (vms.clone(), Arc::clone(&said));
    let controller = Controller::new(NAME, runtime, vms)
        .watch(vms, move |change: &Change<VM>| {
            if let Change { old: Some(vm), new: None } = change {
                gone.lock().unwrap_or_else(PoisonError::into_inner).remove(uid_of(&**vm));
            }
            None
        })
        .watch(hosts, move |change: &Change<Host>| {
            let name = change.object().and_then(|host| host.metadata.name.clone());
            let mut vms = if change.differs(silent_since) { all.all() } else { Vec::new() };
            vms.retain(|vm| host_of(vm) == name.as_deref());
            vms.into_iter().map(|vm| ObjectRef::from_obj(&*vm))
        });
    let reconciler = LostVms {
        client: runtime.client.clone(),
        hosts: hosts.clone(),
        said,
        reports: Reports::new(runtime, NAME, SHARE),
    };
    controller.run(reconciler, Limits::default())
}

fn host_of(vm: &VM) -> Option<&str> {
    vm.status.as_ref()?.binding.as_ref().map(|binding| binding.host.as_str())
}

fn silent_since(host: &Host) -> Option<Time> {
    ready(host).filter(|ready| ready.reason == LEASE_EXPIRED).map(|ready| ready.last_transition_time.clone())
}

struct LostVms {
    client: Client,
    hosts: Cache<Host>,
    /// What was said already, by the VM's UID.
    said: Arc<Mutex<HashMap<String, Loss>>>,
    reports: Reports,
}

impl LostVms {
    async fn loss(&self, host: &str) -> Result<Option<Loss>, Failure> {
        if let Some(host) = self.hosts.get(None, host) {
            return Ok(silent_since(&host).map(Loss::Silent));
        }
        // a cache is no proof of absence
        let live: Option<Host> = objects::get(&self.client, None, host).await?;
        Ok(live.is_none().then_some(Loss::Gone))
    }

    fn with_said<T>(&self, act: impl FnOnce(&mut HashMap<String, Loss>) -> T) -> T {
        act(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Reconciler for LostVms {
    type Object = VM;

    async fn reconcile(&self, vm: Arc<VM>) -> Result<Action, Failure> {
        let Some(host) = host_of(&vm) else {
            return Ok(Action::await_change());
        };
        let Some(loss) = self.loss(host).await? else {
            self.with_said(|said| said.remove(uid_of(&*vm)));
            return Ok(Action::await_change());
        };
        if self.with_said(|said| said.get(uid_of(&*vm)) != Some(&loss)) {
            self.reports.write(&*vm, &lost(&vm, host, &loss)).await?;
            self.with_said(|said| said.insert(uid_of(&*vm).to_owned(), loss));
        }
        Ok(Action::await_change())
    }

    async fn report_failure(&self, _: Arc<VM>, _: &'static str, message: String) -> Result<(), Failure> {
        // a VM's conditions are its agent's: that a status could not be written is no news of the VM
        tracing::warn!(message, "cannot say that the VM's host is lost");
        Ok(())
    }
}

/// The status of a VM whose host is lost.
fn lost(vm: &VM, host: &str, loss: &Loss) -> VMStatus {
    let mut status = status_of(vm);
    status.phase = Some(VMPhase::Unknown);
    let (reason, message) = match loss {
        Loss::Silent(_) => (
            "HostSilent",
            format!(
                "host {host} does not answer: the VM may be running or not, and is started nowhere else. See Host {host}"
            ),
        ),
        Loss::Gone => (
            "HostGone",
            format!("Host {host} was deleted: the VM's disks are there, so it can run again only if {host} comes back"),
        ),
    };
    find(vm, &mut status, &Finding::new(READY, Verdict::Unknown, reason, message));
    if is_deleting(vm) {
        let message = format!("waiting until host {host} is back and has removed the VM and its disks");
        find(vm, &mut status, &Finding::new(TERMINATING, Verdict::True, reason, message));
    }
    status
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use serde_json::json;
    use ucloud_types::condition::get;

    use super::*;

    fn vm() -> VM {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
            "metadata": {"name": "web", "namespace": "p", "uid": "u"},
            "spec": {"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": "debian"}]},
            "status": {"phase": "Running", "binding": {"host": "h1", "epoch": 3}, "restarts": 2},
        }))
        .unwrap()
    }

    #[test]
    fn a_lost_vm_is_unknown_and_stays_where_it_is() {
        let mut vm = vm();
        let status = lost(&vm, "h1", &Loss::Silent(Time(Timestamp::UNIX_EPOCH)));
        assert_eq!(status.phase, Some(VMPhase::Unknown));
        assert_eq!(status.binding, vm.status.as_ref().unwrap().binding);
        assert_eq!(status.restarts, Some(2));
        let ready = get(&status.conditions, READY).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("Unknown", "HostSilent"));
        assert!(get(&status.conditions, TERMINATING).is_none());
        vm.status = Some(status.clone());
        let later = Loss::Silent(Time(Timestamp::MAX));
        assert_eq!(lost(&vm, "h1", &later), status, "pattern 13: nothing new, nothing to write");
    }

    #[test]
    fn a_lost_vm_that_is_being_deleted_says_what_it_waits_for() {
        let mut vm = vm();
        vm.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        let status = lost(&vm, "h1", &Loss::Gone);
        assert_eq!(get(&status.conditions, READY).unwrap().reason, "HostGone");
        assert_eq!(get(&status.conditions, TERMINATING).unwrap().reason, "HostGone");
    }
}
