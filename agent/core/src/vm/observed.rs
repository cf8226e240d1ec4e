//! What is observed of a VM on its host, and what the agent remembers of it.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use ucloud_types::{Quantity, vm::DiskLimits};

use crate::{
    HostError,
    block_store::{Disk, DiskId, Pool},
    hypervisor::Domain,
    net::NetworkDevices,
};

use super::{Blocker, Crashes};

/// What is observed of a VM on its host.
#[derive(Debug)]
pub struct Observed {
    /// The VM's domain. (Where the hypervisor did not answer, there is nothing to plan.)
    pub domain: Option<Domain>,
    /// Why the VM's networks and disks cannot be made now.
    pub blockers: Vec<Blocker>,
    /// For each wanted interface, in order, what keeps it from being attached to its network.
    pub network_blockers: Vec<Option<Blocker>>,
    /// For each wanted disk, in order, what keeps it from being plugged into a VM that runs.
    pub disk_blockers: Vec<Option<Blocker>>,
    /// For each wanted disk, in order, what it is and is to be.
    pub disk_states: Vec<DiskState>,
    /// The Volumes that the VM has, wanted or not.
    pub volumes: Vec<HeldVolume>,
    /// The VM's own disks, wherever they are.
    pub disks: Result<Vec<FoundDisk>, HostError>,
    /// The UIDs of the networks that have devices here for the sake of this VM alone.
    pub own_networks: Result<Vec<String>, HostError>,
    /// For each wanted interface, in order, the devices of its network, where there are any. None if the host
    /// could not tell.
    pub devices: Option<Vec<Option<NetworkDevices>>>,
    /// The networks and disks that were made for the start that is under way.
    pub provisioned: Option<Provisioned>,
    /// Whether the API server has confirmed, in this agent's life, that this VM at this epoch is to run here.
    pub confirmed: bool,
    /// What the agent remembers.
    pub memory: Memory,
}

/// A disk of the VM, and the pool that it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundDisk {
    /// The pool.
    pub pool: Pool,
    /// The disk.
    pub id: DiskId,
}

/// What a disk is and is to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskState {
    /// The size that it has; None if that is not known yet.
    pub size: Option<Quantity>,
    /// The size that it is to have; None if any will do.
    pub wanted_size: Option<Quantity>,
    /// How much the guest is to be allowed to ask of it; None if it is not known what it is to be.
    pub wanted_limits: Option<Option<DiskLimits>>,
}

/// A Volume that the VM has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldVolume {
    /// Its name, in the VM's namespace.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A disk that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeDisk {
    /// The disk.
    pub disk: Disk,
    /// The UID of the Volume that it is, if it is one.
    pub volume: Option<String>,
    /// How much the guest may ask of it.
    pub limits: Option<DiskLimits>,
}

/// What was made for a VM, under the names of its spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provisioned {
    /// The disks.
    pub disks: Vec<(String, MadeDisk)>,
    /// The devices of the interfaces' networks.
    pub interfaces: Vec<(String, NetworkDevices)>,
}

impl Asked {
    /// The guest was asked now, perhaps once more.
    pub fn again(before: Option<Self>, now: Timestamp) -> Self {
        Self { since: before.map_or(now, |before| before.since), last: now }
    }
}

/// What an agent alone knows of a VM. Losing it costs time, never correctness.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The shutdown that is under way.
    pub shutdown: Option<Asked>,
    /// The interfaces, by name, that the guest was asked to let go of and still has.
    pub unplugging: BTreeMap<String, Asked>,
    /// The same of disks.
    pub unplugging_disks: BTreeMap<String, Asked>,
    /// The sizes that disks, by name, were grown to while the VM ran.
    pub grown: BTreeMap<String, Quantity>,
    /// The restore that has come to its end, which may not be reported yet.
    pub restore: Option<EndedRestore>,
    /// How the VM ran so far.
    pub crashes: Crashes,
}

/// A restore that has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedRestore {
    /// The id of the request.
    pub id: u64,
    /// Whether the disks were restored; else nothing was changed.
    pub done: bool,
}

/// Something that the guest was asked for and has not done yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// When the guest was asked for the first time.
    pub since: Timestamp,
    /// When it was asked last.
    pub last: Timestamp,
}

/// How fast an agent does what it repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The pause between two requests to shut down: a guest that boots misses the first ones.
    pub shutdown_repeat: SignedDuration,
    /// The pause between two requests to let go of an interface or a disk.
    pub unplug_repeat: SignedDuration,
    /// The pause before the second start in a row after a VM stopped by itself (there is none before the first).
    /// It doubles from then on.
    pub restart_first: SignedDuration,
    /// The longest such pause.
    pub restart_most: SignedDuration,
    /// How long a VM must run for its earlier stops to be forgotten.
    pub restart_forgiven: SignedDuration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            shutdown_repeat: SignedDuration::from_secs(3),
            unplug_repeat: SignedDuration::from_secs(10),
            restart_first: SignedDuration::from_secs(10),
            restart_most: SignedDuration::from_mins(5),
            restart_forgiven: SignedDuration::from_mins(10),
        }
    }
}
