//! What [`plan`] decides, line by line, and a model host that is interrupted at every step.

mod deletion;
mod disks;
mod interfaces;
mod model;
mod power;
mod report;
mod restore;
mod running;
mod waiting;

use jiff::{SignedDuration, Timestamp};
use ucloud_types::{
    MacAddr, VM, Vni,
    condition::{Finding, READY, Verdict},
    meta::AGENT_FINALIZER,
    vm::{Binding, PowerAction, PowerRequest, RunStrategy, VMPhase, VMStatus},
};

use super::*;
use crate::{
    block_store::{Disk, DiskId, Pool, PoolBackend},
    hypervisor::{DiskSource, Domain, DomainState, StopReason},
    net::NetworkDevices,
};

pub(super) const UID: &str = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";
pub(super) const HOST: &str = "host-1";

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(super) fn vm(strategy: RunStrategy) -> VM {
    let mut vm = VM::new(
        "web",
        serde_json::from_value(serde_json::json!({
            "cpus": 1, "memory": "64Mi",
            "disks": [{"name": "root", "image": "alpine"}],
            "networks": [{"name": "eth0", "network": "lan"}],
        }))
        .unwrap(),
    );
    vm.spec.run_strategy = Some(strategy);
    vm.metadata.namespace = Some("default".into());
    vm.metadata.uid = Some(UID.into());
    vm.metadata.generation = Some(1);
    vm.metadata.finalizers = Some(vec![AGENT_FINALIZER.into()]);
    vm.status = Some(VMStatus { binding: Some(Binding { host: HOST.into(), epoch: 1 }), ..VMStatus::default() });
    vm
}

pub(super) fn desired(vm: &VM) -> Desired {
    Desired::of(vm, HOST).unwrap()
}

pub(super) fn order(vm: &mut VM, id: u64, action: PowerAction) {
    vm.status.as_mut().unwrap().power_request = Some(PowerRequest { id, action });
}

pub(super) fn devices() -> NetworkDevices {
    NetworkDevices {
        uid: "net-uid".into(),
        vni: Vni::new(100).unwrap(),
        bridge: "ucbr-1".into(),
        mtu: 1430,
        routes: false,
    }
}

pub(super) fn provisioned() -> Provisioned {
    let disk = Disk {
        source: DiskSource::Overlay { path: "/pool/disk".into(), backing: Some("/pool/image".into()) },
        size: "1Gi".parse().unwrap(),
    };
    Provisioned {
        disks: vec![("root".into(), MadeDisk { disk, volume: None, limits: None })],
        interfaces: vec![("eth0".into(), devices())],
    }
}

pub(super) fn domain(vm: &VM, state: DomainState) -> Domain {
    Domain { spec: desired(vm).domain(&provisioned()).unwrap(), state }
}

pub(super) fn found_disk() -> FoundDisk {
    FoundDisk {
        pool: Pool { name: "default".into(), backend: PoolBackend::Directory { path: "/pool".into() } },
        id: DiskId { owner_uid: UID.into(), name: "root".into() },
    }
}

pub(super) fn nothing() -> Observed {
    Observed {
        domain: None,
        blockers: Vec::new(),
        network_blockers: vec![None],
        disk_blockers: vec![None],
        disk_states: vec![DiskState::default()],
        volumes: Vec::new(),
        disks: Ok(Vec::new()),
        own_networks: Ok(Vec::new()),
        devices: Some(vec![None]),
        provisioned: None,
        confirmed: false,
        memory: Memory::default(),
    }
}

pub(super) fn with(domain: Domain) -> Observed {
    Observed {
        domain: Some(domain),
        disks: Ok(vec![found_disk()]),
        devices: Some(vec![Some(devices())]),
        confirmed: true,
        ..nothing()
    }
}

/// The plan for a VM whose domain is in this state, or that has none.
pub(super) fn plan_for(vm: &VM, state: Option<DomainState>) -> Plan {
    let observed = state.map_or_else(nothing, |state| with(domain(vm, state)));
    plan(&desired(vm), &observed, &Pace::default(), at(1000))
}

pub(super) fn ready(plan: &Plan) -> &Finding {
    plan.findings.iter().find(|finding| finding.type_ == READY).unwrap()
}

pub(super) const RUNNING: Option<DomainState> = Some(DomainState::Running);
pub(super) const SHUT_DOWN: Option<DomainState> = Some(DomainState::Off(StopReason::Shutdown));
pub(super) const CRASHED: Option<DomainState> = Some(DomainState::Off(StopReason::Crashed));
pub(super) const DESTROYED: Option<DomainState> = Some(DomainState::Off(StopReason::Destroyed));
pub(super) const LOST: Option<DomainState> = Some(DomainState::Off(StopReason::Unknown));

pub(super) const fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

pub(super) fn assert_ready(plan: &Plan, verdict: Verdict, reason: &str) {
    let finding = ready(plan);
    assert_eq!((finding.verdict, finding.reason), (verdict, reason), "{}", finding.message);
}

pub(super) fn assert_phase(plan: &Plan, phase: VMPhase) {
    assert_eq!(plan.phase, Some(phase), "{plan:?}");
}

#[test]
fn a_vm_of_another_host_is_not_ours() {
    assert!(matches!(Desired::of(&vm(RunStrategy::Always), "host-2"), Err(NotOurs::NotBound { .. })));
    let mut unbound = vm(RunStrategy::Always);
    unbound.status = None;
    assert!(matches!(Desired::of(&unbound, HOST), Err(NotOurs::NotBound { .. })));
}

#[test]
fn defaults_are_in_force() {
    let mut vm = vm(RunStrategy::Always);
    vm.spec.run_strategy = None;
    let desired = desired(&vm);
    assert_eq!(desired.strategy, RunStrategy::Always);
    assert_eq!(desired.grace, secs(30));
    let clone = WantedSource::Clone {
        namespace: "default".into(),
        image: "alpine".into(),
        pool: "default".into(),
        size: None,
        limits: None,
    };
    assert_eq!(desired.disks[0].source, clone);
    assert_eq!(desired.interfaces[0].mac, MacAddr::derive(UID, "eth0"));
}
