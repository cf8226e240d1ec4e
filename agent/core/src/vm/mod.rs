//! The life of one VM on its host: a pure function from what is wanted and what is observed to the next step.
//!
//! ```text
//!                 blockers gone,                       domain
//!                 API confirms      devices, disks     runs
//!   (no domain) ───────────────▶ Provisioning ──▶ Starting ──▶ Running ◀─┐ restarted: Always, or
//!        ▲                                                     │  │      │ RerunOnFailure after a failure
//!        │ undefine (Halted)                  stop is wanted   │  └──────┤
//!        │                                                     ▼         │ (after a growing pause: CrashLoopBackOff)
//!     Stopped ◀──────────────────────────────────────────── Stopping     │
//!        ▲        domain is off, by ACPI or after the grace              │
//!        └───────────────────────────────────────────────────────────────┘ guest shut down: RerunOnFailure, Manual
//!
//!   deletion, from anywhere:  Terminating: stop ▶ undefine ▶ remove disks ▶ release networks ▶ drop the finalizer
//!   newer epoch, from anywhere:  destroy ▶ undefine ▶ (no domain)
//! ```
//!
//! [`plan`] names one next step and says what to report. Whoever carries it out observes again afterwards and asks
//! again, until there is no step left. So an agent may be killed between any two steps: nothing that matters is
//! kept in its memory.
//!
//! What makes that true for power requests: a domain carries the id of the last request before it was started
//! ([`crate::hypervisor::DomainSpec::power_request`]). A restart is done when the domain carries its id; a stop is
//! in force as long as the domain carries a smaller one. What an agent alone knows, and may forget without harm,
//! is in [`Memory`]: since when a guest is shutting down or has an interface or a disk that it was asked to let go of, what
//! disks were grown to, and how often it crashed.
//!
//! A VM that is halted may be restored: its disks are made anew of what a snapshot has of them (`restore`). It is not started
//! before that is done and the API server knows it, so that doing it once more harms nothing.
//!
//! While a VM runs, its interfaces and its volumes follow its spec: they are plugged and unplugged (`interfaces`, `disks`),
//! and disks grow. All other changes of what it is made of wait for a restart (`drift`).
//!
//! A Volume is the VM's from before it is opened until after it was closed: it is claimed, by a compare-and-swap on the
//! Volume, in the steps [`Step::Provision`] and [`Step::PlugDisk`], and given back by [`Step::ReleaseVolume`] once the spec
//! does not name it and the domain does not have it. Of a VM that is deleted the volume controller takes them.
//!
//! An error of the host is never "gone": where [`plan`] needs what could not be observed, it takes no step.

mod addresses;
mod crash;
mod delete;
mod desired;
mod disks;
mod drift;
mod hotplug;
mod inputs;
mod interfaces;
mod observed;
mod plan;
mod power;
mod restore;
mod status;
mod stop;
#[cfg(test)]
mod tests;

pub use crash::Crashes;
pub use desired::{Desired, NotOurs, WantedDisk, WantedInterface, WantedSource};
pub use inputs::{Blocker, DiskInput, claimable, disk_blockers, network_blockers};
pub use observed::{
    Asked, DiskState, EndedRestore, FoundDisk, HeldVolume, MadeDisk, Memory, Observed, Pace, Provisioned,
};
pub use plan::{Plan, Step, failed, plan, unobserved};
pub use status::{Facts, next_status};
