//! How volumes are plugged and unplugged, and disks grow.

use ucloud_types::condition::{DISKS_READY, RESTART_REQUIRED};

use super::*;
use crate::{hypervisor::DomainDisk, reason};

/// A VM whose spec names these volumes besides its own disk.
fn with_volumes(volumes: &[&str]) -> VM {
    let mut vm = vm(RunStrategy::Always);
    let disks = volumes.iter().map(|name| serde_json::json!({"name": name, "volume": format!("vol-{name}")}));
    vm.spec.disks.extend(disks.map(|disk| serde_json::from_value(disk).unwrap()));
    vm
}

fn volume(name: &str) -> DomainDisk {
    let source = DiskSource::Overlay { path: format!("/pool/{name}").into(), backing: None };
    DomainDisk { name: name.into(), volume: Some(format!("uid-{name}")), limits: None, source }
}

fn held(name: &str) -> HeldVolume {
    HeldVolume { name: format!("vol-{name}"), uid: format!("uid-{name}") }
}

/// What is observed of a VM that runs with these volumes, and has them.
fn running(vm: &VM, volumes: &[&str]) -> Observed {
    let mut observed = with(domain(&super::vm(RunStrategy::Always), DomainState::Running));
    observed.domain.as_mut().unwrap().spec.disks.extend(volumes.iter().map(|name| volume(name)));
    observed.volumes = volumes.iter().map(|name| held(name)).collect();
    observed.disk_blockers = vec![None; vm.spec.disks.len()];
    observed.disk_states = vec![DiskState::default(); vm.spec.disks.len()];
    observed
}

fn plan_of(vm: &VM, observed: &Observed) -> Plan {
    plan(&desired(vm), observed, &Pace::default(), at(1000))
}

fn disks_ready(plan: &Plan) -> Option<(&str, &str)> {
    let found = plan.findings.iter().find(|finding| finding.type_ == DISKS_READY);
    found.map(|finding| (finding.reason, finding.message.as_str()))
}

#[test]
fn what_is_wanted_is_plugged_and_what_is_not_goes_first() {
    let vm = with_volumes(&["a"]);
    let plan = plan_of(&vm, &running(&vm, &[]));
    assert_eq!(plan.step, Some(Step::PlugDisk("a".into())));
    assert_phase(&plan, VMPhase::Running);
    let plan = plan_of(&vm, &running(&vm, &["b"]));
    assert_eq!(plan.step, Some(Step::UnplugDisk(Box::new(volume("b")))));
    let plan = plan_of(&vm, &running(&vm, &["a"]));
    assert_eq!((plan.step.clone(), disks_ready(&plan)), (None, None));
    assert!(plan.cleared.contains(&DISKS_READY) && plan.cleared.contains(&RESTART_REQUIRED));
}

#[test]
fn another_volume_under_the_same_name_takes_the_place_of_the_first() {
    let mut vm = with_volumes(&["a"]);
    vm.spec.disks[1].volume = Some("vol-b".into());
    let observed = running(&vm, &["a"]);
    assert_eq!(plan_of(&vm, &observed).step, Some(Step::UnplugDisk(Box::new(volume("a")))));
    let unknown = Observed { volumes: Vec::new(), ..observed };
    assert_eq!(plan_of(&vm, &unknown).step, None, "a guest loses no disk for want of knowledge");
}

#[test]
fn a_guest_that_does_not_let_go_is_asked_again() {
    let vm = with_volumes(&[]);
    let mut observed = running(&vm, &["a"]);
    let asked = |last| Asked { since: at(900), last: at(last) };
    observed.memory.unplugging_disks.insert("a".into(), asked(995));
    let plan = plan_of(&vm, &observed);
    assert_eq!((plan.step.clone(), plan.requeue_after), (None, Some(secs(5))));
    let (reason, message) = disks_ready(&plan).unwrap();
    assert_eq!(reason, reason::WAITING_FOR_GUEST);
    assert!(message.contains("let go of disk a, which is no longer in the spec"), "{message}");
    observed.memory.unplugging_disks.insert("a".into(), asked(990));
    assert!(matches!(plan_of(&vm, &observed).step, Some(Step::UnplugDisk(_))));
}

#[test]
fn a_volume_that_cannot_be_had_is_named_and_nothing_else_waits() {
    let vm = with_volumes(&["a", "b"]);
    let mut observed = running(&vm, &[]);
    observed.disk_blockers[1] = Some(Blocker::new(reason::VOLUME_IN_USE, "disk a needs Volume vol-a, which is taken"));
    let plan = plan_of(&vm, &observed);
    assert_eq!(plan.step, Some(Step::PlugDisk("b".into())));
    assert_eq!(disks_ready(&plan).unwrap().0, reason::VOLUME_IN_USE);
}

#[test]
fn the_disk_that_it_boots_from_stays_until_a_restart() {
    let mut vm = vm(RunStrategy::Always);
    vm.spec.disks = with_volumes(&["boot"]).spec.disks.split_off(1);
    let mut observed = running(&vm, &[]);
    let plan = plan_of(&vm, &observed);
    assert_eq!(plan.step, None);
    assert!(plan.findings.iter().any(|f| f.type_ == RESTART_REQUIRED && f.message.contains("disk boot missing")));
    observed.domain.as_mut().unwrap().spec.disks = vec![volume("boot")];
    observed.volumes = vec![held("boot")];
    let plan = plan_of(&vm, &observed);
    assert_eq!((plan.step.clone(), plan.cleared.contains(&RESTART_REQUIRED)), (None, true));
}

#[test]
fn disks_grow_and_never_shrink() {
    let vm = with_volumes(&["a"]);
    let mut observed = running(&vm, &["a"]);
    let size = |text: &str| text.parse().ok();
    observed.disk_states[0] = DiskState { size: size("2Gi"), wanted_size: size("1Gi"), ..DiskState::default() };
    observed.disk_states[1] = DiskState { size: size("1Gi"), wanted_size: size("2Gi"), ..DiskState::default() };
    let grow = Step::GrowDisk(Box::new(volume("a")), "2Gi".parse().unwrap());
    assert_eq!(plan_of(&vm, &observed).step, Some(grow));
    observed.disk_states[1] = DiskState { wanted_size: size("2Gi"), ..DiskState::default() };
    assert_eq!(plan_of(&vm, &observed).step, None, "what is not known is left alone");
}

#[test]
fn other_limits_come_with_a_restart() {
    let vm = with_volumes(&["a"]);
    let mut observed = running(&vm, &["a"]);
    let limits = Some(ucloud_types::vm::DiskLimits { iops: Some(100), bandwidth: None });
    observed.disk_states[1].wanted_limits = Some(limits);
    let plan = plan_of(&vm, &observed);
    assert_eq!(plan.step, None);
    let told = plan.findings.iter().find(|f| f.type_ == RESTART_REQUIRED).map(|f| f.message.as_str());
    assert!(told.is_some_and(|told| told.contains("disk a within other limits")), "{told:?}");
    observed.domain.as_mut().unwrap().spec.disks[1].limits = limits;
    assert!(plan_of(&vm, &observed).cleared.contains(&RESTART_REQUIRED));
}

#[test]
fn what_is_neither_wanted_nor_used_is_given_back() {
    let vm = with_volumes(&[]);
    let mut observed = running(&vm, &[]);
    observed.volumes = vec![held("a")];
    assert_eq!(plan_of(&vm, &observed).step, Some(Step::ReleaseVolume(held("a"))));
    observed.domain.as_mut().unwrap().state = SHUT_DOWN.unwrap();
    assert_eq!(plan_of(&vm, &observed).step, Some(Step::ReleaseVolume(held("a"))));
}

#[test]
fn a_vm_without_a_domain_keeps_its_volumes_only_while_it_starts() {
    let mut vm = with_volumes(&["a"]);
    let starting = Observed { volumes: vec![held("a")], confirmed: true, disk_blockers: vec![None, None], ..nothing() };
    assert_eq!(plan_of(&vm, &starting).step, Some(Step::Provision));
    let blocked = Observed { blockers: vec![Blocker::new(reason::VOLUME_IN_USE, "another one")], ..starting };
    assert_eq!(plan_of(&vm, &blocked).step, Some(Step::ReleaseVolume(held("a"))));
    vm.spec.run_strategy = Some(RunStrategy::Halted);
    let plan = plan_of(&vm, &blocked);
    assert_eq!(plan.step, Some(Step::ReleaseVolume(held("a"))));
    assert_phase(&plan, VMPhase::Stopped);
}
