//! ucloud-controllers: the reconcilers that need no host.
//!
//! A folder per controller; none imports another, and all stand on [`runtime`]. They share one watch per kind. Of several
//! processes one acts, the others stand by.
//!
//! | controller | decides |
//! |---|---|
//! | scheduler | which host a VM gets |
//! | network | which VNI, prefix and router a network gets |
//! | snapshot | what a snapshot is made of, which host takes it, and its images |
//! | snapshot-schedule | when snapshots are made, and how many are kept |
//! | volume | how volumes are; what becomes of those whose VM or host is gone |
//! | file | which host keeps the bytes of a file |
//! | image | which host imports an image first; what is known of it |
//! | orphan | what belongs to no object, and when it may go |
//! | storage-pool | what hosts have of a storage pool, and who looks for orphans in it |
//! | host | which hosts are silent, and that nobody knows how their VMs are |
//! | namespace | when a namespace that is being deleted is empty |
//! | garbage-collector | what goes with its owners, and when an object may go that waits for its dependents |
//! | resource-quota | how much of a quota is used, when the quota is new or limits something new |

mod all;
mod file;
mod garbage_collector;
mod host;
mod image;
mod namespace;
mod network;
mod orphan;
mod resource_quota;
pub mod runtime;
mod scheduler;
mod security_group;
mod snapshot;
mod snapshot_schedule;
mod storage_pool;
mod volume;

pub use all::{ControllerName, Options, RunError, run};
