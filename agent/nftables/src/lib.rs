//! The packet filter of a host by nftables.
//!
//! [`Nftables`] implements [`Firewall`](ucloud_agent_core::Firewall) by two tables of its own, `bridge ucloud` and
//! `inet ucloud`. No other table is read or written. The first sees every frame between guests, VXLAN devices and the host
//! ([`render`]); the second what guests send to the host or through it.
//!
//! A change is one transaction of `nft -f`: at no moment is half of it in force. What security groups remember of
//! connections is kept in sets that a change leaves alone, so that connections outlive it. Whether somebody has changed
//! the tables is found out by comparing them with what they were right after they were written, whenever the kernel
//! tells of a change.
//!
//! Connections are remembered in sets of our own and not by the kernel's connection tracking, which in bridges is a
//! module that not every kernel has, and in which guests of two projects with the same addresses would meet.

mod firewall;
mod monitor;
mod nft;
mod present;
mod render;

pub use firewall::Nftables;
