//! The kinds that are served, and the one way in which objects of all of them are read and written.

mod description;
mod resource;

pub use description::{Column, DescriptionError, ResourceDescription, Scope, SelectableField};
pub use resource::Resource;
