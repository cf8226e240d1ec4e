//! What is reported.

use ucloud_types::{
    condition,
    vm::{AddressSource, InterfaceAddress},
};

use super::*;
use crate::HostError;

fn report(vm: &VM, observed: &Observed, facts: &Facts) -> VMStatus {
    let desired = desired(vm);
    let plan = plan(&desired, observed, &Pace::default(), at(50));
    next_status(vm.status.as_ref().unwrap(), &desired, Some(observed), &plan, facts, at(50))
}

#[test]
fn a_report_of_nothing_new_changes_nothing() {
    let mut vm = vm(RunStrategy::Always);
    let observed = with(domain(&vm, DomainState::Running));
    let facts = Facts {
        addresses: [("eth0".to_owned(), vec!["fd00::2".parse().unwrap()])].into(),
        image_sizes: [("root".to_owned(), "1Gi".parse().unwrap())].into(),
        ..Facts::default()
    };
    let first = report(&vm, &observed, &facts);
    assert_eq!(first.phase, Some(VMPhase::Running));
    assert_eq!(first.disks[0].size, "1Gi".parse().unwrap());
    let address = InterfaceAddress { address: "fd00::2".parse().unwrap(), source: AddressSource::Learnt };
    assert_eq!(first.interfaces[0].addresses, [address]);
    assert!(condition::is_true(&first.conditions, READY));
    vm.status = Some(first.clone());
    let desired = desired(&vm);
    let plan = plan(&desired, &observed, &Pace::default(), at(5000));
    assert_eq!(next_status(&first, &desired, Some(&observed), &plan, &facts, at(5000)), first);
}

#[test]
fn conditions_of_others_stay() {
    let mut vm = vm(RunStrategy::Always);
    let scheduled = Finding::new(condition::SCHEDULED, Verdict::True, "Bound", "");
    condition::set(&mut vm.status.as_mut().unwrap().conditions, &scheduled, Some(1), at(1));
    let next = report(&vm, &with(domain(&vm, DomainState::Running)), &Facts::default());
    assert!(condition::is_true(&next.conditions, condition::SCHEDULED));
    assert_eq!(next.binding, vm.status.unwrap().binding);
}

#[test]
fn addresses_outlive_an_agent_but_not_the_vm() {
    let mut vm = vm(RunStrategy::Manual);
    let running = with(domain(&vm, DomainState::Running));
    let seen = Facts { addresses: [("eth0".to_owned(), vec!["fd00::2".parse().unwrap()])].into(), ..Facts::default() };
    vm.status = Some(report(&vm, &running, &seen));
    let fresh = Facts { keep_addresses: true, ..Facts::default() };
    assert_eq!(report(&vm, &running, &fresh).interfaces[0].addresses.len(), 1);
    assert_eq!(report(&vm, &running, &Facts::default()).interfaces[0].addresses.len(), 0);
    assert_eq!(report(&vm, &with(domain(&vm, SHUT_DOWN.unwrap())), &fresh).interfaces[0].addresses.len(), 0);
}

#[test]
fn declared_addresses_are_told_with_or_without_a_domain() {
    let mut vm = vm(RunStrategy::Always);
    let declared = InterfaceAddress { address: "fd00::5".parse().unwrap(), source: AddressSource::Declared };
    vm.spec.networks[0].addresses = vec![declared.address];
    let computed = InterfaceAddress { address: "fd00::ff".parse().unwrap(), source: AddressSource::Computed };
    let facts = Facts { computed: [("eth0".to_owned(), computed.address)].into(), ..Facts::default() };
    assert_eq!(report(&vm, &nothing(), &facts).interfaces[0].addresses, [declared]);
    let running = with(domain(&vm, DomainState::Running));
    assert_eq!(report(&vm, &running, &facts).interfaces[0].addresses, [declared, computed]);
    let off = with(domain(&vm, SHUT_DOWN.unwrap()));
    assert_eq!(report(&vm, &off, &facts).interfaces[0].addresses, [declared], "a guest that is off forms none");
}

#[test]
fn counters_never_go_back() {
    let mut vm = vm(RunStrategy::Always);
    vm.status.as_mut().unwrap().restarts = Some(4);
    vm.status.as_mut().unwrap().observed_power_request = Some(3);
    let next = report(&vm, &with(domain(&vm, DomainState::Running)), &Facts { restarts: 2, ..Facts::default() });
    assert_eq!((next.restarts, next.observed_power_request), (Some(4), Some(3)));
}

#[test]
fn an_empty_answer_is_never_gone() {
    let mut vm = vm(RunStrategy::Always);
    vm.status = Some(report(&vm, &with(domain(&vm, DomainState::Running)), &Facts::default()));
    let current = vm.status.clone().unwrap();
    let desired = desired(&vm);
    let error = HostError::retryable("HypervisorUnavailable", "libvirt does not answer: see to it");
    let plan = unobserved(&desired, &error);
    assert!(plan.step.is_none() && plan.retry);
    let next = next_status(&current, &desired, None, &plan, &Facts::default(), at(60));
    let ready = condition::get(&next.conditions, READY).unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("Unknown", "HypervisorUnavailable"));
    assert_eq!((next.phase, next.interfaces, next.disks), (current.phase, current.interfaces, current.disks));
}

#[test]
fn a_failure_is_told_and_tried_again_unless_it_is_terminal() {
    let vm = vm(RunStrategy::Always);
    let observed = Observed { confirmed: true, ..nothing() };
    let desired = desired(&vm);
    let first = plan(&desired, &observed, &Pace::default(), at(0));
    let retryable = failed(&first, &desired, &observed, &HostError::retryable("NoSpace", "the pool is full"));
    assert_phase(&retryable, VMPhase::Provisioning);
    assert_ready(&retryable, Verdict::False, "NoSpace");
    assert!(retryable.retry);
    let terminal = failed(&first, &desired, &observed, &HostError::terminal("DiskTooSmall", "the disk is too small"));
    assert_phase(&terminal, VMPhase::Failed);
    assert!(!terminal.retry);
}
