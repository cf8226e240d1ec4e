//! How the interfaces of a VM that runs come to be those of its spec: they are plugged and unplugged.
//!
//! An interface that is to have another MAC address or network is unplugged and plugged again, so that the guest
//! configures it anew. It is given up only when what it is to become can be had. Unplugging needs the guest's
//! cooperation: it is asked, and asked again, for as long as it takes.

use jiff::{SignedDuration, Timestamp};
use ucloud_types::condition::{Finding, INTERFACES_READY, Verdict};

use crate::{
    hypervisor::{DomainInterface, DomainSpec},
    net::NetworkDevices,
    reason,
};

use super::{Blocker, Desired, Observed, Pace, Step, WantedInterface};

/// What is to be done about the interfaces of a VM that runs.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The next step.
    pub step: Option<Step>,
    /// What is missing; None if the interfaces are those of the spec.
    pub finding: Option<Finding>,
    /// When to look again.
    pub after: Option<SignedDuration>,
    /// Whether the host has to be asked again, because it could not tell what devices it has.
    pub retry: bool,
}

impl Outcome {
    fn step(&mut self, step: Step) {
        self.step.get_or_insert(step);
    }

    fn blocked(&mut self, wanted: &WantedInterface, blocker: &Blocker) {
        self.pending(blocker.reason, &format!("interface {}: {}", wanted.name, blocker.message));
    }

    fn pending(&mut self, reason: &'static str, message: &str) {
        match &mut self.finding {
            Some(finding) => {
                finding.message.push_str("; ");
                finding.message.push_str(message);
            }
            None => self.finding = Some(Finding::new(INTERFACES_READY, Verdict::False, reason, message)),
        }
    }
}

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    running: &DomainSpec,
    pace: &Pace,
    now: Timestamp,
) -> Outcome {
    let mut outcome = Outcome::default();
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
            (Some(blocker), Devices::Absent, _) | (Some(blocker), _, Some(_)) => outcome.blocked(wanted, blocker),
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
        Place { blocker: Some(blocker), .. } => outcome.blocked(wanted, blocker),
        Place { devices: Devices::Absent, .. } => outcome.step(Step::ProvisionInterface(wanted.name.clone())),
        Place { devices: Devices::Present(devices), .. } => {
            outcome.step(Step::Plug(Box::new(desired.interface(wanted, devices))));
        }
        Place { devices: Devices::Unknown, .. } => outcome.retry = true,
    }
}

fn unplug(is: &DomainInterface, why: &str, observed: &Observed, pace: &Pace, now: Timestamp, outcome: &mut Outcome) {
    let Some(asked) = observed.memory.unplugging.get(&is.name) else {
        outcome.step(Step::Unplug(Box::new(is.clone())));
        return;
    };
    let repeat = pace.unplug_repeat - now.duration_since(asked.last);
    if !repeat.is_positive() {
        outcome.step(Step::Unplug(Box::new(is.clone())));
        return;
    }
    outcome.after = Some(outcome.after.map_or(repeat, |after| after.min(repeat)));
    // Whole seconds, so that the message of one wait is always the same
    let since = Timestamp::from_second(asked.since.as_second()).unwrap_or(asked.since);
    let message = format!(
        "the guest was asked at {since} to let go of interface {}, which is {why}, and still has it: its operating \
         system must be up and support hot-plug (ACPI); `ucloudctl restart` brings what the spec says",
        is.name
    );
    outcome.pending(reason::WAITING_FOR_GUEST, &message);
}
