//! Objects of a kind that a CustomResourceDefinition defines are created only while the definition is there and stays.

use super::failure;
use super::resource::{Resource, storage_prefix};
use super::store::{Store, decode_cached};
use crate::meta;
use crate::status::{ApiError, Reason};
use crate::storage::Guard;

/// The group of CustomResourceDefinitions.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// Their plural name.
pub(crate) const PLURAL: &str = "customresourcedefinitions";

/// The definition that a kind comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) uid: String,
}

/// Checks that an object of the kind may be created, as the cache knows the kind's definition (or, if `fresh`, as it is
/// at least now). Answers what must not change until the object is stored: whoever deletes the objects of a kind that
/// goes could otherwise be done just before the object comes. Nothing for a kind that is built in.
pub(crate) async fn require(store: &Store, resource: &Resource, fresh: bool) -> Result<Option<Guard>, ApiError> {
    let Some(definition) = &resource.definition else { return Ok(None) };
    let prefix = storage_prefix(GROUP, PLURAL);
    let find = || store.cache.kind(&prefix).and_then(|kind| kind.get(None, &definition.name));
    let mut found = if fresh { None } else { find() };
    if found.as_ref().is_none_or(|found| found.uid() != definition.uid) {
        store.cache.wait_fresh().await.map_err(|error| failure::of_fresh_read(&error))?;
        found = find();
    }
    let found = found.ok_or_else(ApiError::no_such_path)?;
    if found.uid() != definition.uid {
        let why = format!("{} was deleted and defined anew a moment ago, and is being loaded", definition.name);
        return Err(ApiError::unavailable(why).with_retry_after(1));
    }
    if meta::is_terminating(&decode_cached(&found)?) {
        let why = format!("create not allowed while custom resource definition {} is terminating", definition.name);
        return Err(ApiError::new(Reason::MethodNotAllowed, why));
    }
    Ok(Some(Guard::unchanged(format!("{prefix}{}", definition.name), found.resource_version())))
}
