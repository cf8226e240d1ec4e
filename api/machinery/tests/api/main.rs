//! The whole server over the wire: TLS on a free port, memory storage, a kind of the tests' own, and real clients
//! (kube and kubectl).

#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests; the lints know only functions marked as such")]

mod apply;
mod audit;
mod compression;
mod consistency;
mod crud;
mod custom_kinds;
mod deletion;
mod discovery;
mod documents;
mod fairness;
mod hostile;
mod kubectl;
mod lifecycle;
mod log;
mod outage;
mod pages;
mod quota;
mod reviews;
mod secrets;
mod server;
mod support;
mod tables;
mod validation;
mod watch;
mod websocket;
