//! Interfaces of a VM that runs are plugged and unplugged.

use ucloud_types::{condition::INTERFACES_READY, vm::InterfaceSpec};

use super::*;
use crate::{HostError, hypervisor::DomainInterface, reason};

fn spec(name: &str, network: &str) -> InterfaceSpec {
    InterfaceSpec {
        name: name.into(),
        network: network.into(),
        mac: None,
        addresses: Vec::new(),
        port_security: None,
        security_groups: Vec::new(),
    }
}

fn on(bridge: &str) -> NetworkDevices {
    NetworkDevices { bridge: bridge.into(), ..devices() }
}

/// A VM that runs with eth0 in `lan`, and what its spec became.
fn changed(change: impl FnOnce(&mut VM)) -> (VM, Observed) {
    let mut vm = vm(RunStrategy::Always);
    let mut observed = with(domain(&vm, DomainState::Running));
    change(&mut vm);
    observed.devices = Some(vec![Some(on("ucbr-1")); vm.spec.networks.len()]);
    observed.network_blockers = vec![None; vm.spec.networks.len()];
    (vm, observed)
}

fn go(vm: &VM, observed: &Observed) -> Plan {
    let plan = plan(&desired(vm), observed, &Pace::default(), at(1000));
    assert_phase(&plan, VMPhase::Running);
    assert_ready(&plan, Verdict::True, reason::RUNNING);
    plan
}

fn pending(plan: &Plan) -> Option<(&'static str, &str)> {
    let found = plan.findings.iter().find(|finding| finding.type_ == INTERFACES_READY);
    assert_eq!(found.is_none(), plan.cleared.contains(&INTERFACES_READY));
    found.map(|finding| (finding.reason, finding.message.as_str()))
}

fn running(observed: &Observed) -> DomainInterface {
    observed.domain.as_ref().unwrap().spec.interfaces[0].clone()
}

#[test]
fn nothing_is_done_where_nothing_differs() {
    let (vm, observed) = changed(|_| {});
    let plan = go(&vm, &observed);
    assert_eq!((&plan.step, pending(&plan), plan.requeue_after), (&None, None, None));
}

#[test]
fn a_new_interface_is_plugged_once_its_network_is_here() {
    let (vm, mut observed) = changed(|vm| vm.spec.networks.push(spec("eth1", "dmz")));
    observed.devices.as_mut().unwrap()[1] = None;
    assert_eq!(go(&vm, &observed).step, Some(Step::ProvisionInterface("eth1".into())));
    observed.devices.as_mut().unwrap()[1] = Some(on("ucbr-2"));
    let Some(Step::Plug(plugged)) = go(&vm, &observed).step else { panic!("it is not plugged") };
    assert_eq!((plugged.name.as_str(), plugged.bridge.as_str()), ("eth1", "ucbr-2"));
    assert_eq!(plugged.mac, MacAddr::derive(UID, "eth1"), "it has the address that it has after any restart");
    assert_ne!(plugged.tap, running(&observed).tap);
}

#[test]
fn a_new_interface_waits_for_its_network_and_says_so() {
    let (vm, mut observed) = changed(|vm| vm.spec.networks.push(spec("eth1", "dmz")));
    observed.devices.as_mut().unwrap()[1] = None;
    observed.network_blockers[1] = Some(Blocker::new(reason::NETWORK_NOT_FOUND, "Network default/dmz does not exist"));
    let plan = go(&vm, &observed);
    assert_eq!((&plan.step, plan.requeue_after, plan.retry), (&None, None, false), "it waits for an event");
    assert_eq!(pending(&plan), Some((reason::NETWORK_NOT_FOUND, "interface eth1: Network default/dmz does not exist")));
    observed.network_blockers[1] = None;
    observed.devices = None;
    assert!(go(&vm, &observed).retry, "the host does not say what it has");
}

#[test]
fn the_guest_is_asked_to_let_go_and_asked_again() {
    let (vm, mut observed) = changed(|vm| vm.spec.networks.clear());
    let unplug = Some(Step::Unplug(Box::new(running(&observed))));
    assert_eq!(go(&vm, &observed).step, unplug);
    observed.memory.unplugging.insert("eth0".into(), Asked { since: at(995), last: at(995) });
    let plan = go(&vm, &observed);
    assert_eq!((&plan.step, plan.requeue_after), (&None, Some(Pace::default().unplug_repeat - secs(5))));
    let (reason, message) = pending(&plan).unwrap();
    assert_eq!(reason, reason::WAITING_FOR_GUEST);
    assert!(message.contains("asked at 1970-01-01T00:16:35Z to let go of interface eth0"), "{message}");
    observed.memory.unplugging.insert("eth0".into(), Asked { since: at(0), last: at(900) });
    assert_eq!(go(&vm, &observed).step, unplug);
}

#[test]
fn another_network_or_mac_is_a_new_interface() {
    let (vm, mut observed) = changed(|vm| vm.spec.networks[0].network = "dmz".into());
    observed.devices = Some(vec![Some(on("ucbr-2"))]);
    assert!(matches!(go(&vm, &observed).step, Some(Step::Unplug(_))));
    let (vm, observed) = changed(|vm| vm.spec.networks[0].mac = Some("02:00:00:00:00:01".parse().unwrap()));
    assert!(matches!(go(&vm, &observed).step, Some(Step::Unplug(_))));
}

#[test]
fn an_interface_is_not_given_up_before_its_next_network_is_ready() {
    let (vm, mut observed) = changed(|vm| vm.spec.networks[0].network = "dmz".into());
    observed.devices = Some(vec![None]);
    observed.network_blockers = vec![Some(Blocker::new(reason::NETWORK_NOT_READY, "not yet"))];
    let waiting = go(&vm, &observed);
    assert_eq!(
        (&waiting.step, pending(&waiting)),
        (&None, Some((reason::NETWORK_NOT_READY, "interface eth0: not yet")))
    );
    observed.network_blockers = vec![None];
    assert_eq!(go(&vm, &observed).step, Some(Step::ProvisionInterface("eth0".into())));
    observed.devices = None;
    assert_eq!(go(&vm, &observed).step, None, "what could not be observed is no difference");
}

#[test]
fn a_network_that_was_removed_by_force_takes_no_interface_along() {
    let (vm, mut observed) = changed(|_| {});
    observed.devices = Some(vec![None]);
    observed.network_blockers = vec![Some(Blocker::new(reason::NETWORK_NOT_FOUND, "gone"))];
    let plan = go(&vm, &observed);
    assert_eq!((&plan.step, pending(&plan)), (&None, Some((reason::NETWORK_NOT_FOUND, "interface eth0: gone"))));
    observed.devices = Some(vec![Some(on("ucbr-1"))]);
    let plan = go(&vm, &observed);
    assert_eq!((&plan.step, pending(&plan)), (&None, None), "it is in that network still");
}

#[test]
fn one_interface_does_not_wait_for_another() {
    let (vm, mut observed) = changed(|vm| vm.spec.networks = vec![spec("eth1", "lan")]);
    observed.memory.unplugging.insert("eth0".into(), Asked { since: at(999), last: at(999) });
    let plan = go(&vm, &observed);
    assert!(matches!(&plan.step, Some(Step::Plug(plugged)) if plugged.name == "eth1"), "{plan:?}");
}

#[test]
fn a_failure_leaves_the_vm_ready_and_is_told() {
    let (vm, observed) = changed(|vm| vm.spec.networks.push(spec("eth1", "lan")));
    let first = go(&vm, &observed);
    let error = HostError::retryable("PlugFailed", "cannot plug interface eth1");
    let told = failed(&first, &desired(&vm), &observed, &error);
    assert_ready(&told, Verdict::True, reason::RUNNING);
    assert_eq!(pending(&told), Some(("PlugFailed", "cannot plug interface eth1")));
    assert!(told.retry && told.step.is_none());
}

#[test]
fn a_vm_that_does_not_run_has_no_interfaces_to_wait_for() {
    let (vm, mut observed) = changed(|vm| vm.spec.networks.clear());
    observed.domain.as_mut().unwrap().state = DomainState::Paused;
    let plan = plan(&desired(&vm), &observed, &Pace::default(), at(0));
    assert!(plan.step.is_none() && plan.cleared.contains(&INTERFACES_READY), "{plan:?}");
}
