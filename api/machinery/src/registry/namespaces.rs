//! Objects are created only in namespaces that exist and stay.

use super::description::ResourceDescription;
use super::failure;
use super::resource::storage_prefix;
use super::store::{Store, decode_cached};
use crate::meta;
use crate::status::ApiError;

/// Checks that an object may be created in `namespace`.
pub(crate) async fn require(store: &Store, description: &ResourceDescription, namespace: &str) -> Result<(), ApiError> {
    let prefix = storage_prefix("", "namespaces");
    let find = || store.cache.kind(&prefix).and_then(|kind| kind.get(None, namespace));
    let mut found = find();
    if found.is_none() {
        // it may have been created a moment ago
        store.cache.wait_fresh().await.map_err(|error| failure::of_fresh_read(&error))?;
        found = find();
    }
    let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", namespace))?;
    if meta::is_terminating(&decode_cached(&found)?) {
        let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
        let cause = format!("namespace {namespace} is being terminated");
        return Err(ApiError::forbidden(&description.group, &description.plural, "", &why).with_cause(
            "NamespaceTerminating",
            &cause,
            "metadata.namespace",
        ));
    }
    Ok(())
}
