//! Networks of a host by netlink: VXLAN, bridges, learnt addresses
