//! Checkers of what clients of the API have seen: whether writes and consistent reads are linearizable ([`register`]), and
//! whether watches told everything, in order and once ([`watch`]). They know nothing of how it was seen: a history comes
//! in, and either an explanation exists or the contradiction is named.
//!
//! Every write gives its key a value that no other write gives, so that a value says which write it is of.

pub mod register;
pub mod watch;

/// Which write: unique in a history.
pub type Id = u64;
/// An object's name.
pub type Key = String;
/// A resourceVersion.
pub type Version = u64;
