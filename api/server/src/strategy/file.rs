//! File: a size that is known from the beginning, and a spec that never changes.

use serde::Deserialize as _;
use serde_json::Value;
use ucloud_machinery::{
    quantity::Quantity as Amount,
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy, Usage},
};
use ucloud_types::{File, file::FileSpec};

use super::{check_immutable, check_name, status_errors, typed};

const ADVICE: &str = "make a new file instead";

/// The rules of Files.
pub struct FileStrategy;

impl Strategy for FileStrategy {
    fn usage(&self, object: &Value) -> Vec<Usage> {
        // what is no File was refused, or comes from another version, whose amounts nobody knows
        let Ok(spec) = FileSpec::deserialize(&object["spec"]) else { return Vec::new() };
        vec![Usage { resource: "requests.storage", amount: Amount::bytes(spec.size.bytes()), unknown: Vec::new() }]
    }

    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        typed(object).map_or_else(|error| vec![error], |file| validate(&file))
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<File>(new), typed::<File>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let (old, new) = (&old.spec, &new.spec);
                check_immutable("spec.size", &old.size, &new.size, ADVICE, &mut errors);
                check_immutable("spec.sha256", &old.sha256, &new.sha256, ADVICE, &mut errors);
                check_immutable("spec.pool", &old.effective_pool(), &new.effective_pool(), ADVICE, &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<File>(new)
    }
}

fn validate(file: &File) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if file.spec.size.bytes() == 0 {
        errors.push(FieldError::invalid(FieldPath::new("spec.size"), "0", "must be at least 1 byte"));
    }
    if let Some(pool) = &file.spec.pool {
        check_name(FieldPath::new("spec.pool"), pool, &mut errors);
    }
    errors
}
