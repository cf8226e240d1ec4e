//! Router advertisements by radvd: its configuration, and one process that outlives the agent.
//!
//! [`Radvd`] implements [`RouterAdvertiser`](ucloud_agent_core::RouterAdvertiser). It writes radvd's configuration when
//! what is to be advertised changed, and only after radvd itself has found it sound. The process runs in a
//! session of its own: an agent that is killed leaves it running, and the next one adopts it. One that dies is
//! started again. With nothing to advertise it is stopped, and tells guests so by its last advertisements.
//!
//! Known limits of radvd 2.19: a bridge that is taken out of the configuration while others stay gets no last
//! advertisement with lifetime zero. That does not matter to a network that was removed. For one whose
//! router is another host from now on, the new router has the same link-local address, so that guests' default
//! routes stay right.

mod advertiser;
mod farewell;
mod files;
mod keeper;
mod paths;
mod process;
mod render;

pub use advertiser::Radvd;
pub use paths::Config;
