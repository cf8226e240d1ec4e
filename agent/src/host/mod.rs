//! The Host object: made at the agent's start, reported on when something changes; and its heartbeat.

mod lease;
mod register;
mod report;
mod survey;

pub use lease::{follow_role, heartbeat, is_router};
pub use register::register;
pub use report::run;
