//! ucloud-agent: runs the VMs that are bound to its host
