//! Objects are created only in namespaces that exist and stay.

use super::description::ResourceDescription;
use super::failure;
use super::resource::storage_prefix;
use super::store::{Store, decode_cached};
use crate::cache::Object;
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
    Ok(guard(&found, &prefix))
}

/// The namespace as it is in the cache, for a write to something in it that exists already; none if it is not there.
pub(crate) fn known(store: &Store, namespace: &str) -> Option<Guard> {
    let prefix = storage_prefix("", "namespaces");
    store.cache.kind(&prefix)?.get(None, namespace).map(|found| guard(&found, &prefix))
}

fn guard(namespace: &Object, prefix: &str) -> Guard {
    Guard::unchanged(format!("{prefix}{}", namespace.name()), namespace.resource_version())
}

/// Makes a write that depends on the namespace write it too, as it is: all other writes that depend on it are decided anew.
pub(crate) fn touch(store: &Store, guard: Guard) -> Result<Guard, ApiError> {
    let prefix = storage_prefix("", "namespaces");
    let name = guard.key.strip_prefix(&prefix).unwrap_or_default();
    let found = store.cache.kind(&prefix).and_then(|kind| kind.get(None, name));
    let found = found.ok_or_else(|| ApiError::not_found("", "namespaces", name))?;
    let mut object = decode_cached(&found)?;
    meta::set(&mut object, "resourceVersion", None);
    // where the cache has moved on meanwhile, the revision does not hold any more, and nothing is written
    Ok(Guard::becomes(guard.key, guard.revision, object.to_string().into()))
}
