//! How a VM that does not run gets back the disks of a snapshot.

use ucloud_types::vm::VMPhase;

use crate::{hypervisor::Domain, reason};

use super::{
    Desired, Observed,
    plan::{Plan, Step, not_ready},
};

/// What is next for a VM that was asked to be restored; None for one that was not.
///
/// It is not started before the API server knows that the restore has come to its end: an agent that finds it pending does
/// all of it again, and so must never find it on disks that a guest has written to since.
pub(super) fn plan(desired: &Desired, observed: &Observed, domain: Option<&Domain>) -> Option<Plan> {
    let request = desired.restore.as_ref()?;
    let message = format!("its disks are being restored from snapshot {}", request.snapshot);
    let plan = Plan::new(VMPhase::Stopped, not_ready(reason::RESTORING, message)).not_running();
    let ended = observed.memory.restore.filter(|ended| ended.id == request.id);
    Some(match (ended, domain) {
        (Some(ended), _) => Plan { ended_restore: Some(ended), ..plan },
        (None, Some(_)) => plan.step(Step::Undefine),
        (None, None) => plan.step(Step::Restore(request.clone())),
    })
}
