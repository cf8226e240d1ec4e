//! The controllers against a real API server (TLS, memory storage), with fault injection between the two.
//!
//! The patterns are those that public bug studies of controllers found; a test that guards against one says so.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod allocation;
mod crashes;
mod faults;
mod files;
mod garbage;
mod hosts;
mod images;
mod leadership;
mod namespaces;
mod networks;
mod orphans;
mod quotas;
mod routers;
mod schedules;
mod scheduling;
mod security_groups;
mod snapshots;
mod support;
mod volumes;
mod writes;
