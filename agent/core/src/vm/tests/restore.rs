//! Restoring a VM that does not run.

use ucloud_types::vm::{DiskStatus, RestoreRequest, RestoredDisk};

use super::*;
use crate::reason;

/// A VM whose disk root is to be restored from a snapshot.
fn restoring(strategy: RunStrategy) -> (VM, RestoreRequest) {
    let disks = vec![RestoredDisk { name: "root".into(), volume_uid: None, image_uid: "image-uid".into() }];
    let request = RestoreRequest { id: 3, snapshot: "kept".into(), disks };
    let mut vm = vm(strategy);
    let status = vm.status.as_mut().unwrap();
    let size = "1Gi".parse().unwrap();
    status.disks = vec![DiskStatus { name: "root".into(), pool: "default".into(), volume: None, size, restored: None }];
    status.restore_request = Some(request.clone());
    status.observed_restore = Some(2);
    (vm, request)
}

#[test]
fn it_is_restored_before_it_starts() {
    for strategy in [RunStrategy::Halted, RunStrategy::Always] {
        let (vm, request) = restoring(strategy);
        assert_eq!(plan_for(&vm, SHUT_DOWN).step, Some(Step::Undefine));
        let next = plan_for(&vm, None);
        assert_eq!(next.step, Some(Step::Restore(request)));
        assert_ready(&next, Verdict::False, reason::RESTORING);
        assert_phase(&next, VMPhase::Stopped);
    }
}

#[test]
fn what_has_ended_is_reported_before_it_starts() {
    let (mut vm, _) = restoring(RunStrategy::Always);
    for done in [true, false] {
        let mut observed = nothing();
        observed.memory.restore = Some(EndedRestore { id: 3, done });
        let ended = plan(&desired(&vm), &observed, &Pace::default(), at(1000));
        assert_eq!(ended.step, None, "{ended:?}");
        let next = next_status(
            vm.status.as_ref().unwrap(),
            &desired(&vm),
            Some(&observed),
            &ended,
            &Facts::default(),
            at(1000),
        );
        assert_eq!(next.observed_restore, Some(3));
        assert_eq!(next.disks[0].restored.as_deref(), done.then_some("image-uid"));
    }
    vm.status.as_mut().unwrap().observed_restore = Some(3);
    assert_eq!(plan_for(&vm, None).step, Some(Step::Confirm));
}

#[test]
fn an_end_of_another_restore_is_not_this_ones() {
    let (vm, request) = restoring(RunStrategy::Halted);
    let mut observed = nothing();
    observed.memory.restore = Some(EndedRestore { id: 2, done: true });
    let next = plan(&desired(&vm), &observed, &Pace::default(), at(1000));
    assert_eq!((next.step, next.ended_restore), (Some(Step::Restore(request)), None));
}
