//! What an agent decides, and what it asks of its host. No I/O.
//!
//! The traits [`Hypervisor`], [`BlockStore`], [`FileStore`], [`Net`], [`RouterAdvertiser`] and [`Firewall`] are all that the
//! agent knows of a host. Each has an adapter for a real system, and the simulated host implements all of them but
//! [`FileStore`], which needs nothing but a directory. Their rules:
//!
//! - Every method is idempotent: what is there already is left alone, what is gone already is no error.
//! - Whatever an adapter makes outside is named after the object's UID and found again by it. No adapter keeps
//!   a database of its own.
//! - A method may be interrupted at any point; the next call completes or clears away what is half done.
//!
//! The decisions are pure functions of what is wanted and what is observed: [`vm`] for one VM, [`network`] and
//! [`image`] for what the host as a whole keeps, [`file`] for what is reported of a File, [`snapshot`] for what a snapshot is made of, [`export`] for what may be downloaded, [`isolation`] for what guests may send and receive, [`adopt`] for what an agent finds when it starts, [`orphan`] for what it finds that belongs to nobody.

pub mod adopt;
pub mod block_store;
pub mod error;
pub mod export;
pub mod file;
pub mod file_store;
pub mod firewall;
pub mod hypervisor;
pub mod image;
pub mod isolation;
pub mod net;
pub mod network;
pub mod orphan;
pub mod reason;
pub mod snapshot;
pub mod vm;

pub use block_store::BlockStore;
pub use error::HostError;
pub use file_store::FileStore;
pub use firewall::Firewall;
pub use hypervisor::Hypervisor;
pub use net::{Net, RouterAdvertiser};
