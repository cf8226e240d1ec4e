//! Snapshot: of one VM or Volume, and never of another.

use serde_json::Value;
use ucloud_machinery::{
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::Snapshot;

use super::{check_immutable, check_name, status_errors, typed};

const ADVICE: &str = "make a new snapshot instead";

/// The rules of Snapshots.
pub struct SnapshotStrategy;

impl Strategy for SnapshotStrategy {
    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        typed(object).map_or_else(|error| vec![error], |snapshot| validate(&snapshot))
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<Snapshot>(new), typed::<Snapshot>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                check_immutable("spec.vm", &old.spec.vm, &new.spec.vm, ADVICE, &mut errors);
                check_immutable("spec.volume", &old.spec.volume, &new.spec.volume, ADVICE, &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<Snapshot>(new)
    }
}

fn validate(snapshot: &Snapshot) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &snapshot.spec;
    for (path, name) in [("spec.vm", &spec.vm), ("spec.volume", &spec.volume)] {
        if let Some(name) = name {
            check_name(FieldPath::new(path), name, &mut errors);
        }
    }
    errors
}
