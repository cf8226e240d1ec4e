//! The Host object: made at the agent's start, reported on when something changes; and its heartbeat.

mod lease;
mod register;
mod report;
mod survey;

pub use lease::heartbeat;
pub use register::register;
pub use report::run;
