//! Carrying out one step.

use jiff::Timestamp;
use tracing::info;
use ucloud_agent_core::{
    HostError,
    block_store::{Content, DiskId, DiskRequest},
    hypervisor::{DomainDisk, DomainInterface, DomainSpec},
    net::NetworkDevices,
    vm::{Asked, Desired, FoundDisk, MadeDisk, Provisioned, WantedDisk, WantedSource},
};
use ucloud_types::{Quantity, VM};

use crate::{limit::limited, shared::Shared, volumes};

use super::observe;

/// The UID of no image: for a disk that is there already and needs none, its own having been removed by force.
pub const NO_IMAGE: &str = "00000000-0000-0000-0000-000000000000";

/// Makes the networks' devices and the disks.
pub async fn provision(shared: &Shared, desired: &Desired) -> Result<Provisioned, HostError> {
    let mut made = Provisioned::default();
    for interface in &desired.interfaces {
        made.interfaces.push((interface.name.clone(), ensure_network(shared, desired, &interface.network).await?));
    }
    for wanted in &desired.disks {
        made.disks.push((wanted.name.clone(), ensure_disk(shared, desired, wanted).await?));
    }
    Ok(made)
}

async fn ensure_disk(shared: &Shared, desired: &Desired, wanted: &WantedDisk) -> Result<MadeDisk, HostError> {
    let (namespace, name, pool_name, size, limits) = match &wanted.source {
        WantedSource::Volume(name) => return volumes::ensure(shared, desired, name).await,
        WantedSource::Clone { namespace, image, pool, size, limits } => (namespace, image, pool, *size, *limits),
    };
    let pool = shared.pool(pool_name)?;
    let reported = desired.reported_disks.iter().find(|is| is.name == wanted.name && is.volume.is_none());
    let image = reported.and_then(|is| is.restored.clone()).or_else(|| {
        let image = shared.caches.images.get(Some(namespace), name);
        image.and_then(|image| image.metadata.uid.clone())
    });
    let request = DiskRequest {
        id: DiskId { owner_uid: desired.uid.clone(), name: wanted.name.clone() },
        pool,
        content: Content::Image(image.unwrap_or_else(|| NO_IMAGE.to_owned())),
        size,
    };
    let disk = limited(shared.config.timing.step, "make a disk", shared.machine.store.ensure_disk(&request)).await?;
    Ok(MadeDisk { disk, volume: None, limits })
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

/// Makes the disk of this name, which is a Volume, and plugs it into the domain.
pub async fn plug_disk(shared: &Shared, vm: &VM, desired: &Desired, name: &str) -> Result<(), HostError> {
    let Some(wanted) = desired.disks.iter().find(|wanted| wanted.name == name) else { return Ok(()) };
    let MadeDisk { disk, volume, limits } = ensure_disk(shared, desired, wanted).await?;
    let disk = DomainDisk { name: name.to_owned(), volume, limits, source: disk.source };
    let plugged = shared.machine.hypervisor.plug_disk(&desired.uid, &disk);
    limited(shared.config.timing.step, "plug a disk", plugged).await?;
    info!(vm = desired.name, namespace = desired.namespace, disk = name, "plugged");
    let volume = wanted.volume().unwrap_or_default();
    shared.events.normal(vm, "VolumeAttached", format!("volume {volume} was attached as disk {name}"));
    Ok(())
}

/// Asks the guest to let go of a disk.
pub async fn unplug_disk(
    shared: &Shared,
    desired: &Desired,
    disk: &DomainDisk,
    now: Timestamp,
) -> Result<(), HostError> {
    let asked = shared.machine.hypervisor.unplug_disk(&desired.uid, disk);
    limited(shared.config.timing.step, "unplug a disk", asked).await?;
    info!(vm = desired.name, namespace = desired.namespace, disk = disk.name, "asked to let go");
    shared.memories.with(&desired.uid, |remembered| {
        let unplugging = &mut remembered.core.unplugging_disks;
        let asked = Asked::again(unplugging.get(&disk.name).copied(), now);
        unplugging.insert(disk.name.clone(), asked);
    });
    Ok(())
}

/// Grows a disk of the domain.
pub async fn grow_disk(
    shared: &Shared,
    vm: &VM,
    desired: &Desired,
    disk: &DomainDisk,
    size: Quantity,
) -> Result<(), HostError> {
    let grown = shared.machine.hypervisor.grow_disk(&desired.uid, disk, size);
    limited(shared.config.timing.step, "grow a disk", grown).await?;
    let wanted = desired.disks.iter().find(|wanted| wanted.name == disk.name);
    if let (Some(uid), Some(name)) = (&disk.volume, wanted.and_then(WantedDisk::volume)) {
        volumes::report_size(shared, desired, name, uid, size).await?;
    }
    shared.memories.with(&desired.uid, |remembered| remembered.core.grown.insert(disk.name.clone(), size));
    info!(vm = desired.name, namespace = desired.namespace, disk = disk.name, %size, "grown");
    shared.events.normal(vm, "DiskGrown", format!("disk {} has {size} now", disk.name));
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
