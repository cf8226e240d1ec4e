//! ucloud-api: ucloud's API server, made of the kinds in `ucloud-types` and the machinery in `ucloud-machinery`.
//!
//! What is here is what the machinery leaves open: a strategy per kind ([`strategy`]), the actions on VMs
//! and the bytes of Files, Images and Volumes ([`subresources`]), the way to the hosts' agents ([`agents`]), who may do what ([`authorization`]), what may not be deleted ([`protection`]), to whom things on hosts belong (`owners`), and the
//! certificates ([`pki`]). [`server()`] puts it together, over whatever storage it is given.

pub mod agents;
pub mod authorization;
#[cfg(feature = "in-process")]
pub mod in_process;
mod owners;
pub mod pki;
pub mod protection;
mod server;
pub mod strategy;
pub mod subresources;

pub use agents::Agents;
pub use server::{ServerError, server};
