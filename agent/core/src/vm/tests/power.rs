//! Run strategies and power requests.

use RunStrategy::{Always, Halted, Manual, RerunOnFailure};

use super::*;
use crate::reason;

fn starts(plan: &Plan) -> bool {
    matches!(plan.step, Some(Step::Confirm | Step::Provision | Step::Start(_)))
}

#[test]
fn strategies_decide_what_happens_after_a_stop() {
    // Strategy, then whether it is started from: nothing, guest shut down, crashed, destroyed, lost
    for (strategy, expected) in [
        (Always, [true, true, true, true, true]),
        (RerunOnFailure, [true, false, true, true, true]),
        (Manual, [false, false, false, false, false]),
        (Halted, [false, false, false, false, false]),
    ] {
        for (state, expected) in [None, SHUT_DOWN, CRASHED, DESTROYED, LOST].into_iter().zip(expected) {
            let plan = plan_for(&vm(strategy), state);
            assert_eq!(starts(&plan), expected, "{strategy:?} from {state:?}: {plan:?}");
            if !expected {
                assert_phase(&plan, VMPhase::Stopped);
            }
        }
    }
}

#[test]
fn a_guest_that_shuts_itself_down_says_so() {
    let plan = plan_for(&vm(RerunOnFailure), SHUT_DOWN);
    assert_ready(&plan, Verdict::False, reason::GUEST_SHUTDOWN);
    assert!(ready(&plan).message.contains("ucloudctl start web -n default"), "{}", ready(&plan).message);
}

#[test]
fn halted_stops_and_leaves_no_domain() {
    assert_eq!(plan_for(&vm(Halted), RUNNING).step, Some(Step::RequestShutdown));
    assert_eq!(plan_for(&vm(Halted), SHUT_DOWN).step, Some(Step::Undefine));
    assert_eq!(plan_for(&vm(Halted), None).step, None);
}

#[test]
fn start_starts_what_does_not_start_by_itself() {
    for strategy in [Manual, RerunOnFailure] {
        let mut vm = vm(strategy);
        let off = domain(&vm, SHUT_DOWN.unwrap());
        order(&mut vm, 1, PowerAction::Start);
        let first = plan(&desired(&vm), &with(off), &Pace::default(), at(0));
        assert!(starts(&first) && first.observed_power_request.is_none(), "{first:?}");
        let under = plan_for(&vm, RUNNING);
        assert_eq!((under.step, under.observed_power_request), (None, Some(1)));
        // It ran under this request, and the guest ended it: the request is not carried out twice
        let after = plan_for(&vm, SHUT_DOWN);
        assert_eq!((after.step, after.observed_power_request), (None, Some(1)));
        // The start failed, or the host was booted before anybody heard of it
        assert!(starts(&plan_for(&vm, LOST)));
    }
}

#[test]
fn start_of_a_running_vm_is_no_news() {
    let mut vm = vm(Manual);
    let running = domain(&vm, DomainState::Running);
    order(&mut vm, 7, PowerAction::Start);
    let plan = plan(&desired(&vm), &with(running), &Pace::default(), at(0));
    assert_eq!((plan.step, plan.observed_power_request), (None, Some(7)));
}

#[test]
fn stop_stops_and_stays_so() {
    for strategy in [Manual, RerunOnFailure] {
        let mut vm = vm(strategy);
        let before = domain(&vm, DomainState::Running);
        order(&mut vm, 3, PowerAction::Stop);
        let first = plan(&desired(&vm), &with(before.clone()), &Pace::default(), at(0));
        assert_eq!((first.step.clone(), first.observed_power_request), (Some(Step::RequestShutdown), None));
        assert_phase(&first, VMPhase::Stopping);
        // However it ended, by the guest or by force, and however often it is looked at
        for observed_id in [None, Some(3)] {
            vm.status.as_mut().unwrap().observed_power_request = observed_id;
            for state in [SHUT_DOWN, DESTROYED, LOST, CRASHED] {
                let off = Domain { state: state.unwrap(), ..before.clone() };
                let then = plan(&desired(&vm), &with(off), &Pace::default(), at(0));
                assert_eq!(then.step, None, "{strategy:?} {state:?}");
                assert_eq!(then.observed_power_request, observed_id.is_none().then_some(3));
                assert_phase(&then, VMPhase::Stopped);
            }
        }
        // Started by a later request, it is left alone
        order(&mut vm, 4, PowerAction::Start);
        assert_eq!(plan_for(&vm, RUNNING).step, None);
    }
}

#[test]
fn restart_is_done_once_the_domain_carries_its_id() {
    for strategy in [Always, RerunOnFailure, Manual] {
        let mut vm = vm(strategy);
        let before = domain(&vm, DomainState::Running);
        order(&mut vm, 5, PowerAction::Restart);
        let go = |domain: Domain, vm: &VM| plan(&desired(vm), &with(domain), &Pace::default(), at(0));
        assert_eq!(go(before.clone(), &vm).step, Some(Step::RequestShutdown));
        for state in [SHUT_DOWN, DESTROYED] {
            let plan = go(Domain { state: state.unwrap(), ..before.clone() }, &vm);
            assert!(starts(&plan) && plan.observed_power_request.is_none() && !plan.restart, "{plan:?}");
        }
        let done = plan_for(&vm, RUNNING);
        assert_eq!((done.step, done.observed_power_request), (None, Some(5)));
        vm.status.as_mut().unwrap().observed_power_request = Some(5);
        assert_eq!(plan_for(&vm, RUNNING).observed_power_request, None);
    }
}

#[test]
fn a_started_domain_carries_the_last_request() {
    let mut vm = vm(Manual);
    order(&mut vm, 9, PowerAction::Start);
    let observed = Observed { confirmed: true, provisioned: Some(provisioned()), ..nothing() };
    let Some(Step::Start(spec)) = plan(&desired(&vm), &observed, &Pace::default(), at(0)).step else { panic!() };
    assert_eq!((spec.power_request, spec.epoch), (9, 1));
}

#[test]
fn the_spec_overrules_requests() {
    let mut halted = vm(Halted);
    order(&mut halted, 1, PowerAction::Start);
    let plan = plan_for(&halted, None);
    assert_eq!((plan.step, plan.observed_power_request), (None, Some(1)));
    let mut always = vm(Always);
    order(&mut always, 1, PowerAction::Stop);
    let plan = plan_for(&always, RUNNING);
    assert_eq!((plan.step, plan.observed_power_request), (None, Some(1)));
}

#[test]
fn a_start_during_a_shutdown_waits_for_its_end() {
    let mut vm = vm(Manual);
    let before = domain(&vm, DomainState::Running);
    order(&mut vm, 1, PowerAction::Stop);
    let shutdown = Asked { since: at(0), last: at(0) };
    order(&mut vm, 2, PowerAction::Start);
    // The agent that asked the guest remembers it; another one reads it in the report
    let mut remembered = with(before.clone());
    remembered.memory.shutdown = Some(shutdown);
    let first = plan(&desired(&vm), &remembered, &Pace::default(), at(1));
    assert_phase(&first, VMPhase::Stopping);
    assert_eq!(first.observed_power_request, None);
    vm.status.as_mut().unwrap().phase = Some(VMPhase::Stopping);
    let other = plan(&desired(&vm), &with(before.clone()), &Pace::default(), at(1));
    assert_eq!((other.step, other.observed_power_request), (Some(Step::RequestShutdown), None));
    let off = Domain { state: SHUT_DOWN.unwrap(), ..before };
    assert!(starts(&plan(&desired(&vm), &with(off), &Pace::default(), at(2))));
    // Once it was started under the request, an old report does not count
    assert_eq!(plan_for(&vm, RUNNING).step, None);
}

#[test]
fn the_guest_is_asked_again_and_then_switched_off() {
    let vm = vm(Halted);
    let pace = Pace::default();
    let mut observed = with(domain(&vm, DomainState::Running));
    let mut asked = Vec::new();
    let mut now = 100;
    let destroyed_at = loop {
        let plan = plan(&desired(&vm), &observed, &pace, at(now));
        match plan.step {
            Some(Step::RequestShutdown) => {
                let since = observed.memory.shutdown.map_or(at(now), |shutdown| shutdown.since);
                observed.memory.shutdown = Some(Asked { since, last: at(now) });
                asked.push(now);
            }
            Some(Step::Destroy) => break now,
            None => now += plan.requeue_after.unwrap().as_secs().max(1),
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(asked, [100, 103, 106, 109, 112, 115, 118, 121, 124, 127]);
    assert_eq!(destroyed_at, 130);
}

#[test]
fn no_grace_means_at_once() {
    let mut vm = vm(Halted);
    vm.spec.termination_grace_period_seconds = Some(0);
    assert_eq!(plan_for(&vm, RUNNING).step, Some(Step::Destroy));
}

#[test]
fn a_vm_that_keeps_crashing_waits_longer_and_longer() {
    let vm = vm(Always);
    let pace = Pace::default();
    let mut observed = with(domain(&vm, CRASHED.unwrap()));
    observed.memory.crashes.observe(CRASHED, false, &pace, at(10));
    let first = plan(&desired(&vm), &observed, &pace, at(10));
    assert_eq!(first.step, Some(Step::Provision));
    assert!(plan(&desired(&vm), &Observed { provisioned: Some(provisioned()), ..observed }, &pace, at(10)).restart);

    let mut observed = with(domain(&vm, CRASHED.unwrap()));
    observed.memory.crashes.started(true);
    observed.memory.crashes.observe(CRASHED, false, &pace, at(10));
    let second = plan(&desired(&vm), &observed, &pace, at(10));
    assert_ready(&second, Verdict::False, reason::CRASH_LOOP_BACK_OFF);
    assert_eq!((second.step, second.requeue_after, second.phase), (None, Some(secs(10)), Some(VMPhase::Failed)));
    assert!(starts(&plan(&desired(&vm), &observed, &pace, at(20))));
    // Who asks for it does not wait
    let mut ordered = vm.clone();
    order(&mut ordered, 1, PowerAction::Restart);
    assert!(starts(&plan(&desired(&ordered), &observed, &pace, at(10))));
}

#[test]
fn a_paused_vm_is_left_to_the_operator_unless_it_is_to_stop() {
    let paused = Some(DomainState::Paused);
    let plan = plan_for(&vm(Always), paused);
    assert_eq!(plan.step, None);
    assert_ready(&plan, Verdict::False, reason::PAUSED);
    assert_eq!(plan_for(&vm(Halted), paused).step, Some(Step::Destroy));
}
