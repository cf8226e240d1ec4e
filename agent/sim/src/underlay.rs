//! What joins simulated hosts: guests of a network hear the router of that network, wherever it is.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use ucloud_types::{Ipv6Prefix, Vni};

/// What joins simulated hosts.
#[derive(Default)]
pub struct Underlay {
    prefixes: Mutex<BTreeMap<Vni, Ipv6Prefix>>,
}

impl Underlay {
    /// A router advertises this prefix in this network.
    pub(crate) fn advertise(&self, vni: Vni, prefix: Ipv6Prefix) {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).insert(vni, prefix);
    }

    /// The prefix from which guests of this network form their addresses.
    pub(crate) fn prefix(&self, vni: Vni) -> Option<Ipv6Prefix> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).get(&vni).copied()
    }
}
