//! What makes the agent look at a VM: a change of its object or of what it needs, and news from the host.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
    sync::Arc,
};

use futures::channel::mpsc;
use kube::runtime::reflector::{ObjectRef, Store};
use tracing::warn;
use ucloud_agent_core::hypervisor::{Domain, DomainState};
use ucloud_types::VM;

use crate::{limit::limited, shared::Shared};

/// Asks for VMs to be looked at.
#[derive(Clone)]
pub struct Wake(mpsc::UnboundedSender<ObjectRef<VM>>);

impl Wake {
    /// A way to wake VMs, and the queue that they are woken in.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<ObjectRef<VM>>) {
        let (sender, receiver) = mpsc::unbounded();
        (Self(sender), receiver)
    }

    /// Look at this VM.
    pub fn vm(&self, vm: &VM) {
        // Nobody listens only when the agent ends
        let _ = self.0.unbounded_send(ObjectRef::from_obj(vm));
    }

    /// Look at those VMs of which this holds.
    pub fn users(&self, vms: &Store<VM>, uses: impl Fn(&VM) -> bool) {
        for vm in vms.state().iter().filter(|vm| uses(vm)) {
            self.vm(vm);
        }
    }
}

/// What a VM's domain is, as far as a change of it concerns the VM: its state, its epoch, the taps of its interfaces and the
/// names of its disks.
type Aspect = (DomainState, u64, Vec<String>, Vec<String>);

fn aspect(domain: &Domain) -> Aspect {
    let taps = domain.spec.interfaces.iter().map(|interface| interface.tap.clone());
    let disks = domain.spec.disks.iter().map(|disk| disk.name.clone());
    (domain.state, domain.spec.epoch, taps.collect(), disks.collect())
}

/// Wakes VMs whose domains started, stopped, vanished or have other interfaces.
pub async fn follow_domains(shared: Arc<Shared>) {
    let mut changes = shared.machine.hypervisor.changes();
    let mut known: HashMap<String, Aspect> = HashMap::new();
    loop {
        let domains = limited(shared.config.timing.step, "list its domains", shared.machine.hypervisor.domains()).await;
        match domains {
            Ok(domains) => {
                let now: HashMap<_, _> =
                    domains.iter().map(|domain| (domain.spec.uid.clone(), aspect(domain))).collect();
                let changed = |vm: &VM| vm.metadata.uid.as_ref().is_some_and(|uid| now.get(uid) != known.get(uid));
                shared.wake.users(&shared.caches.vms.store(), changed);
                known = now;
            }
            // Each VM finds out for itself, and says so
            Err(error) => {
                warn!(reason = error.reason, "cannot list domains: {error}");
                known.clear();
                shared.wake.users(&shared.caches.vms.store(), |_| true);
            }
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Wakes VMs of whose interfaces other addresses were seen.
pub async fn follow_addresses(shared: Arc<Shared>) {
    let mut changes = shared.machine.net.changes();
    let mut known: HashMap<String, BTreeMap<String, Vec<Ipv6Addr>>> = HashMap::new();
    while changes.changed().await.is_ok() {
        let vms = shared.caches.vms.all();
        let now: HashMap<_, _> =
            vms.iter().filter_map(|vm| Some((vm.metadata.uid.clone()?, learnt(&shared, vm)))).collect();
        let changed = |vm: &VM| vm.metadata.uid.as_ref().is_some_and(|uid| now.get(uid) != known.get(uid));
        shared.wake.users(&shared.caches.vms.store(), changed);
        known = now;
    }
}

/// The addresses that the VM's interfaces were seen to use.
fn learnt(shared: &Shared, vm: &VM) -> BTreeMap<String, Vec<Ipv6Addr>> {
    let uid = vm.metadata.uid.as_deref().unwrap_or_default();
    let interface = |interface: &ucloud_types::vm::InterfaceSpec| {
        let network = shared.caches.networks.get(vm.metadata.namespace.as_deref(), &interface.network)?;
        let network = network.metadata.uid.as_deref()?;
        let addresses = shared.machine.net.learnt(network, interface.effective_mac(uid));
        Some((interface.name.clone(), addresses))
    };
    vm.spec.networks.iter().filter_map(interface).collect()
}
