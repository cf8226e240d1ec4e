//! How a controller reports: the one place where statuses are written.
//!
//! A status is planned whole. Of it, a controller applies its own part (server-side, under a name of its own), and only on
//! the version of the object from which the plan was made. Nothing is written when nothing changed. A condition whose
//! status or reason changed becomes an Event as well.

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceStatus, ResourceQuota, ResourceQuotaStatus},
    jiff::Timestamp,
};
use kube::core::object::HasStatus;
use serde::Serialize;
use serde_json::Value;
use ucloud_types::{
    File, FileStatus, Host, HostStatus, Image, ImageStatus, Network, NetworkPool, NetworkPoolStatus, NetworkStatus,
    Orphan, OrphanStatus, SecurityGroup, SecurityGroupStatus, Snapshot, SnapshotSchedule, SnapshotScheduleStatus,
    SnapshotStatus, StoragePool, StoragePoolStatus, VM, VMStatus, Volume, VolumeStatus,
    condition::{self, Condition, Finding, TERMINATING, Verdict},
};

use super::{
    Failure, Kind, Runtime, events::EventType, failure::ApiError, is_deleting, name_of, objects::apply_status,
};

/// A kind with conditions in its status.
pub trait Reported: Kind + HasStatus<Status: Clone + Default + PartialEq + Serialize + Send + Sync> {
    /// Reasons of a condition that does not hold which are no trouble: the object is on its way.
    const ON_ITS_WAY: &'static [&'static str] = &[];

    /// The conditions in a status.
    fn conditions(status: &Self::Status) -> &[Condition];

    /// The conditions in a status, to be changed.
    fn conditions_mut(status: &mut Self::Status) -> &mut Vec<Condition>;
}

macro_rules! reported {
    ($kind:ty, $status:ty $(, on its way: $reasons:expr)?) => {
        impl Reported for $kind {
            $(const ON_ITS_WAY: &'static [&'static str] = $reasons;)?

            fn conditions(status: &$status) -> &[Condition] {
                &status.conditions
            }

            fn conditions_mut(status: &mut $status) -> &mut Vec<Condition> {
                &mut status.conditions
            }
        }
    };
}

reported!(File, FileStatus);
reported!(Host, HostStatus);
reported!(Image, ImageStatus, on its way: &["Importing", "FileNotFound", "FileIncomplete", "SnapshotNotTaken"]);
reported!(Network, NetworkStatus, on its way: &["GatewayPending"]);
reported!(NetworkPool, NetworkPoolStatus);
reported!(Orphan, OrphanStatus, on its way: &["Destroying", "Adopting"]);
reported!(SecurityGroup, SecurityGroupStatus);
reported!(Snapshot, SnapshotStatus, on its way: &["Taking", "NoHost", "NoDisks", "GivingUp"]);
reported!(SnapshotSchedule, SnapshotScheduleStatus, on its way: &["Waiting"]);
reported!(StoragePool, StoragePoolStatus);
reported!(VM, VMStatus, on its way: &["Halted"]);
reported!(Volume, VolumeStatus, on its way: &["Pending", "Adopting"]);

/// Puts a finding into the conditions of a status that is being planned for `object`.
pub fn find<K: Reported>(object: &K, status: &mut K::Status, finding: &Finding) {
    condition::set(K::conditions_mut(status), finding, object.meta().generation, Timestamp::now());
}

/// The status that the object has; the empty one if it has none.
pub fn status_of<K: Reported>(object: &K) -> K::Status {
    object.status().cloned().unwrap_or_default()
}

/// The part of a status that a controller writes.
#[derive(Clone, Copy, Debug)]
pub enum Share {
    /// All of it.
    Whole,
    /// These fields, and the conditions of these types.
    Part {
        /// The names of the fields.
        fields: &'static [&'static str],
        /// The types of the conditions.
        conditions: &'static [&'static str],
    },
}

impl Share {
    /// What of a status is the controller's.
    fn of(self, mut status: Value) -> Value {
        let Self::Part { fields, conditions } = self else { return status };
        if let Some(map) = status.as_object_mut() {
            map.retain(|field, _| field == "conditions" || fields.contains(&field.as_str()));
            if let Some(list) = map.get_mut("conditions").and_then(Value::as_array_mut) {
                list.retain(|condition| condition["type"].as_str().is_some_and(|type_| conditions.contains(&type_)));
            }
        }
        status
    }
}

/// Writes the statuses of one controller.
#[derive(Clone)]
pub struct Reports {
    runtime: Runtime,
    controller: &'static str,
    share: Share,
}

impl Reports {
    /// The reports of this controller on a kind of whose status it writes this part.
    pub fn new(runtime: &Runtime, controller: &'static str, share: Share) -> Self {
        Self { runtime: runtime.clone(), controller, share }
    }

    /// Makes `status` the status of `object`, and tells whether that took a write.
    pub async fn write<K: Reported>(&self, object: &K, status: &K::Status) -> Result<bool, Failure> {
        if !self.apply_changed(object, object.status(), status).await? {
            return Ok(false);
        }
        let before = status_of(object);
        for condition in K::conditions(status) {
            self.announce(object, condition::get(K::conditions(&before), &condition.type_), condition);
        }
        Ok(true)
    }

    /// Writes that the object cannot be reconciled: into Terminating where it is being deleted, else into
    /// `condition`. A condition that holds is left alone: what works goes on working.
    pub async fn write_failure<K: Reported>(
        &self,
        object: &K,
        condition: &'static str,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        let mut status = status_of(object);
        self.runtime.events.publish(self.controller, object, EventType::Warning, ("Reconcile", reason), &message);
        if is_deleting(object) {
            find(object, &mut status, &Finding::new(TERMINATING, Verdict::True, reason, message));
        } else if !condition::is_true(K::conditions(&status), condition) {
            find(object, &mut status, &Finding::new(condition, Verdict::False, reason, message));
        }
        self.write(object, &status).await.map(|_| ())
    }

    /// Says that something happened to the object.
    pub fn event<K: Kind>(&self, object: &K, type_: EventType, action: &str, reason: &str, note: &str) {
        self.runtime.events.publish(self.controller, object, type_, (action, reason), note);
    }

    /// The same, where another object has a part in it.
    pub fn event_with<K: Kind, R: Kind>(&self, object: &K, related: &R, what: (&str, &str), note: &str) {
        let objects = (object.object_ref(&()), Some(related.object_ref(&())));
        self.runtime.events.publish_related(self.controller, objects, EventType::Normal, what, note);
    }

    fn announce<K: Reported>(&self, object: &K, before: Option<&Condition>, now: &Condition) {
        if before.is_some_and(|before| before.status == now.status && before.reason == now.reason) {
            return;
        }
        let fine = now.status == Verdict::True.as_str() || K::ON_ITS_WAY.contains(&now.reason.as_str());
        let type_ = if fine { EventType::Normal } else { EventType::Warning };
        self.event(object, type_, &now.type_, &now.reason, &now.message);
    }

    /// Writes the status of a Namespace, whose conditions have a shape of their own.
    pub async fn write_namespace(&self, namespace: &Namespace, status: &NamespaceStatus) -> Result<bool, Failure> {
        self.apply_changed(namespace, namespace.status.as_ref(), status).await
    }

    /// Writes the status of a ResourceQuota, which has no conditions.
    pub async fn write_resource_quota(
        &self,
        quota: &ResourceQuota,
        status: &ResourceQuotaStatus,
    ) -> Result<bool, Failure> {
        self.apply_changed(quota, quota.status.as_ref(), status).await
    }

    /// Applies the controller's part of the status, if the status is another than before.
    async fn apply_changed<K: Kind, S: Serialize + PartialEq + Default + Sync>(
        &self,
        object: &K,
        before: Option<&S>,
        status: &S,
    ) -> Result<bool, Failure> {
        if *before.unwrap_or(&S::default()) == *status {
            return Ok(false);
        }
        let own = self.share.of(to_value(object, status)?);
        apply_status(&self.runtime.client, object, &self.manager(), own).await?;
        Ok(true)
    }

    fn manager(&self) -> String {
        format!("ucloud-controllers-{}", self.controller)
    }
}

fn to_value<K: Kind>(object: &K, status: &impl Serialize) -> Result<Value, Failure> {
    serde_json::to_value(status).map_err(|error| Failure::Api {
        doing: format!("cannot write the status of {} {}", K::kind(&()), name_of(object)),
        source: ApiError::NoAnswer(Box::new(kube::Error::SerdeError(error))),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_controller_applies_its_own_part() {
        let status = json!({"phase": "Unknown", "binding": {"host": "h1"}, "conditions": [{"type": "Ready"}, {"type": "Scheduled"}]});
        let share = Share::Part { fields: &["phase"], conditions: &["Ready"] };
        assert_eq!(share.of(status.clone()), json!({"phase": "Unknown", "conditions": [{"type": "Ready"}]}));
        assert_eq!(Share::Whole.of(status.clone()), status);
    }
}
