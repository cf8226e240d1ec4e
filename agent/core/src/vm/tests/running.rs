//! Epochs, and how a running VM differs from its spec.

use ucloud_types::condition::RESTART_REQUIRED;

use super::*;

type Change<'a> = &'a dyn Fn(&mut VM);

fn restart_required(vm: &VM, observed: &Observed) -> Option<String> {
    let plan = plan(&desired(vm), observed, &Pace::default(), at(0));
    assert_eq!(plan.step, None, "a difference changes nothing by itself");
    assert_phase(&plan, VMPhase::Running);
    let found = plan.findings.iter().find(|f| f.type_ == RESTART_REQUIRED).map(|f| f.message.clone());
    assert_eq!(found.is_none(), plan.cleared.contains(&RESTART_REQUIRED));
    found
}

#[test]
fn differences_are_named_and_nothing_else_happens() {
    let original = vm(RunStrategy::Always);
    let observed = with(domain(&original, DomainState::Running));
    assert_eq!(restart_required(&original, &observed), None);
    let cases: [(Change, &str); 3] = [
        (&|vm| vm.spec.cpus = 2, "cpus 1 instead of 2"),
        (&|vm| vm.spec.memory = "1Gi".parse().unwrap(), "memory 64Mi instead of 1Gi"),
        (&|vm| vm.spec.disks[0].name = "boot".into(), "disk boot missing, disk root too many"),
    ];
    for (change, expected) in cases {
        let mut vm = original.clone();
        change(&mut vm);
        let message = restart_required(&vm, &observed).unwrap_or_default();
        assert!(message.contains(expected), "{message} has not {expected}");
    }
}

#[test]
fn only_a_restart_brings_interfaces_into_another_order() {
    let mut vm = vm(RunStrategy::Always);
    let mut observed = with(domain(&vm, DomainState::Running));
    let mut second = vm.spec.networks[0].clone();
    second.name = "eth1".into();
    vm.spec.networks.push(second);
    let wanted = desired(&vm);
    let interfaces = wanted.interfaces.iter().rev().map(|interface| wanted.interface(interface, &devices())).collect();
    observed.domain.as_mut().unwrap().spec.interfaces = interfaces;
    observed.devices = Some(vec![Some(devices()), Some(devices())]);
    assert!(restart_required(&vm, &observed).unwrap().contains("interfaces in another order"));
}

#[test]
fn an_older_epoch_is_destroyed_before_anything_else() {
    let mut vm = vm(RunStrategy::Always);
    let old = domain(&vm, DomainState::Running);
    vm.status.as_mut().unwrap().binding.as_mut().unwrap().epoch = 2;
    let go = |state| {
        let observed = with(Domain { state, ..old.clone() });
        plan(&desired(&vm), &observed, &Pace::default(), at(0)).step
    };
    assert_eq!(go(DomainState::Running), Some(Step::Destroy));
    assert_eq!(go(DomainState::Paused), Some(Step::Destroy));
    assert_eq!(go(DomainState::Off(StopReason::Destroyed)), Some(Step::Undefine));
}

#[test]
fn a_newer_epoch_than_the_binding_is_left_alone() {
    let mut vm = vm(RunStrategy::Halted);
    vm.status.as_mut().unwrap().binding.as_mut().unwrap().epoch = 2;
    let newer = domain(&vm, DomainState::Running);
    vm.status.as_mut().unwrap().binding.as_mut().unwrap().epoch = 1;
    let plan = plan(&desired(&vm), &with(newer), &Pace::default(), at(0));
    assert!(plan.step.is_none() && plan.retry, "{plan:?}");
}
