//! How the interfaces of a VM that runs come to be those of its spec: they are plugged and unplugged.
//!
//! An interface that is to have another MAC address or network is unplugged and plugged again, so that the guest
//! configures it anew. It is given up only when what it is to become can be had.

use jiff::Timestamp;
use ucloud_types::condition::INTERFACES_READY;

use crate::{
    hypervisor::{DomainInterface, DomainSpec},
    net::NetworkDevices,
};

use super::{Blocker, Desired, Observed, Pace, Step, WantedInterface, hotplug::Outcome};

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    running: &DomainSpec,
    pace: &Pace,
    now: Timestamp,
) -> Outcome {
    let mut outcome = Outcome::new(INTERFACES_READY);
    let wanted = || desired.interfaces.iter().enumerate();
    // What gives way goes first: it may hold the tap that what comes is to have
    for is in &running.interfaces {
        let Some((index, wanted)) = wanted().find(|(_, wanted)| wanted.name == is.name) else {
            unplug(is, "no longer in the spec", observed, pace, now, &mut outcome);
            continue;
        };
        let place = Place::of(observed, index);
        match (place.blocker, place.devices, difference(is, wanted, place.devices)) {
            // It stays where it is, which may be in that very network
            (Some(blocker), Devices::Absent, _) | (Some(blocker), _, Some(_)) => {
                outcome.blocked(&called(wanted), blocker);
            }
            (None, Devices::Absent, _) => {
                // Only once they are made can be told whether it is these that the interface is attached to
                outcome.step(Step::ProvisionInterface(wanted.name.clone()));
            }
            (None, Devices::Present(_), Some(why)) => unplug(is, &why, observed, pace, now, &mut outcome),
            (_, _, None) | (_, Devices::Unknown, _) => {}
        }
    }
    for (index, wanted) in wanted().filter(|(_, wanted)| running.interfaces.iter().all(|is| is.name != wanted.name)) {
        plug(desired, wanted, Place::of(observed, index), &mut outcome);
    }
    outcome
}

/// What is known of the network that an interface is to be in.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Why nothing can be attached to it now.
    blocker: Option<&'a Blocker>,
    devices: Devices<'a>,
}

#[derive(Clone, Copy)]
enum Devices<'a> {
    Present(&'a NetworkDevices),
    Absent,
    /// The host could not tell.
    Unknown,
}

impl<'a> Place<'a> {
    fn of(observed: &'a Observed, index: usize) -> Self {
        let blocker = observed.network_blockers.get(index).and_then(Option::as_ref);
        let devices = observed.devices.as_ref().map_or(Devices::Unknown, |all| {
            all.get(index).and_then(Option::as_ref).map_or(Devices::Absent, Devices::Present)
        });
        Self { blocker, devices }
    }
}

/// What an interface has to become, if it is not so.
fn difference(is: &DomainInterface, wanted: &WantedInterface, devices: Devices<'_>) -> Option<String> {
    match devices {
        Devices::Present(devices) if devices.bridge != is.bridge => {
            Some(format!("to move to network {}", wanted.network))
        }
        _ if wanted.mac != is.mac => Some(format!("to have the MAC address {}", wanted.mac)),
        _ => None,
    }
}

fn plug(desired: &Desired, wanted: &WantedInterface, place: Place<'_>, outcome: &mut Outcome) {
    match place {
        Place { blocker: Some(blocker), .. } => outcome.blocked(&called(wanted), blocker),
        Place { devices: Devices::Absent, .. } => outcome.step(Step::ProvisionInterface(wanted.name.clone())),
        Place { devices: Devices::Present(devices), .. } => {
            outcome.step(Step::Plug(Box::new(desired.interface(wanted, devices))));
        }
        Place { devices: Devices::Unknown, .. } => outcome.retry = true,
    }
}

fn unplug(is: &DomainInterface, why: &str, observed: &Observed, pace: &Pace, now: Timestamp, outcome: &mut Outcome) {
    let asked = observed.memory.unplugging.get(&is.name);
    let what = format!("interface {}", is.name);
    outcome.unplug(|| Step::Unplug(Box::new(is.clone())), (&what, why), asked, pace, now);
}

fn called(wanted: &WantedInterface) -> String {
    format!("interface {}", wanted.name)
}
