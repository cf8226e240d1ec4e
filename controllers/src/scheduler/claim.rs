//! What the scheduler needs to know of a VM and of a host, and nothing else of them.
//!
//! Everything here is compared to find out whether a change matters: a heartbeat or a new address of a host must wake
//! nobody.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt as _;
use ucloud_types::{
    Host, MacAddr, VM,
    condition::{READY, RESTART_REQUIRED, is_true},
    host::{HostRole, Resources},
};

use crate::runtime::uid_of;

/// An interface in one network, by which the rest of the network knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nic {
    /// The namespace of the network.
    pub namespace: String,
    /// The network's name.
    pub network: String,
    /// The interface's effective MAC address.
    pub mac: MacAddr,
}

/// A Volume that a VM names and cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The VM's disk.
    pub disk: String,
    /// The Volume's name.
    pub volume: String,
    /// Why it is not to be had.
    pub why: WhyMissing,
}

/// Why a Volume is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyMissing {
    /// It does not exist.
    Absent,
    /// It is being deleted.
    Deleting,
    /// The snapshot that it is to be made of was not begun, so that nobody knows which host will have it.
    SourceNotTaken,
    /// It has yet to be made of an Orphan, and nobody knows where that is.
    NotAdopted,
}

/// What a VM takes of a host, and what it asks of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The VM's namespace.
    pub namespace: String,
    /// The VM's name.
    pub name: String,
    /// The VM's UID.
    pub uid: String,
    /// Virtual CPUs.
    pub cpus: u64,
    /// Memory, in bytes.
    pub memory: u64,
    /// Labels that the host must have.
    pub selector: BTreeMap<String, String>,
    /// Pools that the host must have; those of its Volumes too, once these were looked up.
    pub pools: BTreeSet<String>,
    /// The Volumes that it has as disks, each with the disk's name.
    pub volumes: BTreeMap<String, String>,
    /// The images that its own disks are clones of, by namespace and name.
    pub images: BTreeSet<(String, String)>,
    /// One of its Volumes that is not to be had, once they were looked up.
    pub missing: Option<Missing>,
    /// The host that alone has the bytes of something, by what that is, such as `Volume data`, once they were looked up.
    pub pins: BTreeMap<String, String>,
    /// The VM's interfaces.
    pub nics: BTreeSet<Nic>,
}

impl Claim {
    /// The claim of a VM by its present spec. Its Volumes have yet to be looked up.
    pub fn of(vm: &VM) -> Self {
        let namespace = vm.namespace().unwrap_or_default();
        let uid = uid_of(vm);
        let nics = vm.spec.networks.iter().map(|interface| Nic {
            namespace: namespace.clone(),
            network: interface.network.clone(),
            mac: interface.effective_mac(uid),
        });
        Self {
            nics: nics.collect(),
            name: vm.name_any(),
            uid: uid.to_owned(),
            cpus: vm.spec.cpus.into(),
            memory: vm.spec.memory.bytes(),
            selector: vm.spec.host_selector.clone(),
            pools: vm.spec.disks.iter().filter_map(|disk| disk.effective_pool()).map(str::to_owned).collect(),
            volumes: vm.spec.disks.iter().filter_map(|disk| Some((disk.volume.clone()?, disk.name.clone()))).collect(),
            images: vm
                .spec
                .disks
                .iter()
                .filter_map(|disk| disk.image.as_ref())
                .map(|image| owned(image.resolve(&namespace)))
                .collect(),
            missing: None,
            pins: BTreeMap::new(),
            namespace,
        }
    }

    /// What a VM takes that may still run as it was before its spec was changed.
    #[must_use]
    pub fn or_as_before(mut self, before: &Self) -> Self {
        self.cpus = self.cpus.max(before.cpus);
        self.memory = self.memory.max(before.memory);
        self.nics.extend(before.nics.iter().cloned());
        self
    }
}

fn owned((namespace, name): (&str, &str)) -> (String, String) {
    (namespace.to_owned(), name.to_owned())
}

/// Whether the VM may still run by an older spec: its agent has not seen the present one, or says that only a restart
/// brings it.
pub fn may_run_as_before(vm: &VM) -> bool {
    vm.status.as_ref().is_some_and(|status| {
        status.observed_generation != vm.metadata.generation || is_true(&status.conditions, RESTART_REQUIRED)
    })
}

/// What a host offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Whether its condition Ready is True.
    pub ready: bool,
    /// Whether it runs VMs at all.
    pub compute: bool,
    /// Whether it takes no new ones.
    pub unschedulable: bool,
    /// What VMs may take of it.
    pub allocatable: Resources,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The pools that it has, without error.
    pub pools: BTreeSet<String>,
}

impl Offer {
    /// The offer of a host as it reports itself.
    pub fn of(host: &Host) -> Self {
        let status = host.status.clone().unwrap_or_default();
        Self {
            // a host that is being deleted is on its way out, whatever its agent still says
            ready: is_true(&status.conditions, READY) && host.metadata.deletion_timestamp.is_none(),
            compute: host.spec.roles.contains(&HostRole::Compute),
            unschedulable: host.spec.unschedulable,
            allocatable: status.allocatable.unwrap_or_default(),
            labels: host.labels().clone(),
            pools: status.pools.into_iter().filter(|pool| pool.error.is_none()).map(|pool| pool.name).collect(),
        }
    }
}
