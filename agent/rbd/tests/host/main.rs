//! Images and disks in a real Ceph, which every test starts for itself in a network namespace of its own.
//! Needs root, Ceph's monitor and OSD, the commands rbd and ceph, and qemu-img.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod faults;
mod files;
mod images;
mod lab;
mod reads;
mod snapshots;
