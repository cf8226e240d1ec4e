//! How a running VM differs from its spec in what only a restart brings.

use crate::hypervisor::DomainSpec;

use super::{Desired, Observed};

/// The differences, one phrase each; none if there are none.
pub(super) fn differences(desired: &Desired, observed: &Observed, running: &DomainSpec) -> Vec<String> {
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
    compare_names(
        "interface",
        &running.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
        &desired.interfaces.iter().map(|i| i.name.as_str()).collect::<Vec<_>>(),
        &mut found,
    );
    for (index, wanted) in desired.interfaces.iter().enumerate() {
        let Some(is) = running.interfaces.iter().find(|i| i.name == wanted.name) else { continue };
        if is.mac != wanted.mac {
            found.push(format!("interface {} with MAC {} instead of {}", wanted.name, is.mac, wanted.mac));
        }
        // A network that has no devices here yet cannot be the one that the interface is attached to
        let moved = observed.devices.as_ref().is_some_and(|all| {
            all.get(index).and_then(Option::as_ref).is_none_or(|devices| devices.bridge != is.bridge)
        });
        if moved {
            found.push(format!("interface {} not in network {}", wanted.name, wanted.network));
        }
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
