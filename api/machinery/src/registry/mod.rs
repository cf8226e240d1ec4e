//! The kinds that are served, and the one way in which objects of all of them are read and written.
//!
//! `description` and `resource` say what a kind is. `admit`, `prepare` and `deletion` decide what becomes of an object,
//! without I/O; `write` and `apply` carry it out by compare-and-swap; `store` reads. `quota` says what a write
//! takes of its namespace's quotas.

mod admit;
mod apply;
mod charged;
mod definitions;
mod deletion;
mod description;
pub(crate) mod failure;
mod namespaces;
mod prepare;
mod quota;
mod resource;
mod resources;
mod store;
#[cfg(test)]
mod tests;
mod version;
mod write;

pub use description::{Cell, Column, DescriptionError, ResourceDescription, Scope, SelectableField};
pub use resource::Resource;
pub use resources::DuplicateResource;

pub(crate) use admit::{FieldValidation, admit};
pub(crate) use definitions::{Definition, GROUP as DEFINITIONS_GROUP, PLURAL as DEFINITIONS};
pub(crate) use deletion::{DeleteOptions, Propagation};
pub(crate) use prepare::Part;
pub(crate) use resource::storage_prefix;
pub(crate) use resources::Resources;
pub(crate) use store::{Freshness, Store, decode_cached, kind_configs, optional};
pub(crate) use write::{Edit, Write, Written};
