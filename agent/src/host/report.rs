//! What is reported of the host, and when: as soon as something changes, but not more often than people can read.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, timeout},
};
use tracing::warn;
use ucloud_agent_core::orphan;
use ucloud_types::{
    Host, HostStatus, Quantity,
    condition::{self, Finding, Verdict},
    host::{Accelerator, HostNetwork, Resources, Versions},
    vm::VMPhase,
};

use crate::{
    Config,
    api::ApiError,
    keeper::{pause, until},
    shared::Shared,
};

use super::survey::{Survey, survey};

/// The shortest pause between two looks at the host.
const PAUSE: Duration = Duration::from_secs(1);

/// Looks at the host and reports on it, as long as the agent runs.
pub async fn run(shared: Arc<Shared>) {
    let changes = Changes {
        pools: shared.caches.pools.changes(),
        orphans: shared.orphans.changes(),
        hypervisor: shared.machine.hypervisor.changes(),
    };
    let (told, surveyed) = watch::channel(Arc::new(survey(&shared).await));
    // what the last report said of gateways may be of before a reboot
    let _ = timeout(shared.config.timing.call, shared.networks.present().wait_for(Option::is_some)).await;
    // Beside each other: a pool that does not answer takes its time, and nobody waits for its report to hear of gateways
    tokio::select! {
        () = look(&shared, changes, &told) => {}
        () = tell(&shared, surveyed) => {}
    }
}

/// What makes another look necessary, from before the first one on.
struct Changes {
    pools: watch::Receiver<u64>,
    orphans: watch::Receiver<u64>,
    hypervisor: watch::Receiver<u64>,
}

/// Looks at the host now and then, and whenever something has changed that only a look tells.
async fn look(shared: &Shared, changes: Changes, told: &watch::Sender<Arc<Survey>>) {
    let Changes { mut pools, mut orphans, mut hypervisor } = changes;
    let mut surveys = tokio::time::interval(shared.config.timing.survey);
    surveys.set_missed_tick_behavior(MissedTickBehavior::Delay);
    surveys.tick().await;
    loop {
        let silent = told.borrow().facts.is_err();
        let alive = tokio::select! {
            changed = pools.changed() => changed.is_ok(),
            changed = orphans.changed() => changed.is_ok(),
            changed = hypervisor.changed(), if silent => changed.is_ok(),
            _ = surveys.tick() => true,
        };
        if !alive {
            return;
        }
        let begun = Instant::now();
        let known: BTreeSet<_> = shared.caches.vms.all().iter().filter_map(|vm| vm.metadata.uid.clone()).collect();
        shared.memories.keep(&known);
        told.send_replace(Arc::new(survey(shared).await));
        tokio::time::sleep_until(begun + PAUSE).await;
    }
}

/// Reports whatever is new.
async fn tell(shared: &Shared, mut surveyed: watch::Receiver<Arc<Survey>>) {
    let mut host = shared.caches.host.changes();
    let mut images = shared.images.changes();
    let mut networks = shared.networks.present();
    let mut orphans = shared.orphans.changes();
    let mut newest: Option<Host> = None;
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        let vms = shared.caches.vms.all();
        let phases = vms.iter().map(|vm| vm.status.as_ref().and_then(|status| status.phase));
        shared.metrics.count_vms(phases.map(|phase| format!("{:?}", phase.unwrap_or(VMPhase::Pending))));
        let seen = Arc::clone(&surveyed.borrow_and_update());
        let retry = match report(shared, &seen, &mut newest).await {
            Ok(()) => {
                failures = 0;
                None
            }
            Err(error) => {
                failures += 1;
                warn!(failures, error = &error as &dyn std::error::Error, "cannot report on the host");
                Some(Instant::now() + shared.config.timing.retry(failures))
            }
        };
        let alive = tokio::select! {
            changed = surveyed.changed() => changed.is_ok(),
            changed = host.changed() => changed.is_ok(),
            changed = images.changed() => changed.is_ok(),
            changed = networks.changed() => changed.is_ok(),
            changed = orphans.changed() => changed.is_ok(),
            () = until(retry) => true,
        };
        if !alive {
            return;
        }
        pause(begun, &shared.images.awaited).await;
    }
}

/// Writes what is new. `newest` is the Host as the API server last answered a write: the cache may be behind it.
async fn report(shared: &Shared, seen: &Survey, newest: &mut Option<Host>) -> Result<(), ApiError> {
    let Some(cached) = shared.caches.host.get(None, &shared.config.host) else { return Ok(()) };
    let host = match newest.take() {
        Some(newest) if newest.metadata.uid == cached.metadata.uid && revision(&newest) > revision(&cached) => newest,
        _ => Host::clone(&cached),
    };
    let networks = shared.networks.present().borrow().clone();
    let current = host.status.clone().unwrap_or_default();
    let mut next = next_status(&current, seen, &shared.config, networks, host.metadata.generation, Timestamp::now());
    next.images = shared.images.report();
    shared.orphans.explain(&mut next.orphans);
    next.stream_port = shared.stream_port;
    match shared.api.report_host(&host, &next).await {
        Ok(Some(written)) => *newest = Some(written),
        Ok(None) => *newest = Some(host),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn revision(host: &Host) -> u64 {
    host.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn next_status(
    current: &HostStatus,
    seen: &Survey,
    config: &Config,
    networks: Option<Vec<HostNetwork>>,
    generation: Option<i64>,
    now: Timestamp,
) -> HostStatus {
    let mut next = current.clone();
    let capacity = config.inventory.capacity;
    next.capacity = Some(capacity);
    next.allocatable = Some(Resources {
        cpus: capacity.cpus.saturating_mul(config.cpu_overcommit),
        memory: Quantity::from_bytes(capacity.memory.bytes().saturating_sub(config.reserved_memory.bytes())),
    });
    next.boot_id = Some(config.inventory.boot_id.clone());
    next.pools.clone_from(&seen.pools);
    for pool in &mut next.pools {
        let before = current.pools.iter().any(|part| part.name == pool.name && part.surveyed);
        pool.surveyed = orphan::is_surveyed(before, &seen.orphans, &pool.name);
    }
    let networks_known = networks.is_some();
    next.networks = networks.unwrap_or_else(|| current.networks.clone());
    next.orphans = orphan::report(&current.orphans, &seen.orphans);
    if let Ok(addresses) = &seen.addresses {
        next.addresses.clone_from(addresses);
    }
    if let Ok(facts) = &seen.facts {
        next.accelerator = Some(facts.accelerator);
        next.versions = Some(Versions {
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            libvirt: facts.libvirt.clone(),
            qemu: facts.qemu.clone(),
            kernel: config.inventory.kernel.clone(),
        });
        let accelerated = match facts.accelerator {
            Accelerator::Kvm => Finding::new(condition::ACCELERATED, Verdict::True, "Kvm", "VMs run by KVM"),
            Accelerator::Tcg => {
                let message = format!("VMs run many times slower than by KVM: {}", facts.accelerator_message);
                Finding::new(condition::ACCELERATED, Verdict::False, "Tcg", message)
            }
        };
        condition::set(&mut next.conditions, &accelerated, generation, now);
    }
    condition::set(&mut next.conditions, &ready(seen, networks_known), generation, now);
    next
}

fn ready(seen: &Survey, networks_known: bool) -> Finding {
    let (verdict, reason, message) = match (&seen.facts, &seen.addresses) {
        (Err(error), _) | (_, Err(error)) => (Verdict::False, error.reason, error.message.clone()),
        (Ok(_), Ok(addresses)) if addresses.is_empty() => {
            let message = "the host has no address in the underlay: give its underlay interface one";
            (Verdict::False, "NoUnderlayAddress", message.to_owned())
        }
        _ if !networks_known => {
            let message = "the host cannot list its network devices: its agent's log says why";
            (Verdict::False, "NetworksUnknown", message.to_owned())
        }
        _ => (Verdict::True, "AgentReady", "the host runs VMs".to_owned()),
    };
    Finding::new(condition::READY, verdict, reason, message)
}
