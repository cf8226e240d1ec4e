//! How a running VM differs from its spec in what only a restart brings. Its interfaces and volumes need none, but for the
//! interfaces' order and the disk that it boots from.

use std::collections::BTreeSet;

use crate::hypervisor::DomainSpec;

use super::{Desired, Observed, disks};

/// The differences, one phrase each; none if there are none.
pub(super) fn differences(desired: &Desired, observed: &Observed, running: &DomainSpec) -> Vec<String> {
    let mut found = Vec::new();
    if running.cpus != desired.cpus {
        found.push(format!("cpus {} instead of {}", running.cpus, desired.cpus));
    }
    if running.memory != desired.memory {
        found.push(format!("memory {} instead of {}", running.memory, desired.memory));
    }
    let pluggable: Vec<&str> = disks::pluggable(running).map(|disk| disk.name.as_str()).collect();
    let is = running.disks.iter().map(|disk| disk.name.as_str()).filter(|name| !pluggable.contains(name));
    let wanted = desired.disks.iter().enumerate().filter(|(index, disk)| *index == 0 || disk.volume().is_none());
    let wanted = wanted.map(|(_, disk)| disk.name.as_str());
    compare_names("disk", &is.collect::<Vec<_>>(), &wanted.collect::<Vec<_>>(), &mut found);
    for (wanted, state) in desired.disks.iter().zip(&observed.disk_states) {
        let is = running.disks.iter().find(|is| is.name == wanted.name);
        if is.is_some_and(|is| state.wanted_limits.is_some_and(|limits| limits != is.limits)) {
            found.push(format!("disk {} within other limits", wanted.name));
        }
    }
    let running_order: Vec<&str> = running.interfaces.iter().map(|i| i.name.as_str()).collect();
    let wanted_order: Vec<&str> = desired.interfaces.iter().map(|i| i.name.as_str()).collect();
    let sorted = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    if running_order != wanted_order && sorted(&running_order) == sorted(&wanted_order) {
        found.push("interfaces in another order".to_owned());
    }
    found
}

fn compare_names(kind: &str, running: &[&str], wanted: &[&str], found: &mut Vec<String>) {
    if running == wanted {
        return;
    }
    let before = found.len();
    found.extend(wanted.iter().filter(|name| !running.contains(name)).map(|name| format!("{kind} {name} missing")));
    found.extend(running.iter().filter(|name| !wanted.contains(name)).map(|name| format!("{kind} {name} too many")));
    if found.len() == before {
        found.push(format!("{kind}s in another order"));
    }
}
