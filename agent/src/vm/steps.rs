//! Carrying out one step.

use jiff::Timestamp;
use tracing::info;
use ucloud_agent_core::{
    HostError,
    block_store::{DiskId, DiskRequest},
    hypervisor::{DomainInterface, DomainSpec},
    image,
    net::NetworkDevices,
    reason,
    vm::{Asked, Desired, FoundDisk, Provisioned},
};
use ucloud_types::VM;

use crate::{limit::limited, shared::Shared};

use super::observe;

/// The UID of no image: for a disk that is there already and needs none, its own having been removed by force.
const NO_IMAGE: &str = "00000000-0000-0000-0000-000000000000";

/// Makes the networks' devices and the disks.
pub async fn provision(shared: &Shared, desired: &Desired) -> Result<Provisioned, HostError> {
    let mut made = Provisioned::default();
    for interface in &desired.interfaces {
        made.interfaces.push((interface.name.clone(), ensure_network(shared, desired, &interface.network).await?));
    }
    for wanted in &desired.disks {
        let pool = shared.caches.pools.get(None, &wanted.pool).and_then(|pool| image::pool(&pool));
        let pool = pool.ok_or_else(|| {
            HostError::retryable(reason::STORAGE_POOL_NOT_FOUND, format!("StoragePool {} does not exist", wanted.pool))
        })?;
        let image = shared.caches.images.get(Some(&wanted.image_namespace), &wanted.image_name);
        let request = DiskRequest {
            id: DiskId { vm_uid: desired.uid.clone(), name: wanted.name.clone() },
            pool,
            image_uid: image.and_then(|image| image.metadata.uid.clone()).unwrap_or_else(|| NO_IMAGE.to_owned()),
            size: wanted.size,
        };
        let disk =
            limited(shared.config.timing.step, "make a disk", shared.machine.store.ensure_disk(&request)).await?;
        made.disks.push((wanted.name.clone(), disk));
    }
    Ok(made)
}

/// Makes the devices of the network with this name in the VM's namespace.
async fn ensure_network(shared: &Shared, desired: &Desired, name: &str) -> Result<NetworkDevices, HostError> {
    let network = observe::network(shared, desired, name)?;
    shared.networks.ensure(shared, &network).await
}

/// Makes the devices of the network of the interface with this name.
pub async fn provision_interface(shared: &Shared, desired: &Desired, name: &str) -> Result<(), HostError> {
    for interface in desired.interfaces.iter().filter(|interface| interface.name == name) {
        ensure_network(shared, desired, &interface.network).await?;
    }
    Ok(())
}

/// Plugs an interface into the domain.
pub async fn plug(shared: &Shared, vm: &VM, desired: &Desired, interface: &DomainInterface) -> Result<(), HostError> {
    // Its tap has rules before it exists
    shared.isolation.ensure(shared, std::slice::from_ref(interface)).await?;
    // Nobody takes the bridge away meanwhile
    let _held = shared.networks.hold().await;
    let plugged = shared.machine.hypervisor.plug(&desired.uid, interface);
    limited(shared.config.timing.step, "plug an interface", plugged).await?;
    info!(vm = desired.name, namespace = desired.namespace, interface = interface.name, "plugged");
    shared.events.normal(vm, "InterfacePlugged", format!("interface {} was plugged", interface.name));
    Ok(())
}

/// Asks the guest to let go of an interface.
pub async fn unplug(
    shared: &Shared,
    desired: &Desired,
    interface: &DomainInterface,
    now: Timestamp,
) -> Result<(), HostError> {
    let asked = shared.machine.hypervisor.unplug(&desired.uid, interface);
    limited(shared.config.timing.step, "unplug an interface", asked).await?;
    info!(vm = desired.name, namespace = desired.namespace, interface = interface.name, "asked to let go");
    shared.memories.with(&desired.uid, |remembered| {
        let unplugging = &mut remembered.core.unplugging;
        let asked = Asked::again(unplugging.get(&interface.name).copied(), now);
        unplugging.insert(interface.name.clone(), asked);
    });
    Ok(())
}

/// Starts the domain.
pub async fn start(shared: &Shared, vm: &VM, spec: &DomainSpec, restart: bool) -> Result<(), HostError> {
    // Its taps have rules before they exist
    shared.isolation.ensure(shared, &spec.interfaces).await?;
    limited(shared.config.timing.step, "start the VM", shared.machine.hypervisor.start(spec)).await?;
    let reported = vm.status.as_ref().and_then(|status| status.restarts).unwrap_or(0);
    shared.memories.with(&spec.uid, |remembered| {
        remembered.core.crashes.started(restart);
        remembered.core.shutdown = None;
        remembered.asked = None;
        remembered.restarts = remembered.restarts.max(reported) + u32::from(restart);
    });
    info!(vm = spec.name, namespace = spec.namespace, uid = spec.uid, epoch = spec.epoch, restart, "started");
    if restart {
        shared.events.normal(vm, "Restarted", "the VM had stopped by itself and was started again");
    } else {
        shared.events.normal(vm, "Started", format!("the VM was started on host {}", shared.config.host));
    }
    Ok(())
}

/// Asks the guest to shut down.
pub async fn request_shutdown(shared: &Shared, desired: &Desired, now: Timestamp) -> Result<(), HostError> {
    let hypervisor = &shared.machine.hypervisor;
    limited(shared.config.timing.step, "ask the guest to shut down", hypervisor.request_shutdown(&desired.uid)).await?;
    shared.memories.with(&desired.uid, |remembered| {
        remembered.core.shutdown = Some(Asked::again(remembered.core.shutdown, now));
    });
    Ok(())
}

/// Switches the domain off.
pub async fn destroy(shared: &Shared, desired: &Desired) -> Result<(), HostError> {
    info!(vm = desired.name, namespace = desired.namespace, uid = desired.uid, "switching off");
    limited(shared.config.timing.step, "switch the VM off", shared.machine.hypervisor.destroy(&desired.uid)).await
}

/// Removes the definition of the domain.
pub async fn undefine(shared: &Shared, desired: &Desired) -> Result<(), HostError> {
    let hypervisor = &shared.machine.hypervisor;
    limited(shared.config.timing.step, "remove the VM's definition", hypervisor.undefine(&desired.uid)).await
}

/// Removes what the hypervisor keeps of a VM without a domain.
pub async fn forget(shared: &Shared, desired: &Desired) -> Result<(), HostError> {
    limited(shared.config.timing.step, "remove the VM's console", shared.machine.hypervisor.forget(&desired.uid)).await
}

/// Removes disks.
pub async fn remove_disks(shared: &Shared, desired: &Desired, disks: &[FoundDisk]) -> Result<(), HostError> {
    // No answer, however wrong, may cost a running VM its disks: nothing runs after this, or it fails
    destroy(shared, desired).await?;
    undefine(shared, desired).await?;
    for disk in disks {
        let removed = shared.machine.store.remove_disk(&disk.pool, &disk.id);
        limited(shared.config.timing.step, "remove a disk", removed).await?;
    }
    Ok(())
}
