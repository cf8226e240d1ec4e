//! How the disks of a VM that runs come to be those of its spec, as far as that needs no restart: volumes are plugged and
//! unplugged, and all disks grow. The disk that it boots from, and clones of images, stay until it is restarted.

use jiff::Timestamp;
use ucloud_types::condition::DISKS_READY;

use crate::hypervisor::{DomainDisk, DomainSpec};

use super::{Desired, HeldVolume, Observed, Pace, Step, WantedDisk, hotplug::Outcome};

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    running: &DomainSpec,
    pace: &Pace,
    now: Timestamp,
) -> Outcome {
    let mut outcome = Outcome::new(DISKS_READY);
    // What gives way goes first: it may have the name of what comes
    for is in pluggable(running) {
        if !desired.disks.iter().any(|wanted| is_it(wanted, is, &observed.volumes)) {
            let asked = observed.memory.unplugging_disks.get(&is.name);
            let what = (format!("disk {}", is.name), "no longer in the spec");
            outcome.unplug(|| Step::UnplugDisk(Box::new(is.clone())), (&what.0, what.1), asked, pace, now);
        }
    }
    for (index, wanted) in desired.disks.iter().enumerate() {
        match running.disks.iter().find(|is| is.name == wanted.name) {
            Some(is) => grow(is, index, observed, &mut outcome),
            None if wanted.volume().is_some() && index > 0 => {
                match observed.disk_blockers.get(index).and_then(Option::as_ref) {
                    Some(blocker) => outcome.blocked(&format!("disk {}", wanted.name), blocker),
                    None => outcome.step(Step::PlugDisk(wanted.name.clone())),
                }
            }
            None => {}
        }
    }
    if let Some(held) = surplus(desired, observed, Some(running)) {
        outcome.step(Step::ReleaseVolume(held.clone()));
    }
    outcome
}

/// The disks that can go while the VM runs.
pub(super) fn pluggable(running: &DomainSpec) -> impl Iterator<Item = &DomainDisk> {
    running.disks.iter().skip(1).filter(|disk| disk.volume.is_some())
}

/// Whether the disk that the domain has is the volume that is wanted under its name. Where the name of its Volume is not
/// known, it may be: a guest loses no disk for want of knowledge.
fn is_it(wanted: &WantedDisk, is: &DomainDisk, held: &[HeldVolume]) -> bool {
    let is_of = held.iter().find(|held| Some(&held.uid) == is.volume.as_ref());
    let same = is_of.is_none_or(|held| Some(held.name.as_str()) == wanted.volume());
    wanted.name == is.name && wanted.volume().is_some() && same
}

fn grow(is: &DomainDisk, index: usize, observed: &Observed, outcome: &mut Outcome) {
    let Some(state) = observed.disk_states.get(index) else { return };
    if let (Some(has), Some(wanted)) = (state.size, state.wanted_size)
        && wanted > has
    {
        outcome.step(Step::GrowDisk(Box::new(is.clone()), wanted));
    }
}

/// A Volume that the VM has, and neither wants nor uses.
pub(super) fn surplus<'a>(
    desired: &Desired,
    observed: &'a Observed,
    running: Option<&DomainSpec>,
) -> Option<&'a HeldVolume> {
    observed.volumes.iter().find(|held| {
        let wanted = desired.disks.iter().any(|disk| disk.volume() == Some(&held.name));
        let used = running.is_some_and(|domain| domain.disks.iter().any(|d| d.volume.as_ref() == Some(&held.uid)));
        !wanted && !used
    })
}
