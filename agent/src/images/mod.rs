//! The images that the host keeps: imported when they are needed, removed when their Image goes.

mod copies;
mod keeper;

pub use copies::Images;
pub use keeper::run;
