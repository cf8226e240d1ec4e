//! A Kubernetes-style API server as a library: it knows how kinds are stored, validated, served and watched, and no kind
//! of ucloud's.

pub mod auth;
pub mod jsonpath;
pub mod meta;
pub mod registry;
pub mod schema;
pub mod status;
pub mod strategy;
