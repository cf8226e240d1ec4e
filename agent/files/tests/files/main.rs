//! The adapter with the real qemu-img, real file systems and real web servers.

mod disks;
mod downloads;
mod images;
mod pool;
