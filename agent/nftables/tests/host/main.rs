//! The packet filter on the real kernel: hosts are network namespaces, guests are taps, and what they send is written byte
//! by byte. Every attack comes with the frame that must pass, sent right behind it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod addresses;
mod discovery;
mod frames;
mod groups;
mod lab;
mod reach;
mod repair;
mod routers;
