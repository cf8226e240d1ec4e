//! How a running VM differs from its spec in what only a restart brings. Its interfaces need none, but for their order.

use std::collections::BTreeSet;

use crate::hypervisor::DomainSpec;

use super::Desired;

/// The differences, one phrase each; none if there are none.
pub(super) fn differences(desired: &Desired, running: &DomainSpec) -> Vec<String> {
    let mut found = Vec::new();
    if running.cpus != desired.cpus {
        found.push(format!("cpus {} instead of {}", running.cpus, desired.cpus));
    }
    if running.memory != desired.memory {
        found.push(format!("memory {} instead of {}", running.memory, desired.memory));
    }
    compare_names(
        "disk",
        &running.disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        &desired.disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(),
        &mut found,
    );
    for wanted in &desired.disks {
        let Some(reported) = desired.reported_disks.iter().find(|d| d.name == wanted.name) else { continue };
        if let Some(size) = wanted.size.filter(|size| *size > reported.size) {
            found.push(format!("disk {} of {} instead of {size}", wanted.name, reported.size));
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
