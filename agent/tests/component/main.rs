//! The agent over a real API server with storage in memory, the network and image controllers, and simulated hosts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod backoff;
mod deletion;
mod exports;
mod faults;
mod files;
mod host;
mod interfaces;
mod isolation;
mod life;
mod orphans;
mod restarts;
mod restore;
mod routers;
mod snapshots;
mod volumes;
mod waiting;
mod world;
