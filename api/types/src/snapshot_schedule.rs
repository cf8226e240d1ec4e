//! SnapshotSchedule: Snapshots of one thing, again and again, and how many of them are kept.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    condition::{Condition, Time},
    snapshot::SnapshotSpec,
};

/// Its name is the beginning of the names of its Snapshots, which are the beginnings of the names of Images.
pub const MAX_NAME_LENGTH: usize = 52;

/// Snapshots of one thing, taken again and again. They stay when the schedule is deleted.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "ucloud.ungleich.ch",
    version = "v1alpha1",
    kind = "SnapshotSchedule",
    plural = "snapshotschedules",
    singular = "snapshotschedule",
    shortname = "snapsched",
    namespaced,
    status = "SnapshotScheduleStatus",
    derive = "PartialEq",
    category = "ucloud",
    doc = "Snapshots of one thing, taken again and again, and how many of them are kept.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "VM", type_ = "string", json_path = ".spec.snapshot.vm"),
    printcolumn(name = "Volume", type_ = "string", json_path = ".spec.snapshot.volume"),
    printcolumn(name = "Keep", type_ = "integer", json_path = ".spec.keep"),
    printcolumn(name = "Last", type_ = "date", json_path = ".status.lastScheduleTime"),
    // when it will be, not how long ago
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextTime"),
    printcolumn(name = "Time Zone", type_ = "string", json_path = ".spec.timeZone", priority = 1),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".status.lastSnapshot", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotScheduleSpec {
    /// What is taken: the spec of its Snapshots. It cannot be changed.
    pub snapshot: SnapshotSpec,

    /// When: five fields as in Kubernetes' CronJob (minute, hour, day of the month, month, day of the week), such as
    /// "30 3 * * *", or @hourly, @daily, @weekly, @monthly, @yearly.
    #[schemars(length(max = 100))]
    pub schedule: String,

    /// The time zone of `schedule` in the tz database, such as "Europe/Zurich"; "UTC" by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub time_zone: Option<String>,

    /// Whether no snapshots are taken for the time being. When this ends, one is taken at once if a moment of `schedule` has
    /// passed meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,

    /// How many of its snapshots that are ready are kept: older ones are deleted. All by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub keep: Option<u32>,
}

impl SnapshotScheduleSpec {
    /// The effective time zone.
    pub fn effective_time_zone(&self) -> &str {
        self.time_zone.as_deref().unwrap_or("UTC")
    }

    /// Whether snapshots are taken.
    pub fn is_suspended(&self) -> bool {
        self.suspend.unwrap_or_default()
    }
}

/// What is known of a schedule. The snapshot-schedule controller writes all of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotScheduleStatus {
    /// How it goes, in one word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<SnapshotSchedulePhase>,

    /// The last moment of the schedule that had its turn, whether or not a snapshot came of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,

    /// The name of the last Snapshot that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_snapshot: Option<String>,

    /// The next moment of the schedule. None while it is suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_time: Option<Time>,

    /// Ready.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How a schedule goes, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SnapshotSchedulePhase {
    /// Snapshots are taken.
    Active,
    /// Nothing came of the last moment; condition Ready says why.
    Failing,
    /// No snapshots are taken for the time being.
    Suspended,
}
