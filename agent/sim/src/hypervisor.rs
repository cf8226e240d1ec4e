//! The simulated hypervisor.

use async_trait::async_trait;
use tokio::sync::watch;
use ucloud_agent_core::{
    HostError, Hypervisor,
    hypervisor::{
        Consistency, Copying, DiskCopy, DiskSource, Domain, DomainDisk, DomainInterface, DomainSpec, DomainState,
        HypervisorFacts, StopReason,
    },
};
use ucloud_types::{Quantity, host::Accelerator};

use crate::{Method, SimHost};

/// Whether the disk's bytes are these.
fn same(disk: &DomainDisk, there: &DiskSource) -> bool {
    match (&disk.source, there) {
        (DiskSource::Overlay { path, .. }, DiskSource::Overlay { path: p, .. }) => p == path,
        (named, there) => named == there,
    }
}

#[async_trait]
impl Hypervisor for SimHost {
    async fn domains(&self) -> Result<Vec<Domain>, HostError> {
        self.call(Method::Domains, async || {
            let state = self.state();
            Ok(if state.silent { Vec::new() } else { state.domains.values().cloned().collect() })
        })
        .await
    }

    async fn domain(&self, vm_uid: &str) -> Result<Option<Domain>, HostError> {
        self.call(Method::Domain, async || {
            let state = self.state();
            Ok(state.domains.get(vm_uid).filter(|_| !state.silent).cloned())
        })
        .await
    }

    async fn start(&self, spec: &DomainSpec) -> Result<(), HostError> {
        self.call(Method::Start, async || {
            {
                let mut state = self.state();
                if state.domains.get(&spec.uid).is_some_and(|domain| domain.state == DomainState::Running) {
                    return Ok(());
                }
                let guarded = |tap: &str| state.rules.ports.iter().any(|port| port.tap.as_str() == tap);
                if !spec.interfaces.iter().all(|interface| guarded(&interface.tap)) {
                    state.violations.push(format!("{} was started unguarded", spec.uid));
                }
                // It is defined first; what is missing shows when it is started
                let off = DomainState::Off(StopReason::Unknown);
                state.domains.insert(spec.uid.clone(), Domain { spec: spec.clone(), state: off });
                let disks = spec.disks.iter().all(|disk| state.disks.values().any(|there| same(disk, &there.source)));
                state.note_writers(&spec.uid, &spec.disks);
                let bridges = spec
                    .interfaces
                    .iter()
                    .all(|interface| state.networks.values().any(|(_, devices)| devices.bridge == interface.bridge));
                if !disks || !bridges || state.barren {
                    drop(state);
                    self.tell_domains();
                    return Err(HostError::retryable("StartFailed", "a disk or a bridge is missing, or does not open"));
                }
                if let Some(domain) = state.domains.get_mut(&spec.uid) {
                    domain.state = DomainState::Running;
                }
                state.count("start");
                self.speak(&mut state, &spec.uid);
            }
            self.tell_domains();
            self.tell_networks();
            Ok(())
        })
        .await
    }

    async fn plug(&self, vm_uid: &str, interface: &DomainInterface) -> Result<(), HostError> {
        self.call(Method::Plug, async || {
            {
                let mut state = self.state();
                if !state.rules.ports.iter().any(|port| port.tap.as_str() == interface.tap) {
                    state.violations.push(format!("{vm_uid} got interface {} unguarded", interface.name));
                }
                let bridge = state.networks.values().any(|(_, devices)| devices.bridge == interface.bridge);
                let domain = state.domains.get_mut(vm_uid).filter(|domain| domain.state == DomainState::Running);
                let Some(domain) = domain.filter(|_| bridge) else {
                    return Err(HostError::retryable(
                        "PlugFailed",
                        "the domain does not run, or the bridge is missing",
                    ));
                };
                if let Some(there) = domain.spec.interfaces.iter().find(|there| there.tap == interface.tap) {
                    let (vm, name) = (domain.spec.name.clone(), &interface.name);
                    if there != interface {
                        state.violations.push(format!("interface {name} of {vm} was plugged over another"));
                    }
                    return Ok(());
                }
                domain.spec.interfaces.push(interface.clone());
                state.count("plug");
                self.speak(&mut state, vm_uid);
            }
            self.tell_domains();
            self.tell_networks();
            Ok(())
        })
        .await
    }

    async fn unplug(&self, vm_uid: &str, interface: &DomainInterface) -> Result<(), HostError> {
        self.call(Method::Unplug, async || {
            {
                let mut state = self.state();
                let deaf = state.deaf;
                let Some(domain) = state.domains.get_mut(vm_uid) else { return Ok(()) };
                let there = domain.spec.interfaces.iter().position(|there| there == interface);
                let Some(index) = there.filter(|_| !deaf) else { return Ok(()) };
                domain.spec.interfaces.remove(index);
                state.count("unplug");
            }
            self.tell_domains();
            Ok(())
        })
        .await
    }

    async fn plug_disk(&self, vm_uid: &str, disk: &DomainDisk) -> Result<(), HostError> {
        self.call(Method::PlugDisk, async || {
            {
                let mut state = self.state();
                let made = state.disks.values().any(|there| same(disk, &there.source));
                state.note_writers(vm_uid, std::slice::from_ref(disk));
                let domain = state.domains.get_mut(vm_uid).filter(|domain| domain.state == DomainState::Running);
                let Some(domain) = domain.filter(|_| made) else {
                    return Err(HostError::retryable("PlugFailed", "the domain does not run, or the disk is missing"));
                };
                if let Some(there) = domain.spec.disks.iter().find(|there| there.name == disk.name) {
                    if there != disk {
                        let vm = domain.spec.name.clone();
                        state.violations.push(format!("disk {} of {vm} was plugged over another", disk.name));
                    }
                    return Ok(());
                }
                domain.spec.disks.push(disk.clone());
                state.count("plug disk");
            }
            self.tell_domains();
            Ok(())
        })
        .await
    }

    async fn unplug_disk(&self, vm_uid: &str, disk: &DomainDisk) -> Result<(), HostError> {
        self.call(Method::UnplugDisk, async || {
            {
                let mut state = self.state();
                let deaf = state.deaf;
                let Some(domain) = state.domains.get_mut(vm_uid) else { return Ok(()) };
                let there = domain.spec.disks.iter().position(|there| there == disk);
                let Some(index) = there.filter(|_| !deaf) else { return Ok(()) };
                domain.spec.disks.remove(index);
                state.count("unplug disk");
            }
            self.tell_domains();
            Ok(())
        })
        .await
    }

    async fn grow_disk(&self, vm_uid: &str, disk: &DomainDisk, size: Quantity) -> Result<(), HostError> {
        self.call(Method::GrowDisk, async || {
            let mut state = self.state();
            if !state.domains.get(vm_uid).is_some_and(|domain| domain.state == DomainState::Running) {
                return Err(HostError::retryable("PlugFailed", "the domain does not run"));
            }
            let mut grown = false;
            for there in state.disks.values_mut().filter(|there| same(disk, &there.source)) {
                grown |= there.size < size;
                there.size = there.size.max(size);
            }
            if grown {
                state.count("grow disk");
            }
            Ok(())
        })
        .await
    }

    async fn stand_still(&self, vm_uid: &str) -> Result<Consistency, HostError> {
        self.call(Method::StandStill, async || {
            {
                let mut state = self.state();
                let clock = state.clock;
                let domain = state.domains.get_mut(vm_uid).filter(|domain| domain.state == DomainState::Running);
                let Some(domain) = domain else {
                    return Err(HostError::retryable("StandStillFailed", "the domain does not run"));
                };
                domain.spec.standstill = true;
                state.still.insert(vm_uid.to_owned(), clock);
            }
            self.tell_domains();
            Ok(Consistency::Filesystems)
        })
        .await
    }

    async fn resume(&self, vm_uid: &str) -> Result<(), HostError> {
        self.call(Method::Resume, async || {
            {
                let mut state = self.state();
                state.still.remove(vm_uid);
                if let Some(domain) = state.domains.get_mut(vm_uid) {
                    domain.spec.standstill = false;
                }
            }
            self.tell_domains();
            Ok(())
        })
        .await
    }

    async fn begin_copy(&self, vm_uid: &str, _: &[DiskCopy]) -> Result<(), HostError> {
        self.call(Method::BeginCopy, async || {
            let mut state = self.state();
            if !state.domains.get(vm_uid).is_some_and(|domain| domain.state == DomainState::Running) {
                return Err(HostError::retryable("CopyFailed", "the domain does not run"));
            }
            let moment = state.still.get(vm_uid).copied().unwrap_or(state.clock);
            state.copying.insert(vm_uid.to_owned(), (false, moment));
            Ok(())
        })
        .await
    }

    async fn copying(&self, vm_uid: &str) -> Result<Copying, HostError> {
        self.call(Method::Copying, async || {
            let mut state = self.state();
            let runs = state.domains.get(vm_uid).is_some_and(|domain| domain.state == DomainState::Running);
            Ok(match state.copying.get_mut(vm_uid) {
                None => Copying::None,
                Some(_) if !runs => Copying::Failed("the domain has stopped".to_owned()),
                Some((true, _)) => Copying::Done,
                Some((asked, _)) => {
                    *asked = true;
                    Copying::Running(50)
                }
            })
        })
        .await
    }

    async fn end_copy(&self, vm_uid: &str) -> Result<(), HostError> {
        self.call(Method::EndCopy, async || {
            self.state().copying.remove(vm_uid);
            Ok(())
        })
        .await
    }

    async fn request_shutdown(&self, vm_uid: &str) -> Result<(), HostError> {
        self.call(Method::RequestShutdown, async || {
            if !self.state().deaf {
                self.shut_down(vm_uid);
            }
            Ok(())
        })
        .await
    }

    async fn destroy(&self, vm_uid: &str) -> Result<(), HostError> {
        self.call(Method::Destroy, async || {
            {
                let mut state = self.state();
                let up = |domain: &&mut Domain| !matches!(domain.state, DomainState::Off(_));
                let Some(domain) = state.domains.get_mut(vm_uid).filter(up) else { return Ok(()) };
                domain.state = DomainState::Off(StopReason::Destroyed);
                state.count("stop");
            }
            self.tell_domains();
            Ok(())
        })
        .await
    }

    async fn undefine(&self, vm_uid: &str) -> Result<(), HostError> {
        self.call(Method::Undefine, async || {
            {
                let mut state = self.state();
                let Some(domain) = state.domains.get(vm_uid) else { return Ok(()) };
                if !matches!(domain.state, DomainState::Off(_)) {
                    state.violations.push(format!("{vm_uid} was undefined while it was up"));
                    return Err(HostError::retryable("DomainRuns", "the domain runs"));
                }
                state.domains.remove(vm_uid);
                state.count("undefine");
            }
            self.tell_domains();
            Ok(())
        })
        .await
    }

    async fn forget(&self, _: &str) -> Result<(), HostError> {
        Ok(())
    }

    async fn facts(&self) -> Result<HypervisorFacts, HostError> {
        self.call(Method::Facts, async || {
            Ok(HypervisorFacts {
                accelerator: Accelerator::Kvm,
                accelerator_message: String::new(),
                libvirt: "0.0.0".to_owned(),
                qemu: "0.0.0".to_owned(),
            })
        })
        .await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.domains_changed.subscribe()
    }
}
