//! The end of a definition: its objects are deleted as if a user deleted them, and when the last one is gone the finalizer
//! that holds the definition is taken off. Every server does this for itself; what another one did is found done.
//!
//! Objects of the kind are created only in transactions that find the definition as it was before its deletion began, so
//! what storage holds from then on only gets less.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use serde_json::Value;

use super::status::set_condition;
use super::{CLEANUP_FINALIZER, Crd, change_definition};
use crate::as_server::AsServer;
use crate::meta;
use crate::registry::{DeleteOptions, Freshness, Resource, storage_prefix};
use crate::rest::Api;
use crate::status::{ApiError, Reason};
use crate::storage::{StorageError, StoredValue};

/// How many objects are deleted at once.
const AT_ONCE: usize = 8;
/// The longest pause after a failure.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Deletes what is left of a kind, and then lets its definition go. Ends when the definition is gone.
pub(super) async fn run(api: Arc<Api>, crd: Arc<Crd>, resource: Option<Arc<Resource>>) {
    let backoff = || ExponentialBuilder::default().with_max_delay(PAUSE_MAX).with_jitter().without_max_times().build();
    let mut pauses = backoff();
    loop {
        let kind = api.store.cache.kind(&crd.prefix());
        // what changes from here on leads to another pass
        let changes = kind.and_then(|kind| kind.watch(None, kind.revision()).ok());
        match pass(&api, &crd, resource.as_deref()).await {
            Ok(true) => return,
            Ok(false) => {
                pauses = backoff();
                if let Some(mut changes) = changes {
                    // also where the watch ended: the next pass finds out why
                    let _ = changes.next().await;
                    continue;
                }
            }
            Err(error) if error.reason() == Reason::NotFound => return,
            Err(error) => tracing::warn!(definition = crd.name(), %error, "cannot delete the objects of a kind yet"),
        }
        tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
    }
}

/// Deletes what can be deleted; answers whether the definition is gone.
async fn pass(api: &Api, crd: &Crd, resource: Option<&Resource>) -> Result<bool, ApiError> {
    api.store.reach(Freshness::Consistent).await?;
    let server = AsServer::default();
    let found = stored(api, crd).await?;
    let mut deletions = Vec::new();
    for value in &found {
        deletions.push(delete(api, &server, crd, resource, value));
    }
    let outcomes: Vec<Result<(), ApiError>> = stream::iter(deletions).buffer_unordered(AT_ONCE).collect().await;
    outcomes.into_iter().collect::<Result<(), ApiError>>()?;

    let left = stored(api, crd).await?;
    let now = Timestamp::now();
    let told = left_over(&left, &crd.prefix());
    change_definition(api, crd, &mut |object| {
        if left.is_empty() {
            let finalizers = meta::finalizers(object).into_iter().filter(|name| *name != CLEANUP_FINALIZER);
            let finalizers: Vec<Value> = finalizers.map(Value::from).collect();
            meta::set(object, "finalizers", (!finalizers.is_empty()).then(|| finalizers.into()));
            set_condition(object, "Terminating", false, "InstanceDeletionCompleted", "removed all instances", now);
        } else {
            set_condition(object, "Terminating", true, "InstanceDeletionInProgress", &told, now);
        }
    })
    .await?;
    Ok(left.is_empty())
}

async fn stored(api: &Api, crd: &Crd) -> Result<Vec<StoredValue>, ApiError> {
    let listing = api.store.storage.list(&crd.prefix()).await;
    Ok(listing.map_err(|error| ApiError::unavailable(error.to_string()))?.values)
}

/// Deletes one object, or begins to.
async fn delete(
    api: &Api,
    server: &AsServer,
    crd: &Crd,
    resource: Option<&Resource>,
    value: &StoredValue,
) -> Result<(), ApiError> {
    let path = &value.key[crd.prefix().len()..];
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    let object = resource.and_then(|resource| Some((resource, api.store.cached(resource, namespace, name)?)));
    let Some((resource, object)) = object else {
        // nobody could read it, so nobody can be waiting for it
        return match api.store.storage.delete(&value.key, value.mod_revision, &[]).await {
            Ok(_) | Err(StorageError::NotFound { .. } | StorageError::Conflict { .. }) => Ok(()),
            Err(error) => Err(ApiError::unavailable(error.to_string())),
        };
    };
    let options = DeleteOptions { uid: Some(object.uid().to_owned()), ..DeleteOptions::default() };
    match server.write(&api.store, resource, "delete", "", namespace).delete(name, &options).await {
        Err(error) if !matches!(error.reason(), Reason::NotFound | Reason::Conflict) => Err(error),
        _ => Ok(()),
    }
}

/// How many objects are left, and who holds one of them.
fn left_over(left: &[StoredValue], prefix: &str) -> String {
    let held = left.iter().find_map(|value| {
        let object: Value = serde_json::from_slice(&value.value).ok()?;
        let finalizer = meta::finalizers(&object).first().map(|name| (*name).to_owned())?;
        Some(format!("{} is held by the finalizer {finalizer}", &value.key[prefix.len()..]))
    });
    let held = held.map(|held| format!("; {held}")).unwrap_or_default();
    format!("CustomResource deletion is in progress: {} objects are left{held}", left.len())
}

/// Where the objects of a kind are in storage.
pub(super) fn prefix(crd: &Crd) -> String {
    storage_prefix(&crd.typed.spec.group, &crd.typed.spec.names.plural)
}
