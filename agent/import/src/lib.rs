//! Fetching, checking and inspecting images, whatever pool they are for: [`Importer`].
//!
//! Nothing that comes from outside is opened by QEMU before this crate has looked at it; see `inspect` for how.
//! What an adapter for a kind of pool needs besides (the limits that qemu-img runs in, headers of qcow2 files, names that
//! are safe, errors of file systems) is here too, so that it is there once.

mod address;
mod config;
pub mod error;
mod fetch;
mod format;
pub mod hashed;
mod header;
mod import;
mod inspect;
pub mod names;
pub mod nbd;
pub mod qcow2;
pub mod qemu_img;
mod sandbox;
pub mod summary;
mod vdi;
mod vhdx;
mod vmdk;

pub use address::{IpPrefix, ParseIpPrefixError};
pub use config::ImportConfig;
pub use error::StoreError;
pub use fetch::FetchError;
pub use import::{
    ImportError, Importer, ImporterError, Inspected, Kept, OpenUpload, Progress, TooLarge, Uploaded, act, finished,
    snapshot_act,
};
pub use inspect::{Ends, InspectError};
