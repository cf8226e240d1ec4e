//! Objects are created only in namespaces that exist and stay.

use super::description::ResourceDescription;
use super::failure;
use super::resource::storage_prefix;
use super::store::{Store, decode_cached};
use crate::meta;
use crate::status::ApiError;
use crate::storage::Guard;

/// Checks that an object may be created in `namespace`, as the cache knows it (or, if `fresh`, as it is at least now).
/// Answers what must not change until the object is stored: a namespace that is deleted in between could otherwise be
/// found empty just before the object comes.
pub(crate) async fn require(
    store: &Store,
    description: &ResourceDescription,
    namespace: &str,
    fresh: bool,
) -> Result<Guard, ApiError> {
    let prefix = storage_prefix("", "namespaces");
    let find = || store.cache.kind(&prefix).and_then(|kind| kind.get(None, namespace));
    let mut found = if fresh { None } else { find() };
    if found.is_none() {
        // it may have been written a moment ago
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
    Ok(Guard { key: format!("{prefix}{namespace}"), revision: found.resource_version() })
}
