//! The API server as its clients see it: real HTTP and TLS, real clients, storage in memory.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod authorization;
mod binding;
mod custom_kinds;
mod fixtures;
mod isolation;
mod lifecycle;
mod orphans;
mod pools;
mod power;
mod restore;
mod validation;
