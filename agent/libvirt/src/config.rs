//! Where libvirt is, and what it is told about the host.

use std::path::PathBuf;

/// What [`crate::Libvirt`] needs to know of the host.
#[derive(Clone, Debug)]
pub struct LibvirtConfig {
    /// libvirt's URI, such as `qemu:///system` (<https://libvirt.org/uri.html>).
    pub uri: String,
    /// The folder, absolute, of the serial consoles: `UID.sock` listens, `UID.log` holds what was said. It is made
    /// if it is missing, and must belong to the agent's user.
    pub consoles: PathBuf,
    /// QEMU's program.
    pub qemu: PathBuf,
    /// The user that libvirt runs QEMU as (`user` in qemu.conf): KVM must be usable by this one.
    pub qemu_user: String,
}

impl Default for LibvirtConfig {
    /// What Debian's packages are set up for.
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            consoles: "/run/ucloud/console".into(),
            qemu: "/usr/bin/qemu-system-x86_64".into(),
            qemu_user: "libvirt-qemu".to_owned(),
        }
    }
}
