//! Networks of a host by netlink: a VXLAN and a bridge for each, and the addresses that guests use on them.
//!
//! [`Netlink`] implements [`Net`](ucloud_agent_core::Net) with rtnetlink. It has no state of its own about devices:
//! each call compares what the kernel has with what should be (`plan`), and makes the difference. Devices carry
//! their network's UID as alias, by which they are found again.
//!
//! What a network is made of:
//!
//! - A VXLAN over IPv6 with the network's VNI and multicast group on UDP port 4789, a port of
//! - a bridge, whose other ports are the taps of VMs (made by the hypervisor). STP, multicast snooping and
//!   learning from link-local frames are off.
//!
//! Their MTU is the underlay's less [`VXLAN_OVERHEAD`], or what the network asks for. The host has no address in
//! a network, not even a link-local one, and IPv6 is disabled on both devices, except on the network's router: there the
//! bridge has the gateway's address and [`ROUTER_LINK_LOCAL`](ucloud_agent_core::net::ROUTER_LINK_LOCAL), and forwards. Where
//! an uplink is named, the host forwards between all of its interfaces then (`forwarding`); what may pass is for packet filters to say.
//!
//! The two addresses are the same on whichever host routes the network, and the bridges' MACs are not. So a host that
//! becomes the router tells guests of its MAC, and one that ceases to be it has the next one do so.
//!
//! Each network takes one file descriptor, and one multicast group membership of 56 bytes on a socket that all VXLANs
//! share. `net.core.optmem_max` bounds those: where it is 20480, as on Debian 12, to 365 networks.

mod change;
mod changes;
mod desired;
mod execute;
mod forwarding;
mod learning;
mod link;
mod monitor;
mod names;
mod netlink;
mod plan;
mod route;
mod task;

pub use desired::VXLAN_OVERHEAD;
pub use netlink::{Config, Netlink};
