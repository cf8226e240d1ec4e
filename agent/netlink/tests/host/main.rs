//! Networks on real devices: every test has hosts and guests of its own, each a network namespace.
//! Needs root, iproute2, radvd, bird and ping.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod devices;
mod guests;
mod lab;
mod many;
mod routers;
