//! What guests do by themselves, and what happens to a host.

use ucloud_agent_core::{
    firewall::Rules,
    hypervisor::{DomainState, StopReason},
};

use crate::{SimHost, State};

impl SimHost {
    /// The guest crashes.
    pub fn crash(&self, vm_uid: &str) {
        self.switch(vm_uid, DomainState::Off(StopReason::Crashed));
    }

    /// The guest shuts itself down.
    pub fn shut_down(&self, vm_uid: &str) {
        self.switch(vm_uid, DomainState::Off(StopReason::Shutdown));
    }

    /// The hypervisor pauses the guest, as after an I/O error.
    pub fn pause(&self, vm_uid: &str) {
        self.switch(vm_uid, DomainState::Paused);
    }

    /// The host is booted: no domain runs, no devices and no rules are there, and nobody
    /// remembers addresses.
    pub fn boot(&self) {
        let mut state = self.state();
        for domain in state.domains.values_mut().filter(|domain| domain.state == DomainState::Running) {
            domain.state = DomainState::Off(StopReason::Unknown);
        }
        state.networks.clear();
        state.learnt.clear();
        state.rules = Rules::default();
        drop(state);
        self.tell_domains();
        self.tell_networks();
        self.rules_changed.send_modify(|count| *count += 1);
    }

    /// Guests ignore requests to shut down and to let go of interfaces from now on.
    pub fn deafen_guests(&self) {
        self.state().deaf = true;
    }

    /// Guests hear again.
    pub fn heal_guests(&self) {
        self.state().deaf = false;
    }

    /// Domains are defined but do not come up, as with a device that QEMU cannot open, or no longer so.
    pub fn break_starts(&self, broken: bool) {
        self.state().barren = broken;
    }

    /// The hypervisor answers as if it had no domains, or no longer so.
    pub fn silence(&self, silent: bool) {
        self.state().silent = silent;
        self.tell_domains();
    }

    /// What was learnt is lost, as with an agent that ends.
    pub fn forget_addresses(&self) {
        self.state().learnt.clear();
    }

    fn switch(&self, vm_uid: &str, to: DomainState) {
        if let Some(domain) = self.state().domains.get_mut(vm_uid).filter(|d| d.state == DomainState::Running) {
            domain.state = to;
        }
        self.tell_domains();
    }

    /// A guest that runs forms its addresses, in the networks that have a router.
    pub(crate) fn speak(&self, state: &mut State, vm_uid: &str) {
        let Some(domain) = state.domains.get(vm_uid).filter(|domain| domain.state == DomainState::Running) else {
            return;
        };
        let heard: Vec<_> = domain
            .spec
            .interfaces
            .iter()
            .filter_map(|interface| {
                let (_, devices) = state.networks.values().find(|(_, devices)| devices.bridge == interface.bridge)?;
                let address = interface.mac.slaac(self.underlay.prefix(devices.vni)?)?;
                Some(((devices.uid.clone(), interface.mac), address))
            })
            .collect();
        for (key, address) in heard {
            state.learnt.entry(key).or_default().insert(address);
        }
    }
}
