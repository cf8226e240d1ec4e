//! Virtual machines by libvirt and QEMU: [`Libvirt`] implements [`Hypervisor`].
//!
//! A VM is a persistent domain named `ucloud-UID` whose UUID is the VM's UID: libvirt remembers why it stopped
//! until it is undefined. Its metadata holds the whole spec. A domain without such metadata is not ours and is
//! never touched. libvirtd and this agent may both restart at any time: QEMU runs on, and is found again.

mod calls;
mod config;
mod connection;
mod console;
mod copy;
mod disks;
mod domains;
mod hotplug;
mod interfaces;
mod metadata;
mod probe;
mod secret;
mod session;
mod standstill;
mod state;
mod xml;

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{OnceCell, watch},
    task::spawn_blocking,
};
use ucloud_agent_core::{
    HostError, Hypervisor,
    hypervisor::{
        CephKeys, Consistency, Copying, DiskCopy, DiskSource, Domain, DomainDisk, DomainInterface, DomainSpec,
        HypervisorFacts,
    },
};
use ucloud_types::{Quantity, host::Accelerator};
use virt::connect::Connect;

pub use config::LibvirtConfig;
pub use console::ConsoleDirectoryError;

use connection::{CallError, Connection, brief};
use copy::CopyError;
use domains::Found;
use hotplug::Device;
use probe::Probe;
use secret::Secret;
use standstill::StandstillError;
use xml::Layout;

/// Lists and look-ups. The first one after libvirtd has started waits until it has looked at QEMU.
const QUERY: Duration = Duration::from_mins(1);
/// Defining and starting a domain: QEMU opens its disks, and libvirt may look at QEMU first.
const START: Duration = Duration::from_mins(3);
/// Plugging and unplugging: libvirt waits for a guest for 5 s.
const PLUG: Duration = Duration::from_secs(30);
/// Making a guest stand still: its agent may take half a minute for each of its answers.
const STANDSTILL: Duration = Duration::from_mins(2);
/// Beginning and giving up a copying: an earlier one has half a minute to end.
const COPY: Duration = Duration::from_mins(1);
/// Ending QEMU: libvirt waits for up to half a minute for it to write out its buffers.
const STOP: Duration = Duration::from_secs(90);

/// The hypervisor of this host.
pub struct Libvirt {
    connection: Connection,
    qemu: PathBuf,
    consoles: PathBuf,
    probe: Probe,
    accelerator: OnceCell<(Accelerator, String)>,
    keys: CephKeys,
    /// Domains that look like ours and cannot be read, so that each is logged once.
    unreadable: Mutex<HashSet<String>>,
}

impl Libvirt {
    /// Makes the folder for consoles and connects. It is no error if libvirt is away: it is tried again in the
    /// background, and until then every call answers HypervisorUnavailable. `keys` is asked whenever a domain with disks in
    /// Ceph starts.
    pub async fn connect(config: LibvirtConfig, keys: CephKeys) -> Result<Self, ConsoleDirectoryError> {
        let LibvirtConfig { uri, consoles, qemu, qemu_user } = config;
        console::ensure_directory(&consoles)?;
        Ok(Self {
            connection: Connection::keep(uri).await,
            probe: Probe { qemu: qemu.clone(), user: qemu_user, patience: probe::PATIENCE },
            qemu,
            consoles,
            accelerator: OnceCell::new(),
            keys,
            unreadable: Mutex::default(),
        })
    }

    /// How guests' code is run, and why not by KVM; found out once.
    async fn accelerator(&self) -> (Accelerator, String) {
        let probed = self.accelerator.get_or_init(|| async {
            match self.probe.run().await {
                Ok(()) => (Accelerator::Kvm, String::new()),
                Err(no_kvm) => {
                    let chain =
                        std::iter::successors(Some(&no_kvm as &dyn std::error::Error), |error| (**error).source());
                    let why = chain.map(ToString::to_string).collect::<Vec<_>>().join(": ");
                    tracing::warn!(%why, "guests are run without KVM");
                    (Accelerator::Tcg, why)
                }
            }
        });
        probed.await.clone()
    }

    /// The secrets that QEMU needs for the domain's disks.
    async fn secrets(&self, spec: &DomainSpec) -> Result<Vec<Secret>, HostError> {
        let users: BTreeSet<_> = spec
            .disks
            .iter()
            .filter_map(|disk| match &disk.source {
                DiskSource::Rbd { user, conf, .. } => Some((user.clone(), conf.clone())),
                DiskSource::Overlay { .. } => None,
            })
            .collect();
        let keys = CephKeys::clone(&self.keys);
        let read = spawn_blocking(move || {
            users
                .iter()
                .map(|(user, conf)| Ok(Secret { name: xml::secret_name(user, conf), key: keys(user, conf)? }))
                .collect()
        });
        read.await.unwrap_or_else(|error| {
            Err(HostError::retryable("StartFailed", "the keys of Ceph could not be read").caused_by(error))
        })
    }

    async fn unplug_device(&self, vm_uid: &str, act: String, device: Device) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let asked = self.connection.call(PLUG, move |connect| hotplug::unplug(connect, &uid, &device)).await;
        asked.map_err(|error| not_plugged(&act, error))?.map_err(|error| unfit(&act, error.into()))
    }

    /// The domain, if it is one of ours.
    fn read(&self, found: Found) -> Option<Domain> {
        let name = found.name.clone();
        match domains::read(found) {
            Ok(domain) => domain,
            Err(error) => {
                let news = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
                if news {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(domain = %name, error, "a domain's metadata cannot be read: it is left alone");
                }
                None
            }
        }
    }
}

fn not_plugged(act: &str, error: CallError) -> HostError {
    match &error {
        CallError::Refused(refused) => {
            let said = brief(refused.message());
            HostError::retryable("PlugFailed", format!("cannot {act}: libvirt says: {said}")).caused_by(error)
        }
        _ => error.reported(act),
    }
}

fn not_plugged_disk(act: &str, disk: &DomainDisk, error: CallError) -> HostError {
    let mut told = not_plugged(act, error);
    told.message = domains::in_users_terms(&told.message, disk);
    told
}

/// A domain does not stand still, or go on.
fn not_still(act: &str, error: StandstillError) -> HostError {
    let reason = match &error {
        StandstillError::Off => "DomainOff",
        StandstillError::Paused => "DomainPaused",
        StandstillError::Busy => "GuestBusy",
        StandstillError::Metadata(_) => return unfit(act, error.into()),
    };
    HostError::retryable(reason, format!("cannot {act}: {error}")).caused_by(error)
}

/// A copying that does not begin.
fn not_copied(act: &str, error: CopyError) -> HostError {
    let reason = match &error {
        CopyError::Off => "DomainOff",
        CopyError::NoDisk(_) | CopyError::Busy => "CopyFailed",
        CopyError::Metadata(_) | CopyError::Xml(_) => return unfit(act, error.into()),
    };
    HostError::retryable(reason, format!("cannot {act}: {error}")).caused_by(error)
}

/// What is to be plugged, or the domain, cannot be read or written.
fn unfit(act: &str, error: Box<dyn std::error::Error + Send + Sync>) -> HostError {
    HostError::terminal("InvalidDomain", format!("cannot {act}: {error}")).caused_by(error)
}

#[async_trait]
impl Hypervisor for Libvirt {
    async fn domains(&self) -> Result<Vec<Domain>, HostError> {
        let found = self.connection.call(QUERY, domains::list).await.map_err(|e| e.reported("list domains"))?;
        Ok(found.into_iter().filter_map(|found| self.read(found)).collect())
    }

    async fn domain(&self, vm_uid: &str) -> Result<Option<Domain>, HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let found = self.connection.call(QUERY, move |connect| domains::find(connect, &uid)).await;
        let found = found.map_err(|e| e.reported(&format!("look up the domain of VM {vm_uid}")))?;
        Ok(found.and_then(|found| self.read(found)))
    }

    async fn start(&self, spec: &DomainSpec) -> Result<(), HostError> {
        let uid = domains::checked_uid(&spec.uid)?;
        let (accelerator, _) = self.accelerator().await;
        let disks = spec.disks.clone();
        let caches = spawn_blocking(move || disks.iter().map(domains::cache).collect());
        let layout = Layout {
            accelerator,
            qemu: self.qemu.clone(),
            consoles: self.consoles.clone(),
            caches: caches.await.unwrap_or_default(),
        };
        let xml = xml::domain_xml(spec, &layout).map_err(|error| {
            let message = format!("VM {}/{} cannot be made a domain: {error}", spec.namespace, spec.name);
            HostError::terminal("InvalidDomain", message).caused_by(error)
        })?;
        let secrets = self.secrets(spec).await?;
        let start = move |connect: &Connect| {
            secrets.iter().try_for_each(|secret| secret.ensure(connect))?;
            domains::start(connect, &uid, &xml)
        };
        let started = self.connection.call(START, start).await;
        started.map_err(|error| domains::not_started(spec, &self.consoles, error))
    }

    async fn plug(&self, vm_uid: &str, interface: &DomainInterface) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let act = format!("plug interface {} into VM {vm_uid}", interface.name);
        let Some(Domain { mut spec, .. }) = self.domain(vm_uid).await? else {
            return Err(HostError::retryable("PlugFailed", format!("cannot {act}: it has no domain")));
        };
        spec.interfaces.retain(|there| there.tap != interface.tap);
        spec.interfaces.push(interface.clone());
        let metadata = metadata::element(&spec).map_err(|error| unfit(&act, error.into()))?;
        let xml = xml::interface_xml(interface).map_err(|error| unfit(&act, error.into()))?;
        let device = Device::Interface(interface.tap.clone());
        let plug = move |connect: &Connect| hotplug::plug(connect, &uid, &metadata, &device, |_| Ok(xml.clone()));
        let plugged = self.connection.call(PLUG, plug).await;
        plugged.map_err(|error| not_plugged(&act, error))?.map_err(|error| unfit(&act, error.into()))
    }

    async fn unplug(&self, vm_uid: &str, interface: &DomainInterface) -> Result<(), HostError> {
        let act = format!("unplug interface {} of VM {vm_uid}", interface.name);
        self.unplug_device(vm_uid, act, Device::Interface(interface.tap.clone())).await
    }

    async fn plug_disk(&self, vm_uid: &str, disk: &DomainDisk) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let act = format!("plug disk {} into VM {vm_uid}", disk.name);
        let Some(Domain { mut spec, .. }) = self.domain(vm_uid).await? else {
            return Err(HostError::retryable("PlugFailed", format!("cannot {act}: it has no domain")));
        };
        spec.disks.retain(|there| there.name != disk.name);
        spec.disks.push(disk.clone());
        let metadata = metadata::element(&spec).map_err(|error| unfit(&act, error.into()))?;
        let looked = disk.clone();
        let cache = spawn_blocking(move || domains::cache(&looked)).await.unwrap_or(xml::Cache::Writeback);
        // Whether it can be written as XML at all does not depend on its device
        xml::disk_xml(disk, "vdz", cache).map_err(|error| unfit(&act, error.into()))?;
        let secrets = self.secrets(&spec).await?;
        let (plugged, device) = (disk.clone(), Device::Disk(disk.name.clone()));
        let plug = move |connect: &Connect| {
            secrets.iter().try_for_each(|secret| secret.ensure(connect))?;
            hotplug::plug(connect, &uid, &metadata, &device, |domain| {
                Ok(xml::disk_xml(&plugged, &hotplug::free_device(domain)?, cache)?)
            })
        };
        let done = self.connection.call(PLUG, plug).await;
        done.map_err(|error| not_plugged_disk(&act, disk, error))?.map_err(|error| unfit(&act, error.into()))
    }

    async fn unplug_disk(&self, vm_uid: &str, disk: &DomainDisk) -> Result<(), HostError> {
        let act = format!("unplug disk {} of VM {vm_uid}", disk.name);
        self.unplug_device(vm_uid, act, Device::Disk(disk.name.clone())).await
    }

    async fn grow_disk(&self, vm_uid: &str, disk: &DomainDisk, size: Quantity) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let act = format!("grow disk {} of VM {vm_uid} to {size}", disk.name);
        let name = disk.name.clone();
        let grown = self.connection.call(PLUG, move |connect| hotplug::grow(connect, &uid, &name, size.bytes())).await;
        grown.map_err(|error| not_plugged_disk(&act, disk, error))?.map_err(|error| unfit(&act, error.into()))
    }

    async fn stand_still(&self, vm_uid: &str) -> Result<Consistency, HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let act = format!("make VM {vm_uid} stand still");
        let stands = self.connection.call(STANDSTILL, move |connect| standstill::stand_still(connect, &uid)).await;
        stands.map_err(|error| error.reported(&act))?.map_err(|error| not_still(&act, error))
    }

    async fn resume(&self, vm_uid: &str) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let act = format!("let VM {vm_uid} go on");
        let goes_on = self.connection.call(STANDSTILL, move |connect| standstill::resume(connect, &uid)).await;
        goes_on.map_err(|error| error.reported(&act))?.map_err(|error| not_still(&act, error))
    }

    async fn begin_copy(&self, vm_uid: &str, copies: &[DiskCopy]) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let act = format!("copy disks of VM {vm_uid}");
        let wanted = copies.to_owned();
        let begun = self.connection.call(COPY, move |connect| copy::begin(connect, &uid, &wanted)).await;
        let reported = |error: CallError| {
            let mut told = error.reported(&act);
            for DiskCopy { disk, path } in copies {
                told.message = told.message.replace(&*path.to_string_lossy(), &format!("the copy of disk {disk}"));
            }
            told
        };
        begun.map_err(reported)?.map_err(|error| not_copied(&act, error))
    }

    async fn copying(&self, vm_uid: &str) -> Result<Copying, HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let looked = self.connection.call(QUERY, move |connect| copy::progress(connect, &uid)).await;
        looked.map_err(|error| error.reported(&format!("ask how far the copying of disks of VM {vm_uid} is")))
    }

    async fn end_copy(&self, vm_uid: &str) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let act = format!("give up copying disks of VM {vm_uid}");
        let ended = self.connection.call(COPY, move |connect| copy::end(connect, &uid)).await;
        if !ended.map_err(|error| error.reported(&act))? {
            return Err(not_copied(&act, CopyError::Busy));
        }
        Ok(())
    }

    async fn request_shutdown(&self, vm_uid: &str) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let asked = self.connection.call(QUERY, move |connect| domains::request_shutdown(connect, &uid)).await;
        asked.map_err(|e| e.reported(&format!("ask VM {vm_uid} to shut down")))
    }

    async fn destroy(&self, vm_uid: &str) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let destroyed = self.connection.call(STOP, move |connect| domains::destroy(connect, &uid)).await;
        destroyed.map_err(|e| e.reported(&format!("switch off VM {vm_uid}")))
    }

    async fn undefine(&self, vm_uid: &str) -> Result<(), HostError> {
        let uid = domains::checked_uid(vm_uid)?;
        let undefined = self.connection.call(QUERY, move |connect| domains::undefine(connect, &uid)).await;
        if !undefined.map_err(|e| e.reported(&format!("remove the domain of VM {vm_uid}")))? {
            let message = format!("the domain of VM {vm_uid} cannot be removed while it runs; switch it off first");
            return Err(HostError::retryable("DomainRunning", message));
        }
        Ok(())
    }

    async fn forget(&self, vm_uid: &str) -> Result<(), HostError> {
        domains::checked_uid(vm_uid)?;
        let (consoles, uid) = (self.consoles.clone(), vm_uid.to_owned());
        let removed = spawn_blocking(move || console::remove_files(&consoles, &uid)).await;
        removed.map_err(std::io::Error::other).flatten().map_err(|error| {
            HostError::retryable("ConsoleNotRemoved", format!("cannot remove the console of VM {vm_uid}: {error}"))
                .caused_by(error)
        })
    }

    async fn facts(&self) -> Result<HypervisorFacts, HostError> {
        let (accelerator, accelerator_message) = self.accelerator().await;
        let versions =
            self.connection.call(QUERY, |connect| Ok((connect.get_lib_version()?, connect.get_hyp_version()?)));
        let (libvirt, qemu) = versions.await.map_err(|e| e.reported("ask libvirt what it is"))?;
        Ok(HypervisorFacts {
            accelerator,
            accelerator_message,
            libvirt: domains::version(libvirt),
            qemu: domains::version(qemu),
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.connection.changes()
    }
}
