//! A Kubernetes-style API server as a library: it knows how kinds are stored, validated, served and watched, and no kind
//! of ucloud's.
//!
//! A program describes its kinds ([`registry::Resource`], from a CRD), gives each its rules ([`strategy::Strategy`]), says who
//! may do what ([`auth::Authorizer`]), and serves them with an [`ApiServer`]. From there a request goes through `serve` (TLS,
//! HTTP), `rest` (paths, verbs, representations), [`registry`] (what a write means, compare-and-swap) to [`storage`]; reads and watches
//! end at [`cache`].

mod apply;
mod as_server;
mod audit;
pub mod auth;
pub mod cache;
mod custom;
pub mod decode;
mod discovery;
mod flow;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod health;
pub mod jsonpath;
mod kinds;
pub mod meta;
mod metrics;
mod openapi;
pub mod patch;
mod protobuf;
pub mod quantity;
pub mod registry;
mod rest;
pub mod schema;
pub mod selector;
mod serve;
mod server;
mod standard;
pub mod status;
pub mod storage;
pub mod strategy;
mod table;

pub use flow::RequestLimits;
pub use serve::{ServerTls, TlsError};
pub use server::{ApiServer, ApiServerBuilder, BuildError};
pub use standard::StandardKindError;
