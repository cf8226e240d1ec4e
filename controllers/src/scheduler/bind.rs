//! The one write by which a VM gets its host.

use kube::{
    Client, Resource as _,
    api::PostParams,
    core::{Request, Status},
};
use serde_json::json;
use ucloud_types::{GROUP, VERSION, VM};

use crate::runtime::{
    Failure,
    failure::{ApiError, is_not_found, is_refusal},
    name_of, objects, uid_of,
};

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// The VM has this host. Another scheduler may have been faster, so it need not be the one that was asked for.
    Bound(String),
    /// The VM is not there any more.
    Gone,
}

/// Why the VM is not known to have a host.
#[derive(Debug)]
pub enum Unbound {
    /// It certainly has none by this attempt.
    Refused(Failure),
    /// It may have one.
    InDoubt(Failure),
}

/// Binds the VM to `host` with the next epoch, if it is still this VM, in this version, and has no host.
pub async fn bind(client: &Client, vm: &VM, host: &str) -> Result<Outcome, Unbound> {
    let doing = || format!("cannot bind VM {} to host {host}", name_of(vm));
    let meta = &vm.metadata;
    let epoch = vm.status.as_ref().and_then(|status| status.binding.as_ref()).map_or(0, |binding| binding.epoch) + 1;
    let body = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"),
        "kind": "VMBinding",
        "metadata": { "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version },
        "host": host,
        "epoch": epoch,
    });
    let name = meta.name.as_deref().unwrap_or_default();
    let request = Request::new(VM::url_path(&(), meta.namespace.as_deref()))
        .create_subresource("binding", name, &PostParams::default(), body.to_string().into_bytes())
        .map_err(|error| Unbound::Refused(Failure::api(doing(), kube::Error::BuildRequest(error))))?;
    match client.request_text(request).await {
        Ok(_) => Ok(Outcome::Bound(host.to_owned())),
        Err(error) if is_not_found(&error) => Ok(Outcome::Gone),
        Err(kube::Error::Api(status)) if status.code == 409 => settle(client, vm, doing(), status).await,
        // a host that has just gone is a refusal too, and passes with the next decision
        Err(kube::Error::Api(status)) if is_refusal(&status) => {
            Err(Unbound::Refused(Failure::Api { doing: doing(), source: ApiError::Refused(status) }))
        }
        Err(error) => Err(Unbound::InDoubt(Failure::api(doing(), error))),
    }
}

/// The server says that the VM is not what we believe. It may be bound: by another scheduler, or by an attempt of ours
/// whose reply was lost.
async fn settle(client: &Client, vm: &VM, doing: String, refusal: Box<Status>) -> Result<Outcome, Unbound> {
    let name = vm.metadata.name.as_deref().unwrap_or_default();
    let live: Option<VM> =
        objects::get(client, vm.metadata.namespace.as_deref(), name).await.map_err(Unbound::InDoubt)?;
    let Some(live) = live.filter(|live| uid_of(live) == uid_of(vm)) else {
        return Ok(Outcome::Gone);
    };
    match live.status.and_then(|status| status.binding) {
        Some(binding) => Ok(Outcome::Bound(binding.host)),
        None => Err(Unbound::Refused(Failure::api(doing, kube::Error::Api(refusal)))),
    }
}
