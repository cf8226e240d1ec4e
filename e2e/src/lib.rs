//! What the end-to-end tests are written with: an installation of ucloud that `hack/up` made, the commands that
//! users run against it, and looks at the machine behind it. Everything goes over the wire.

pub mod command;
pub mod installation;
pub mod machine;
pub mod manifest;
pub mod wait;

pub use command::Run;
pub use installation::Installation;
pub use wait::eventually;
