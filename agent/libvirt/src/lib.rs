//! Virtual machines by libvirt and QEMU
