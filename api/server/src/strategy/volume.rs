//! Volume: it grows and never shrinks, and goes from one VM to the next only by way of having none.

use serde::Deserialize as _;
use serde_json::Value;
use ucloud_machinery::{
    meta,
    quantity::Quantity as Amount,
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy, Usage},
};
use ucloud_types::{Volume, volume::VolumeSpec};

use super::{check_immutable, check_name, field::Field, typed, vm::check_limits};

/// The most characters that the name of an object may have.
const MAX_NAME: usize = 253;
const ADVICE: &str = "make a new volume instead";

/// The rules of Volumes.
pub struct VolumeStrategy;

impl Strategy for VolumeStrategy {
    fn usage(&self, object: &Value) -> Vec<Usage> {
        // what is no Volume was refused, or comes from another version, whose amounts nobody knows
        let Ok(spec) = VolumeSpec::deserialize(&object["spec"]) else { return Vec::new() };
        vec![Usage { resource: "requests.storage", amount: Amount::bytes(spec.size.bytes()), unknown: Vec::new() }]
    }

    fn validate_create(&self, _: &Context<'_>, object: &Value) -> Vec<FieldError> {
        let mut errors = typed(object).map_or_else(|error| vec![error], |volume| validate(&volume));
        check_limits(&Field::spec(object).child("limits"), &mut errors);
        errors
    }

    fn validate_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        let limits = Field::spec(new).child("limits");
        match (typed::<Volume>(new), typed::<Volume>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let (old, new) = (&old.spec, &new.spec);
                if new.size < old.size {
                    let rule = format!("a volume never shrinks, and this one has {}; {ADVICE}", old.size);
                    errors.push(FieldError::invalid(FieldPath::new("spec.size"), new.size.to_string(), &rule));
                }
                check_immutable("spec.source", &old.source, &new.source, ADVICE, &mut errors);
                check_immutable("spec.pool", &old.effective_pool(), &new.effective_pool(), ADVICE, &mut errors);
                check_limits(&limits, &mut errors);
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<Volume>(new), typed::<Volume>(old)) {
            (Ok(volume), Ok(before)) => {
                check_attachment(&volume, &before, meta::is_terminating(old)).err().into_iter().collect()
            }
            (Err(error), _) => vec![error],
            // what nobody can read may be put right
            (Ok(_), Err(_)) => Vec::new(),
        }
    }
}

fn validate(volume: &Volume) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &volume.spec;
    if spec.size.bytes() == 0 {
        errors.push(FieldError::invalid(FieldPath::new("spec.size"), "0", "must be at least 1 byte"));
    }
    let source = spec.source.clone().unwrap_or_default();
    if let Some(image) = &source.image {
        // the namespace does not matter here: the name is the same in all
        check_name(FieldPath::new("spec.source.image"), image.resolve("").1, &mut errors);
    }
    if let Some(snapshot) = &source.snapshot {
        check_name(FieldPath::new("spec.source.snapshot.name"), &snapshot.name, &mut errors);
    }
    if let Some(name) = &source.volume {
        let path = FieldPath::new("spec.source.volume");
        if Some(name) == volume.metadata.name.as_ref() {
            errors.push(FieldError::invalid(path, name.as_str(), "it is this volume itself; name another one"));
        } else {
            check_name(path, name, &mut errors);
        }
        let image = volume.image().map_or(0, |image| image.0.len());
        if image > MAX_NAME {
            let why = format!("with a source the name must be {} characters shorter", image - MAX_NAME);
            errors.push(FieldError::invalid(FieldPath::new("metadata.name"), volume.metadata.name.clone(), &why));
        }
    }
    if let Some(orphan) = &source.orphan {
        check_name(FieldPath::new("spec.source.orphan"), orphan, &mut errors);
    }
    if let Some(pool) = &spec.pool {
        check_name(FieldPath::new("spec.pool"), pool, &mut errors);
    }
    errors
}

/// Whoever writes: a VM has the volume until that was taken back, and one that is being deleted goes to no other. An
/// attachment of the same VM may change, as its binding does.
fn check_attachment(new: &Volume, old: &Volume, terminating: bool) -> Result<(), FieldError> {
    let attachment = |volume: &Volume| volume.status.as_ref().and_then(|status| status.attachment.clone());
    let Some(next) = attachment(new) else { return Ok(()) };
    let why = match attachment(old) {
        Some(has) if has.vm_uid == next.vm_uid => return Ok(()),
        Some(has) => format!("VM {} (UID {}) has the volume: it must have given it back first", has.vm, has.vm_uid),
        None if terminating => "the volume is being deleted: no VM can have it any more".to_owned(),
        None => return Ok(()),
    };
    Err(FieldError::forbidden(FieldPath::new("status.attachment"), &why))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(attachment: &Value) -> Volume {
        typed(&json!({"apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Volume", "metadata": {"name": "data"},
            "spec": {"size": "1Gi"}, "status": {"attachment": attachment}}))
        .unwrap()
    }

    #[test]
    fn a_volume_goes_from_vm_to_vm_by_way_of_none() {
        let by = |uid: &str, epoch: u64| json!({"vm": "web", "vmUid": uid, "host": "h1", "epoch": epoch});
        for (old, new, lives, dies) in [
            (Value::Null, Value::Null, true, true),
            (Value::Null, by("a", 1), true, false),
            (by("a", 1), by("a", 2), true, true),
            (by("a", 1), by("b", 1), false, false),
            (by("a", 1), Value::Null, true, true),
        ] {
            for (terminating, allowed) in [(false, lives), (true, dies)] {
                let checked = check_attachment(&volume(&new), &volume(&old), terminating);
                assert_eq!(checked.is_ok(), allowed, "{old} to {new}, terminating {terminating}");
            }
        }
    }
}
