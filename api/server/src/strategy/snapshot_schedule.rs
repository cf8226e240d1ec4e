//! SnapshotSchedule: moments that come, in a time zone that there is, of one thing for good.

use jiff::tz::TimeZone;
use serde_json::Value;
use ucloud_machinery::{
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::{Recurrence, SnapshotSchedule, snapshot_schedule::MAX_NAME_LENGTH};

use super::{check_immutable, check_name, status_errors, typed};

const ADVICE: &str = "make another schedule instead; the snapshots of this one stay when it is deleted";

/// The rules of SnapshotSchedules.
pub struct SnapshotScheduleStrategy;

impl Strategy for SnapshotScheduleStrategy {
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut errors = typed(object).map_or_else(|error| vec![error], |schedule| validate(&schedule));
        if ctx.name.len() > MAX_NAME_LENGTH {
            errors.push(FieldError::too_long(FieldPath::new("metadata.name"), MAX_NAME_LENGTH));
        }
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<SnapshotSchedule>(new), typed::<SnapshotSchedule>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = validate(&new);
                // else what is kept of one would be deleted for another
                check_immutable("spec.snapshot", &old.spec.snapshot, &new.spec.snapshot, ADVICE, &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<SnapshotSchedule>(new)
    }
}

fn validate(schedule: &SnapshotSchedule) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &schedule.spec;
    for (path, name) in [("spec.snapshot.vm", &spec.snapshot.vm), ("spec.snapshot.volume", &spec.snapshot.volume)] {
        if let Some(name) = name {
            check_name(FieldPath::new(path), name, &mut errors);
        }
    }
    let zone = TimeZone::get(spec.effective_time_zone()).unwrap_or_else(|_| {
        let why = "the tz database of this API server has no such time zone; there are such as \"Europe/Zurich\"";
        errors.push(FieldError::invalid(FieldPath::new("spec.timeZone"), spec.effective_time_zone(), why));
        TimeZone::UTC
    });
    if let Err(error) = Recurrence::parse(&spec.schedule, zone) {
        errors.push(FieldError::invalid(FieldPath::new("spec.schedule"), spec.schedule.as_str(), &error.to_string()));
    }
    errors
}
