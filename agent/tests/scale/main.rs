//! A whole installation in one process: the API server, all controllers and 200 agents on simulated hosts take 2,000 VMs
//! to Running. It tells what that costs, and proves that nothing is done twice.
//!
//! And 300 networks come and go without leaving anything behind.
//!
//! `UCLOUD_SCALE_HOSTS`, `UCLOUD_SCALE_VMS` and `UCLOUD_SCALE_NETWORKS` set other numbers: the full size is 500, 5,000 and 1,000.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod costs;
mod installation;
mod networks;

use std::{collections::HashMap, time::Duration};

use kube::{Api, ResourceExt as _, api::ListParams};
use tokio::{sync::Mutex, time::Instant};
use ucloud_agent_core::hypervisor::DomainState;
use ucloud_types::{Host, VM, condition, vm::VMPhase};

use costs::{Costs, tell};
use installation::Installation;

/// Nothing takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_mins(15);

/// One installation at a time: what one costs is measured.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The most writes of VMs (creation, binding, statuses) that one VM may cost on its way to Running.
const VM_WRITES: f64 = 5.0;
/// The most requests of any kind, watches aside, that one VM may cost, its share of what hosts report included.
const REQUESTS: f64 = 12.0;

fn size(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |size| size.parse().expect("the variable is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_hosts_run_thousands_of_vms() {
    let _alone = ALONE.lock().await;
    let (hosts, vms) = (size("UCLOUD_SCALE_HOSTS", 200), size("UCLOUD_SCALE_VMS", 2000));
    let begun = Instant::now();
    let installation =
        tokio::time::timeout(PATIENCE, Installation::start(hosts, 12)).await.expect("all hosts get Ready");
    tell(&format!("{hosts} hosts Ready after {:.1} s", begun.elapsed().as_secs_f64()));

    let before = Costs::now(&installation).await;
    let begun = Instant::now();
    let running = installation.follow_vms(vms, |vm| phase_of(vm) == Some(VMPhase::Running));
    let (created, running) = tokio::join!(installation.create_vms(vms, begun), tokio::time::timeout(PATIENCE, running));
    running.expect("all VMs run");
    let took = begun.elapsed();
    let costs = Costs::now(&installation).await.since(&before);

    let per_vm = |count: u64| costs::ratio(count, vms);
    tell(&format!(
        "{vms} VMs on {hosts} hosts: created after {:.1} s, all Running after {:.1} s ({:.0} VMs/s); \
         {:.1} requests per VM, {:.2} of them writes of VMs, {:.1} writes to the storage per VM; peak RSS {} MiB",
        created.as_secs_f64(),
        took.as_secs_f64(),
        costs::ratio(vms as u64, 1) / took.as_secs_f64(),
        per_vm(costs.requests()),
        per_vm(costs.vm_writes()),
        per_vm(costs.stored),
        costs::peak_rss_mib(),
    ));
    tell(&costs.listed());

    everything_is_once(&installation, vms).await;
    assert!(per_vm(costs.vm_writes()) <= VM_WRITES, "{}", costs.listed());
    assert!(per_vm(costs.requests()) <= REQUESTS, "{}", costs.listed());
}

fn phase_of(vm: &VM) -> Option<VMPhase> {
    vm.status.as_ref().and_then(|status| status.phase)
}

/// Every VM runs on exactly one host, the one that it is bound to; it was started once; no host carries more than it has.
async fn everything_is_once(installation: &Installation, vms: usize) {
    let objects = Api::<VM>::all(installation.admin.clone()).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(objects.len(), vms);
    let mut taken: HashMap<String, (u64, u64, usize)> = HashMap::new();
    for vm in &objects {
        let name = vm.name_any();
        assert_eq!(phase_of(vm), Some(VMPhase::Running), "{name}");
        let binding = vm.status.as_ref().and_then(|status| status.binding.clone()).unwrap();
        assert_eq!(binding.epoch, 1, "{name}");
        let domain = installation.hosts[&binding.host].domain_of(&vm.uid().unwrap());
        assert_eq!(domain.map(|domain| domain.state), Some(DomainState::Running), "{name} on {}", binding.host);
        let (cpus, memory, count) = taken.entry(binding.host).or_default();
        *cpus += u64::from(vm.spec.cpus);
        *memory += vm.spec.memory.bytes();
        *count += 1;
    }
    let objects = Api::<Host>::all(installation.admin.clone()).list(&ListParams::default()).await.unwrap().items;
    assert_eq!(objects.len(), installation.hosts.len());
    for host in &objects {
        let name = host.name_any();
        let status = host.status.clone().unwrap();
        // Agents whose heartbeats starve are marked by the host controller
        assert!(condition::is_true(&status.conditions, condition::READY), "{name}: {:?}", status.conditions);
        let allocatable = status.allocatable.unwrap();
        let (cpus, memory, count) = taken.get(&name).copied().unwrap_or_default();
        assert!(cpus <= allocatable.cpus.into() && memory <= allocatable.memory.bytes(), "{name} carries too much");
        // The host itself has these VMs and no others, and started none of them twice
        let simulated = &installation.hosts[&name];
        let effects = simulated.effects();
        let starts = effects.get("start").copied().unwrap_or(0);
        assert_eq!((simulated.contents()[0], starts as usize), (count, count), "{name}: {effects:?}");
        assert!(!effects.contains_key("stop"), "{name}: {effects:?}");
        assert_eq!(simulated.violations(), [""; 0], "{name}");
    }
}
