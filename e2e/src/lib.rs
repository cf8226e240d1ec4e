//! What the end-to-end tests are written with: an installation of ucloud that `hack/up` made, the commands that
//! users run against it, and looks at the machine behind it; a lab of several hosts that `hack/lab` made, and shells in the
//! guests; for tests of clients, a control plane alone, and the
//! checkers of what clients have seen. Everything goes over the wire.

pub mod ceph;
pub mod command;
pub mod control_plane;
pub mod guest;
pub mod history;
pub mod installation;
pub mod lab;
pub mod machine;
pub mod manifest;
pub mod wait;

pub use ceph::Ceph;
pub use command::Run;
pub use control_plane::{ControlPlane, Program};
pub use guest::Guest;
pub use installation::Installation;
pub use lab::{Lab, VmName};
pub use wait::eventually;
