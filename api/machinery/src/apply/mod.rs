//! Server-side apply: who owns which fields of an object, and what an applied configuration makes of it.
//!
//! It is Kubernetes' model (KEP-555; `sigs.k8s.io/structured-merge-diff`): a configuration owns each field that it mentions.
//! Applying one merges it into the object by the types of its fields ([`Type`]), takes away what its manager applied
//! before and no longer does ([`remove`]) unless somebody else owns it, and is a [`conflict`] where it would change what
//! another manager owns, unless it is forced. A plain write owns what it changed. `metadata.managedFields` keeps
//! a field set ([`FieldSet`], in JSON the format FieldsV1) for each manager ([`managers`]).
//!
//! Nothing here reads or writes anything; [`crate::registry`] calls it in the course of a write.

mod check;
mod compare;
mod conflict;
mod element;
mod extract;
mod fields_v1;
mod items;
mod last_applied;
mod managers;
mod merge;
mod ownership;
#[cfg(test)]
mod properties;
mod remove;
mod set;
mod system;
mod types;

pub(crate) use managers::same_but_for_times;
pub(crate) use ownership::{Configuration, Ledger, Writer, created, updated};
pub(crate) use types::Type;

#[cfg(feature = "fuzzing")]
pub(crate) fn by_force(
    schema: &serde_json::Value,
    live: &serde_json::Value,
    config: &serde_json::Value,
) -> Option<serde_json::Value> {
    let type_ = Type::of_kind(schema);
    let writer = Writer { manager: "fuzzer", api_version: "x.io/v1", subresource: "", now: "2026-01-01T00:00:00Z" };
    let config = Configuration::new(config.clone(), &type_).ok()?;
    let (mut object, ledger) = config.merge_into(&writer, &type_, live);
    ledger.settle(&writer, &type_, &config, true, live, &mut object).ok()?;
    Some(object)
}

#[cfg(feature = "fuzzing")]
pub(crate) fn rewrite_fields_v1(set: &serde_json::Value) -> Option<serde_json::Value> {
    set::FieldSet::from_json(set).ok().map(|set| set.to_json())
}
