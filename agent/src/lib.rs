//! ucloud-agent: runs the VMs that are bound to its host.
//!
//! The decisions are made in `ucloud-agent-core`, the work on the host is done behind its traits. This crate reads
//! the API server's objects, asks the core what to do next, has the host do it, and reports:
//!
//! - [`vm`]: the VMs that are bound to this host, each in a queue of its own;
//! - [`networks`], [`images`], [`isolation`]: what the host keeps for all its VMs together;
//! - [`files`], [`streams`]: the Files that it keeps, and how their bytes come and go;
//! - [`host`]: the Host object and its heartbeat.
//!
//! An agent keeps nothing that it could not find out again. It may be killed at any moment; VMs run on without it.

mod agent;
mod api;
mod cache;
mod clock;
mod config;
mod events;
pub mod files;
pub mod host;
pub mod images;
mod inventory;
pub mod isolation;
mod keeper;
mod limit;
mod metrics;
pub mod networks;
mod orphans;
mod shared;
mod snapshots;
pub mod streams;
mod triggers;
pub mod vm;
mod volumes;

pub use agent::{Agent, PartEnded};
pub use config::{Config, Inventory, Machine, Timing};
pub use inventory::InventoryError;
pub use metrics::{Metrics, serve as serve_metrics};
pub use streams::Streams;
