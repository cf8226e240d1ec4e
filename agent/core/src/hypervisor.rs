//! The hypervisor: domains, which are running VMs or their definitions.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use ucloud_types::{MacAddr, Quantity, host::Accelerator, vm::DiskLimits};

use crate::HostError;

/// Runs domains. A domain is named after its VM's UID, and carries its whole [`DomainSpec`] with it, so that an
/// agent that starts finds out from the hypervisor alone what runs, for whom and at which epoch.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// All of ucloud's domains, running or not. An error is never an empty list.
    async fn domains(&self) -> Result<Vec<Domain>, HostError>;

    /// The domain of this VM.
    async fn domain(&self, vm_uid: &str) -> Result<Option<Domain>, HostError>;

    /// Defines the domain anew from `spec` and starts it. A domain that runs already is left alone.
    async fn start(&self, spec: &DomainSpec) -> Result<(), HostError>;

    /// Plugs an interface into a domain that runs, and into what its definition says. One that is there already is left
    /// alone.
    async fn plug(&self, vm_uid: &str, interface: &DomainInterface) -> Result<(), HostError>;

    /// Takes an interface out of what the domain's definition says, and asks the guest of one that runs to let go of
    /// it (ACPI). The domain has the interface until the guest has let go, which [`Hypervisor::changes`] tells. One
    /// that is gone already is no error.
    async fn unplug(&self, vm_uid: &str, interface: &DomainInterface) -> Result<(), HostError>;

    /// Plugs a disk into a domain that runs, and into what its definition says. One that is there already is left alone.
    async fn plug_disk(&self, vm_uid: &str, disk: &DomainDisk) -> Result<(), HostError>;

    /// Takes a disk out of what the domain's definition says, and asks the guest of one that runs to let go of it, as
    /// [`Hypervisor::unplug`] does of an interface.
    async fn unplug_disk(&self, vm_uid: &str, disk: &DomainDisk) -> Result<(), HostError>;

    /// Grows a disk of a domain that runs, and tells the guest. One that has the size already, or more, is left alone.
    async fn grow_disk(&self, vm_uid: &str, disk: &DomainDisk, size: Quantity) -> Result<(), HostError>;

    /// Makes a domain that runs stand still, so that all its disks can be kept as they are at one moment: its guest writes out
    /// what it has and writes nothing more, where its agent answers; else the domain is suspended. It is
    /// [`DomainSpec::standstill`] from before that begins until [`Hypervisor::resume`].
    async fn stand_still(&self, vm_uid: &str) -> Result<Consistency, HostError>;

    /// Lets a domain that stands still go on. One that does not, or does not run, is left alone.
    async fn resume(&self, vm_uid: &str) -> Result<(), HostError>;

    /// Begins to copy disks of a domain that runs (also one that stands still), all of them as they are when this returns, to
    /// files that are qcow2, empty and of the disks' sizes. A copying that was under way is given up first.
    async fn begin_copy(&self, vm_uid: &str, copies: &[DiskCopy]) -> Result<(), HostError>;

    /// How far the copying is that was begun last.
    async fn copying(&self, vm_uid: &str) -> Result<Copying, HostError>;

    /// Gives up the copying that is under way, if one is.
    async fn end_copy(&self, vm_uid: &str) -> Result<(), HostError>;

    /// Asks the guest to shut down (ACPI) and returns at once.
    async fn request_shutdown(&self, vm_uid: &str) -> Result<(), HostError>;

    /// Switches the domain off, as by pulling the plug. The definition stays.
    async fn destroy(&self, vm_uid: &str) -> Result<(), HostError>;

    /// Removes the definition of a domain that does not run. What its console said is kept.
    async fn undefine(&self, vm_uid: &str) -> Result<(), HostError>;

    /// Removes what is kept of a VM that has no domain any more: what its console said.
    async fn forget(&self, vm_uid: &str) -> Result<(), HostError>;

    /// What the hypervisor is.
    async fn facts(&self) -> Result<HypervisorFacts, HostError>;

    /// Changes its value whenever a domain may have started, stopped, crashed or let go of an interface or a disk, and when the connection to the
    /// hypervisor was lost or came back.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// Tells the key of a user of Ceph, decoded, by the user's name without `client.` and the path of the cluster's
/// configuration on the host. It may block.
pub type CephKeys = Arc<dyn Fn(&str, &Path) -> Result<Vec<u8>, HostError> + Send + Sync>;

/// What the hypervisor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HypervisorFacts {
    /// How guests' code is run, found out by running a tiny guest.
    pub accelerator: Accelerator,
    /// Why not by KVM, where it is not.
    pub accelerator_message: String,
    /// The version of libvirt.
    pub libvirt: String,
    /// The version of QEMU.
    pub qemu: String,
}

/// All that a domain is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainSpec {
    /// The VM's UID.
    pub uid: String,
    /// The VM's namespace.
    pub namespace: String,
    /// The VM's name.
    pub name: String,
    /// The epoch of the binding under which it was started.
    pub epoch: u64,
    /// The id of the last power request before it was started; 0 if there was none.
    pub power_request: u64,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory.
    pub memory: Quantity,
    /// Disks, in order; it boots from the first.
    pub disks: Vec<DomainDisk>,
    /// Interfaces, in order.
    pub interfaces: Vec<DomainInterface>,
    /// Whether it stands still, so that its disks can be kept as they are: somebody must let it go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub standstill: bool,
}

/// What a disk that was kept at a standstill is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// As after the power has failed at that moment.
    Crash,
    /// The guest had written out its file systems.
    Filesystems,
}

/// A disk to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCopy {
    /// The disk's name.
    pub disk: String,
    /// The file to copy it to.
    pub path: PathBuf,
}

/// How far a copying is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copying {
    /// None was begun, or nobody knows any more.
    None,
    /// It is under way: so many per cent.
    Running(u8),
    /// All was copied.
    Done,
    /// It broke off, and why.
    Failed(String),
}

/// A disk of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainDisk {
    /// The disk's name in the VM's spec; the guest sees it as the disk's serial number.
    pub name: String,
    /// The UID of the Volume that it is; none for a disk of the VM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// How much the guest may ask of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<DiskLimits>,
    /// Where its bytes are.
    pub source: DiskSource,
}

/// Where a disk's bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DiskSource {
    /// A qcow2 file, whose backing file, if it has one, is a qcow2 file without one.
    Overlay {
        /// The file that is written.
        path: PathBuf,
        /// The image that it is a clone of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        backing: Option<PathBuf>,
    },
    /// An image of a Ceph cluster.
    Rbd {
        /// The name of Ceph's pool.
        pool: String,
        /// The image's name.
        image: String,
        /// The name of Ceph's user, without `client.`.
        user: String,
        /// The path of the cluster's configuration on the host.
        conf: PathBuf,
    },
}

/// An interface of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DomainInterface {
    /// The interface's name in the VM's spec.
    pub name: String,
    /// Its MAC address.
    pub mac: MacAddr,
    /// The bridge it is attached to.
    pub bridge: String,
    /// The name of the tap device on the host.
    pub tap: String,
    /// The MTU that the guest is told.
    pub mtu: u32,
}

/// A domain as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// What it was made of, with the interfaces and disks that it really has.
    pub spec: DomainSpec,
    /// Whether it runs.
    pub state: DomainState,
}

/// Whether a domain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainState {
    /// It runs.
    Running,
    /// It is there and does not run, by this cause: it must be resumed or destroyed by an operator (an I/O error, for instance).
    Paused,
    /// It does not run.
    Off(StopReason),
}

/// Why a domain does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The guest shut itself down.
    Shutdown,
    /// It was switched off from the host.
    Destroyed,
    /// The guest, or the hypervisor's process, crashed.
    Crashed,
    /// Nobody knows any more: the host was booted, or the manager restarted.
    Unknown,
}
