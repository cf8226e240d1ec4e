//! What an agent is told at its start.

use std::{sync::Arc, time::Duration};

use ucloud_agent_core::{BlockStore, FileStore, Firewall, Hypervisor, Net, RouterAdvertiser, vm::Pace};
use ucloud_types::{
    Quantity,
    host::{HostRole, Resources},
    meta::{HOST_LEASE_RENEW_SECONDS, ROUTER_LEASE_RENEW_SECONDS},
};

/// The host, as the agent works on it.
#[derive(Clone)]
pub struct Machine {
    /// Runs domains.
    pub hypervisor: Arc<dyn Hypervisor>,
    /// Keeps images and disks.
    pub store: Arc<dyn BlockStore>,
    /// Keeps the bytes of Files.
    pub files: Arc<dyn FileStore>,
    /// Makes the devices of networks.
    pub net: Arc<dyn Net>,
    /// Advertises routers to guests.
    pub advertiser: Arc<dyn RouterAdvertiser>,
    /// Filters what guests send and receive.
    pub firewall: Arc<dyn Firewall>,
}

/// What an agent is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The host's name: that of its Host object.
    pub host: String,
    /// The roles with which a new Host object is made.
    pub roles: Vec<HostRole>,
    /// What the host has.
    pub inventory: Inventory,
    /// How many virtual CPUs VMs may take for each of the host's.
    pub cpu_overcommit: u32,
    /// The memory that is kept from VMs.
    pub reserved_memory: Quantity,
    /// How many VMs are worked on at the same time.
    pub concurrency: u16,
    /// How fast the agent does what it repeats, and how long it waits.
    pub timing: Timing,
}

/// What the host has.
#[derive(Clone, Debug)]
pub struct Inventory {
    /// CPUs and memory.
    pub capacity: Resources,
    /// The version of the kernel.
    pub kernel: String,
    /// The kernel's boot id.
    pub boot_id: String,
}

/// How fast the agent does what it repeats, and how long it waits.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The pace of shutdowns and of restarts after crashes.
    pub pace: Pace,
    /// The pause between two renewals of the heartbeat.
    pub renew: Duration,
    /// The same on a host with the role router.
    pub renew_router: Duration,
    /// The pause between two looks at what nobody tells of: the room in pools, orphans.
    pub survey: Duration,
    /// The longest a call to the host may take, the import of an image aside.
    pub step: Duration,
    /// The longest a call to the API server may take.
    pub call: Duration,
    /// The pause between two looks at a VM about which nothing was heard.
    pub resync: Duration,
    /// The first pause before something that failed is tried again. It doubles from then on.
    pub retry_first: Duration,
    /// The longest such pause.
    pub retry_most: Duration,
    /// The first pause before a step that the host failed to take for a VM is tried again. It doubles from then on, and
    /// is at most a quarter longer, so that not all VMs come back at once.
    pub step_retry_first: Duration,
    /// The longest such pause, but for that quarter.
    pub step_retry_most: Duration,
    /// How long addresses that were reported by an earlier agent are believed without being seen again.
    pub address_memory: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Pace::default(),
            renew: Duration::from_secs(HOST_LEASE_RENEW_SECONDS.into()),
            renew_router: Duration::from_secs(ROUTER_LEASE_RENEW_SECONDS.into()),
            survey: Duration::from_secs(30),
            // Above the adapters' own limits, which know better what takes so long
            step: Duration::from_mins(4),
            call: Duration::from_secs(15),
            resync: Duration::from_mins(5),
            retry_first: Duration::from_millis(250),
            retry_most: Duration::from_mins(1),
            step_retry_first: Duration::from_secs(1),
            step_retry_most: Duration::from_mins(5),
            address_memory: Duration::from_mins(1),
        }
    }
}

impl Timing {
    /// The pause before the next try, after this many have failed in a row (1 or more).
    pub(crate) fn retry(&self, failures: u32) -> Duration {
        growing(self.retry_first, self.retry_most, failures)
    }

    /// The same for a step of the VM with this UID.
    pub(crate) fn retry_step(&self, failures: u32, uid: &str) -> Duration {
        spread(growing(self.step_retry_first, self.step_retry_most, failures), uid)
    }

    /// The pause before the VM with this UID is looked at again, though nothing was heard of it.
    pub(crate) fn resync(&self, uid: &str) -> Duration {
        spread(self.resync, uid)
    }
}

fn growing(first: Duration, most: Duration, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    first.saturating_mul(1 << doublings).min(most)
}

/// Not all VMs at once: up to a quarter more, the same for one VM each time.
fn spread(pause: Duration, uid: &str) -> Duration {
    let share = uid.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 100;
    pause + pause / 400 * share
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let timing = Timing::default();
        let pauses: Vec<_> = [1, 2, 3, 8, 9, 10, 1000].map(|n| timing.retry(n).as_millis()).into();
        assert_eq!(pauses, [250, 500, 1000, 32_000, 60_000, 60_000, 60_000]);
    }
}
