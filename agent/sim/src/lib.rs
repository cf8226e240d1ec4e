//! A simulated host, in memory, with faults that tests inject.
//!
//! It keeps the promises that the host traits make, and watches that the agent keeps those that nobody can take back:
//! no disk is taken from under a domain, no device from under a guest, and no guest starts unguarded. Whoever breaks one finds it in
//! [`SimHost::violations`]. Nothing depends on chance or, without a delay that a test asks for, on time.

mod block_store;
mod fault;
mod firewall;
mod guest;
mod hypervisor;
mod net;
mod underlay;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;
use ucloud_agent_core::{
    HostError,
    block_store::{Disk, DiskId, SnapshotRequest, StoredImage},
    firewall::Rules,
    hypervisor::{Domain, DomainDisk, DomainState},
    net::{Advertisement, NetworkDevices, NetworkRequest},
};
use ucloud_types::{MacAddr, image::Sha256};

pub use block_store::bytes_of;
pub use fault::{Effect, Fault, Method, When};
pub use underlay::Underlay;

/// A simulated host.
pub struct SimHost {
    name: String,
    underlay: Arc<Underlay>,
    state: Mutex<State>,
    domains_changed: watch::Sender<u64>,
    networks_changed: watch::Sender<u64>,
    rules_changed: watch::Sender<u64>,
    hanging: watch::Sender<u32>,
}

#[derive(Default)]
struct State {
    domains: BTreeMap<String, Domain>,
    /// Images by pool and UID.
    images: BTreeMap<(String, String), StoredImage>,
    /// Disks by pool.
    disks: BTreeMap<(String, DiskId), Disk>,
    /// The checksums of the images that disks were made of; none for what was empty.
    made_of: BTreeMap<DiskId, Option<Sha256>>,
    networks: BTreeMap<String, (NetworkRequest, NetworkDevices)>,
    learnt: BTreeMap<(String, MacAddr), BTreeSet<Ipv6Addr>>,
    advertised: Vec<Advertisement>,
    rules: Rules,
    /// What the sources of images hold, where it is not what their name says.
    sources: BTreeMap<String, u8>,
    /// It goes on with each call: running guests write all the time.
    clock: u64,
    /// Since when domains stand still, by UID.
    still: BTreeMap<String, u64>,
    /// What is being copied, by the domain's UID: whether that has been asked for since, and the moment that is copied.
    copying: BTreeMap<String, (bool, u64)>,
    /// The moment that an image of a snapshot shows, by its UID.
    moments: BTreeMap<String, u64>,
    deaf: bool,
    barren: bool,
    silent: bool,
    import_pause: Option<Duration>,
    faults: Vec<Fault>,
    calls: BTreeMap<Method, u32>,
    effects: BTreeMap<&'static str, u32>,
    violations: Vec<String>,
}

impl SimHost {
    /// A host without anything on it.
    pub fn new(name: &str, underlay: &Arc<Underlay>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            underlay: Arc::clone(underlay),
            state: Mutex::default(),
            domains_changed: watch::channel(0).0,
            networks_changed: watch::channel(0).0,
            rules_changed: watch::channel(0).0,
            hanging: watch::channel(0).0,
        })
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// From now on, does this to calls.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// How many calls came to a fault by which they are never answered.
    pub fn hanging(&self) -> watch::Receiver<u32> {
        self.hanging.subscribe()
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.state().faults.clear();
        self.tell_domains();
        self.tell_networks();
    }

    /// Whether each fault of a single call has happened.
    pub fn had_its_faults(&self) -> bool {
        self.state().faults.iter().all(|fault| matches!(fault.when, When::Always | When::Nth(0)))
    }

    /// How often a method was called.
    pub fn calls(&self, method: Method) -> u32 {
        self.state().calls.get(&method).copied().unwrap_or(0)
    }

    /// How often the host was really changed, by kind of change: `start`, `plug`, `unplug`, `plug disk`,
    /// `unplug disk`, `grow disk`, `stop`, `undefine`,
    /// `make disk`, `rename disk`, `remove disk`, `make network`, `remove network`, `import`, `snapshot`, `remove image`, `advertise`; and `read`,
    /// which counts those who have ended.
    pub fn effects(&self) -> BTreeMap<&'static str, u32> {
        self.state().effects.clone()
    }

    /// What the agent did that it must never do.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// What is there: domains, disks, images, networks.
    pub fn contents(&self) -> [usize; 4] {
        let state = self.state();
        [state.domains.len(), state.disks.len(), state.images.len(), state.networks.len()]
    }

    /// The domain of this VM, whatever the host answers to the agent.
    pub fn domain_of(&self, vm_uid: &str) -> Option<Domain> {
        self.state().domains.get(vm_uid).cloned()
    }

    /// The UIDs of the networks whose gateways are here.
    pub fn gateways(&self) -> Vec<String> {
        let state = self.state();
        state.networks.iter().filter(|(_, (_, devices))| devices.routes).map(|(uid, _)| uid.clone()).collect()
    }

    /// What is advertised.
    pub fn advertised(&self) -> Vec<Advertisement> {
        self.state().advertised.clone()
    }

    /// The checksum of the image that a disk was made of. None for one that was empty, or is not there.
    pub fn made_of(&self, disk: &DiskId) -> Option<Sha256> {
        self.state().made_of.get(disk).cloned().flatten()
    }

    /// The moments that the images of snapshots show, by their UIDs.
    pub fn moments(&self) -> BTreeMap<String, u64> {
        self.state().moments.clone()
    }

    /// An import of a file or URL of this name finds other bytes than before from now on.
    pub fn replace_source(&self, name: &str, content: u8) {
        self.state().sources.insert(name.to_owned(), content);
    }

    /// Imports take this long for each of their four parts.
    pub fn set_import_pause(&self, pause: Duration) {
        self.state().import_pause = Some(pause);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_domains(&self) {
        self.domains_changed.send_modify(|count| *count += 1);
    }

    fn tell_networks(&self) {
        self.networks_changed.send_modify(|count| *count += 1);
    }
}

impl State {
    fn count(&mut self, effect: &'static str) {
        *self.effects.entry(effect).or_default() += 1;
    }

    /// The moment that a disk shows now, and whether a domain that runs has it open.
    fn moment(&self, disk: &DiskId) -> (u64, bool) {
        let has = |domain: &&Domain| {
            domain.spec.disks.iter().any(|there| match &there.volume {
                Some(uid) => *uid == disk.owner_uid,
                None => domain.spec.uid == disk.owner_uid && there.name == disk.name,
            })
        };
        let mut up = self.domains.values().filter(|domain| !matches!(domain.state, DomainState::Off(_)));
        match up.find(has) {
            Some(domain) => (self.still.get(&domain.spec.uid).copied().unwrap_or(self.clock), true),
            None => (0, false),
        }
    }

    /// Keeps a disk as an image, as it was at this moment.
    fn keep(&mut self, request: &SnapshotRequest, moment: u64) -> Result<StoredImage, HostError> {
        let pool = request.pool.name.clone();
        let Some(disk) = self.disks.get(&(pool.clone(), request.disk.clone())) else {
            return Err(HostError::retryable("DiskMissing", "the disk is not in the pool"));
        };
        let mut bytes = [0; 32];
        for (byte, from) in bytes.iter_mut().zip(request.image_uid.bytes()) {
            *byte = from;
        }
        let stored = StoredImage { sha256: Sha256::from(bytes), virtual_size: disk.size };
        self.images.insert((pool, request.image_uid.clone()), stored.clone());
        self.moments.insert(request.image_uid.clone(), moment);
        self.count("snapshot");
        Ok(stored)
    }

    /// The VM is about to write to these disks: no other may.
    fn note_writers(&mut self, vm_uid: &str, disks: &[DomainDisk]) {
        let others = self.domains.values().filter(|domain| domain.spec.uid != vm_uid);
        let up = others.filter(|domain| !matches!(domain.state, DomainState::Off(_)));
        let shared: Vec<_> = up
            .flat_map(|domain| domain.spec.disks.iter().map(move |disk| (&domain.spec.name, disk)))
            .filter(|(_, theirs)| disks.iter().any(|disk| disk.source == theirs.source))
            .map(|(name, disk)| format!("{vm_uid} opened disk {} of {name} while that is up", disk.name))
            .collect();
        self.violations.extend(shared);
    }
}
