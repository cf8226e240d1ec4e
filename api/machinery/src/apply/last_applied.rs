//! From `kubectl apply` to `kubectl apply --server-side`: what the annotation of the former says was applied may be taken over
//! by the latter without a conflict, and the annotation is kept up to date, so that one can go back.

use serde_json::Value;

use super::compare::{Difference, compare};
use super::extract::fields_of;
use super::set::FieldSet;
use super::types::Type;
use crate::{decode, meta};

/// The manager that kubectl's server-side apply goes by. No other takes over.
pub(super) const KUBECTL: &str = "kubectl";

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations together are no larger; with one that would not fit it is left empty.
const MAX_SIZE: usize = 256 * 1024;

/// The annotation, where an object has one.
fn annotation(object: &Value) -> Option<&str> {
    let text = meta::get(object, "annotations")?.get(ANNOTATION)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// The fields that were applied and still are as they were applied.
pub(super) fn taken_over(live: &Value, type_: &Type, api_version: &str) -> Option<FieldSet> {
    let applied = decode::json(annotation(live)?.as_bytes()).ok()?.value;
    if applied.get("apiVersion").and_then(Value::as_str) != Some(api_version) {
        return None;
    }
    let Difference { changed, removed, .. } = compare(Some(&applied), Some(live), type_);
    Some(fields_of(&applied, type_).difference(&changed).difference(&removed))
}

/// What the annotation of an object has to be after `config` was applied by `manager`; `None` if it stays as it is.
pub(super) fn renewed(object: &Value, config: &Value, manager: &str) -> Option<String> {
    let present = annotation(object).filter(|_| manager == KUBECTL)?;
    let mut config = config.clone();
    if let Some(annotations) = meta::metadata_mut(&mut config)
        .and_then(|metadata| metadata.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    let mut text = format!("{config}\n");
    let others = meta::get(object, "annotations").and_then(Value::as_object).into_iter().flatten();
    let size: usize = others
        .filter(|(name, _)| *name != ANNOTATION)
        .map(|(name, value)| name.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size + ANNOTATION.len() + text.len() > MAX_SIZE {
        text.clear();
    }
    (text != present).then_some(text)
}

/// Sets the annotation.
pub(super) fn set(object: &mut Value, text: String) {
    if let Some(annotations) =
        meta::metadata_mut(object).and_then(|metadata| metadata.get_mut("annotations")).and_then(Value::as_object_mut)
    {
        annotations.insert(ANNOTATION.to_owned(), text.into());
    }
}
