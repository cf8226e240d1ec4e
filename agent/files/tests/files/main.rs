//! The adapter with the real qemu-img, real file systems and real web servers.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod disks;
mod downloads;
mod hostile;
mod images;
mod pool;
mod reads;
mod snapshots;
mod uploads;
