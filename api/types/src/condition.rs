//! Conditions: the types and reasons that ucloud's controllers report, and how a list of them changes.
//!
//! The shape is Kubernetes' own `metav1.Condition`. `lastTransitionTime` moves only when the status changes,
//! and [`set`] says whether anything changed at all, so that a controller with nothing to report writes nothing.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The object does what its spec says. Every kind has it.
pub const READY: &str = "Ready";
/// The VM has a host (written by the binding and by the scheduler).
pub const SCHEDULED: &str = "Scheduled";
/// The running VM differs from its spec in something that only a restart brings.
pub const RESTART_REQUIRED: &str = "RestartRequired";
/// The interfaces of the running VM are those of its spec. It is there only while they are not.
pub const INTERFACES_READY: &str = "InterfacesReady";
/// The disks of the running VM are those of its spec, as far as that needs no restart. It is there only while they are not.
pub const DISKS_READY: &str = "DisksReady";
/// The host has removed the bytes of the volume. It is there only while it has not been able to.
pub const REMOVED: &str = "Removed";
/// The snapshot was taken: what it shows is kept.
pub const TAKEN: &str = "Taken";
/// The reason why a Snapshot is not Taken while its host is at work on it, or may have left something half done.
pub const TAKING: &str = "Taking";
/// The network's gateway is up on its router (networks with address management alone have it).
pub const ROUTED: &str = "Routed";
/// The object is being deleted; the message says what is left and who holds it.
pub const TERMINATING: &str = "Terminating";
/// The reason why an Image that no VM uses any more is still Terminating: hosts have it.
pub const COPIES_REMAIN: &str = "CopiesRemain";
/// The host has what it needs to run VMs with hardware acceleration.
pub const ACCELERATED: &str = "Accelerated";

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Nobody can tell at present.
    Unknown,
}

impl Verdict {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a controller has to say about one aspect of an object; [`set`] makes a condition of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The condition's type, one of this module's constants.
    pub type_: &'static str,
    /// Whether it holds.
    pub verdict: Verdict,
    /// A CamelCase word that programs can rely on.
    pub reason: &'static str,
    /// A sentence for a person: what is wrong and what to do next.
    pub message: String,
}

impl Finding {
    /// A finding of type `type_`.
    pub fn new(type_: &'static str, verdict: Verdict, reason: &'static str, message: impl Into<String>) -> Self {
        Self { type_, verdict, reason, message: message.into() }
    }
}

/// Puts `finding` into `conditions` and tells whether that changed anything. The time of transition moves
/// only when the status does.
pub fn set(conditions: &mut Vec<Condition>, finding: &Finding, generation: Option<i64>, now: Timestamp) -> bool {
    let status = finding.verdict.as_str();
    match conditions.iter_mut().find(|c| c.type_ == finding.type_) {
        Some(c) => {
            if c.status == status
                && c.reason == finding.reason
                && c.message == finding.message
                && c.observed_generation == generation
            {
                return false;
            }
            if c.status != status {
                c.last_transition_time = Time(now);
                status.clone_into(&mut c.status);
            }
            finding.reason.clone_into(&mut c.reason);
            c.message.clone_from(&finding.message);
            c.observed_generation = generation;
        }
        None => conditions.push(Condition {
            type_: finding.type_.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.to_owned(),
            message: finding.message.clone(),
            observed_generation: generation,
            last_transition_time: Time(now),
        }),
    }
    true
}

/// Removes the condition of this type and tells whether there was one.
pub fn clear(conditions: &mut Vec<Condition>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|c| c.type_ != type_);
    conditions.len() != before
}

/// The condition of this type.
pub fn get<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is there and True.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    get(conditions, type_).is_some_and(|c| c.status == Verdict::True.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(verdict: Verdict, message: &str) -> Finding {
        Finding::new(READY, verdict, "Because", message)
    }

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let (t1, t2, t3) = (
            Timestamp::from_second(1).unwrap(),
            Timestamp::from_second(2).unwrap(),
            Timestamp::from_second(3).unwrap(),
        );
        let mut list = Vec::new();
        assert!(set(&mut list, &finding(Verdict::False, "a"), Some(1), t1));
        assert!(!set(&mut list, &finding(Verdict::False, "a"), Some(1), t2), "nothing changed, nothing to write");
        assert!(set(&mut list, &finding(Verdict::False, "b"), Some(1), t2));
        assert_eq!(list[0].last_transition_time.0, t1);
        assert!(set(&mut list, &finding(Verdict::True, "b"), Some(2), t3));
        assert_eq!(list[0].last_transition_time.0, t3);
        assert!(is_true(&list, READY));
        assert!(clear(&mut list, READY));
        assert!(!clear(&mut list, READY));
    }
}
