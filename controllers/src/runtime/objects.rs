//! Live reads, and writes that are refused if the object is not what the writer believes.
//!
//! A read here goes to the server, and with no resourceVersion given the server answers with the newest state. Every
//! write carries the UID and the resourceVersion on which it was decided; a lost race is [`Failure::Conflict`].

use kube::{
    Client,
    api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
    core::{ObjectList, Request},
};
use serde_json::json;

use super::{
    Failure, Kind,
    failure::{ApiError, is_not_found},
    name_of,
};

fn request<K: Kind>(namespace: Option<&str>) -> Request {
    Request::new(K::url_path(&(), namespace))
}

fn unbuildable(doing: String, error: kube::core::request::Error) -> Failure {
    Failure::Api { doing, source: ApiError::NoAnswer(Box::new(kube::Error::BuildRequest(error))) }
}

fn describe<K: Kind>(verb: &str, namespace: Option<&str>, name: &str) -> String {
    let kind = K::kind(&());
    match namespace {
        Some(namespace) => format!("cannot {verb} {kind} {namespace}/{name}"),
        None => format!("cannot {verb} {kind} {name}"),
    }
}

/// The object as it is on the server; none if it is not there.
pub async fn get<K: Kind>(client: &Client, namespace: Option<&str>, name: &str) -> Result<Option<K>, Failure> {
    let doing = || describe::<K>("read", namespace, name);
    let request = request::<K>(namespace).get(name, &GetParams::default()).map_err(|e| unbuildable(doing(), e))?;
    match client.request(request).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(Failure::api(doing(), error)),
    }
}

/// All objects of the kind that the field selector leaves, as they are on the server. One that cannot be read fails the
/// whole list: whoever asks wants to prove that something is not there.
pub async fn list<K: Kind>(client: &Client, namespace: Option<&str>, fields: Option<&str>) -> Result<Vec<K>, Failure> {
    let doing = || format!("cannot list {}", K::plural(&()));
    let selection = ListParams { field_selector: fields.map(str::to_owned), ..ListParams::default() };
    let request = request::<K>(namespace).list(&selection).map_err(|e| unbuildable(doing(), e))?;
    let list: ObjectList<K> = client.request(request).await.map_err(|e| Failure::api(doing(), e))?;
    Ok(list.items)
}

/// Creates the object. An existing one of the same name is [`Failure::Conflict`].
pub async fn create<K: Kind>(client: &Client, object: &K) -> Result<K, Failure> {
    let meta = object.meta();
    let doing = || describe::<K>("create", meta.namespace.as_deref(), meta.name.as_deref().unwrap_or_default());
    let body = serde_json::to_vec(object).map_err(|e| Failure::Api {
        doing: doing(),
        source: ApiError::NoAnswer(Box::new(kube::Error::SerdeError(e))),
    })?;
    let request = request::<K>(meta.namespace.as_deref())
        .create(&PostParams::default(), body)
        .map_err(|e| unbuildable(doing(), e))?;
    client.request(request).await.map_err(|e| Failure::api(doing(), e))
}

/// Deletes the object, if it is still this one in this version. One that is gone already is no failure.
pub async fn delete<K: Kind>(client: &Client, object: &K) -> Result<(), Failure> {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let doing = || describe::<K>("delete", meta.namespace.as_deref(), name);
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid: meta.uid.clone(), resource_version: meta.resource_version.clone() }),
        ..DeleteParams::default()
    };
    let request = request::<K>(meta.namespace.as_deref()).delete(name, &params).map_err(|e| unbuildable(doing(), e))?;
    match client.request_text(request).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Failure::api(doing(), error)),
    }
}

/// Adds the finalizer, and gives the object as it is then. Writes nothing if it is there.
pub async fn ensure_finalizer<K: Kind>(client: &Client, object: &K, finalizer: &str) -> Result<K, Failure> {
    let present = object.meta().finalizers.clone().unwrap_or_default();
    if present.iter().any(|f| f == finalizer) {
        return Ok(object.clone());
    }
    let wanted = present.into_iter().chain([finalizer.to_owned()]).collect();
    write_finalizers(client, object, wanted).await
}

/// Takes the finalizer away. Writes nothing if it is not there.
pub async fn drop_finalizer<K: Kind>(client: &Client, object: &K, finalizer: &str) -> Result<(), Failure> {
    let present = object.meta().finalizers.clone().unwrap_or_default();
    if !present.iter().any(|f| f == finalizer) {
        return Ok(());
    }
    let wanted = present.into_iter().filter(|f| f != finalizer).collect();
    match write_finalizers(client, object, wanted).await {
        Err(Failure::Api { source: ApiError::Refused(status), .. }) if status.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}

async fn write_finalizers<K: Kind>(client: &Client, object: &K, wanted: Vec<String>) -> Result<K, Failure> {
    let meta = object.meta();
    let doing = || format!("cannot change the finalizers of {} {}", K::kind(&()), name_of(object));
    let patch = json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "finalizers": wanted,
    }});
    let request = request::<K>(meta.namespace.as_deref())
        .patch(meta.name.as_deref().unwrap_or_default(), &PatchParams::default(), &Patch::Merge(patch))
        .map_err(|e| unbuildable(doing(), e))?;
    client.request(request).await.map_err(|e| Failure::api(doing(), e))
}

/// Changes fields of the status of the object (RFC 7396), whoever wrote them, if it is still this one in this version: for
/// what its writer cannot change any more. One that is gone already is no failure.
pub async fn merge_status<K: Kind>(client: &Client, object: &K, status: serde_json::Value) -> Result<(), Failure> {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let doing = || format!("cannot change the status of {} {}", K::kind(&()), name_of(object));
    let patch = json!({
        "metadata": { "uid": meta.uid, "resourceVersion": meta.resource_version },
        "status": status,
    });
    let request = request::<K>(meta.namespace.as_deref())
        .patch_subresource("status", name, &PatchParams::default(), &Patch::Merge(patch))
        .map_err(|e| unbuildable(doing(), e))?;
    match client.request_text(request).await {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Failure::api(doing(), error)),
    }
}

/// Applies the manager's part of the status of the object (server-side), if it is still this one in this version. What
/// others own of it is taken: each part has one writer at a time, and this is the one.
pub(super) async fn apply_status<K: Kind>(
    client: &Client,
    object: &K,
    manager: &str,
    status: serde_json::Value,
) -> Result<(), Failure> {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let doing = || format!("cannot write the status of {} {}", K::kind(&()), name_of(object));
    let config = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": name, "uid": meta.uid, "resourceVersion": meta.resource_version },
        "status": status,
    });
    let request = request::<K>(meta.namespace.as_deref())
        .patch_subresource("status", name, &PatchParams::apply(manager).force(), &Patch::Apply(config))
        .map_err(|e| unbuildable(doing(), e))?;
    match client.request_text(request).await {
        Ok(_) => Ok(()),
        // what is gone needs no status
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(Failure::api(doing(), error)),
    }
}
