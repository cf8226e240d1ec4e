//! The end of a VM.

use ucloud_types::condition::TERMINATING;

use super::*;
use crate::{HostError, reason};

fn deleted() -> VM {
    let mut vm = vm(RunStrategy::Always);
    vm.metadata.deletion_timestamp = Some(ucloud_types::condition::Time(at(0)));
    vm
}

fn go(observed: &Observed) -> Plan {
    plan(&desired(&deleted()), observed, &Pace::default(), at(100))
}

fn terminating(plan: &Plan) -> (&'static str, &str) {
    let finding = plan.findings.iter().find(|f| f.type_ == TERMINATING).unwrap();
    (finding.reason, &finding.message)
}

#[test]
fn the_order_is_domain_disks_networks_finalizer() {
    let vm = deleted();
    let mut observed = with(domain(&vm, DomainState::Running));
    observed.own_networks = Ok(vec!["net-uid".into()]);
    let plan = go(&observed);
    assert_eq!(plan.step, Some(Step::RequestShutdown));
    assert_eq!(terminating(&plan).0, reason::SHUTTING_DOWN);
    let message = terminating(&plan).1;
    assert!(message.ends_with("its domain, disk root in pool default, the devices of 1 networks"), "{message}");
    assert_phase(&plan, VMPhase::Terminating);

    observed.memory.shutdown = Some(Asked { since: at(60), last: at(99) });
    assert_eq!(go(&observed).step, Some(Step::Destroy), "its 30 s are over");
    observed.domain = Some(domain(&vm, DESTROYED.unwrap()));
    assert_eq!(go(&observed).step, Some(Step::Undefine));
    observed.domain = None;
    assert_eq!(go(&observed).step, Some(Step::RemoveDisks(vec![found_disk()])));
    observed.disks = Ok(Vec::new());
    assert_eq!(go(&observed).step, Some(Step::ReleaseNetworks(vec!["net-uid".into()])));
    observed.own_networks = Ok(Vec::new());
    assert_eq!(go(&observed).step, Some(Step::DropFinalizer));
}

#[test]
fn what_cannot_be_observed_is_not_gone() {
    let broken = || HostError::retryable("PoolUnavailable", "pool default does not answer");
    let no_disks = Observed { disks: Err(broken()), ..nothing() };
    let no_networks = Observed { own_networks: Err(broken()), ..nothing() };
    for observed in [no_disks, no_networks] {
        let plan = go(&observed);
        assert_eq!(plan.step, None);
        assert!(plan.retry);
        let (reason, message) = terminating(&plan);
        assert_eq!(reason, "PoolUnavailable");
        assert!(message.starts_with("pool default does not answer; left on the host: perhaps"), "{message}");
    }
}

#[test]
fn an_old_epoch_or_a_paused_guest_gets_no_time() {
    let mut vm = deleted();
    let old = domain(&vm, DomainState::Running);
    vm.status.as_mut().unwrap().binding.as_mut().unwrap().epoch = 2;
    assert_eq!(plan(&desired(&vm), &with(old), &Pace::default(), at(0)).step, Some(Step::Destroy));
    assert_eq!(go(&with(domain(&deleted(), DomainState::Paused))).step, Some(Step::Destroy));
}

#[test]
fn after_its_part_the_agent_leaves_the_vm_alone() {
    let mut vm = deleted();
    vm.metadata.finalizers = Some(vec!["example.org/other".into()]);
    let plan = plan(&desired(&vm), &nothing(), &Pace::default(), at(0));
    assert_eq!((plan.step, plan.phase, plan.findings, plan.cleared), (None, None, vec![], vec![]));
}
