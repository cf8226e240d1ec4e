//! A server with clients, and the objects that tests put into it.

use std::time::Duration;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
    core::{GroupVersionKind, Status},
};
use serde_json::{Value, json};
use ucloud_api::in_process::InProcess;
use ucloud_types::{GROUP, Host, VERSION, VM};

/// Nothing that a test waits for takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until the condition holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.unwrap_or_else(|_| panic!("it never came about that {what}"));
}

/// A server.
pub async fn start() -> InProcess {
    InProcess::start().await.unwrap()
}

/// VMs of the namespace `default`.
pub fn vms(client: &Client) -> Api<VM> {
    Api::namespaced(client.clone(), "default")
}

/// A kind of ucloud whose objects are written as JSON, right or wrong, in `default` where it has namespaces.
pub fn untyped(client: &Client, kind: &str, plural: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind), plural);
    match kind {
        "Host" | "NetworkPool" | "StoragePool" | "NetworkAllocation" | "Orphan" => {
            Api::all_with(client.clone(), &resource)
        }
        _ => Api::namespaced_with(client.clone(), "default", &resource),
    }
}

/// Any object of ucloud.
pub fn object(kind: &str, name: &str, spec: impl Into<Value>) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind, "metadata": {"name": name}, "spec": spec.into(),
    }))
    .unwrap()
}

/// The spec of a VM that nothing is wrong with.
pub fn vm_spec() -> Value {
    json!({"cpus": 1, "memory": "512Mi", "disks": [{"name": "root", "image": "images/debian"}]})
}

/// Creates an object of any kind.
pub async fn create(client: &Client, kind: &str, plural: &str, name: &str, spec: Value) -> kube::Result<DynamicObject> {
    untyped(client, kind, plural).create(&PostParams::default(), &object(kind, name, spec)).await
}

/// Creates a VM.
pub async fn create_vm(client: &Client, name: &str, spec: Value) -> VM {
    create(client, "VM", "vms", name, spec).await.unwrap();
    vms(client).get(name).await.unwrap()
}

/// Creates a Host.
pub async fn create_host(client: &Client, name: &str) {
    let host: Host = serde_json::from_value(json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": "Host", "metadata": {"name": name}, "spec": {"roles": ["compute"]},
    }))
    .unwrap();
    Api::all(client.clone()).create(&PostParams::default(), &host).await.unwrap();
}

/// `POST` to a subresource of a VM in `default`.
pub async fn post(client: &Client, vm: &str, subresource: &str, body: &Value) -> kube::Result<Value> {
    let path = format!("/apis/{GROUP}/{VERSION}/namespaces/default/vms/{vm}/{subresource}");
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let request = http::Request::post(path).header("content-type", "application/json").body(body).unwrap();
    client.request(request).await
}

/// Binds a VM as the scheduler does.
pub async fn bind(client: &Client, vm: &VM, host: &str) -> kube::Result<Value> {
    let binding = ucloud_api::subresources::VMBinding::next(vm, host);
    let name = vm.metadata.name.as_deref().unwrap();
    post(client, name, "binding", &serde_json::to_value(binding).unwrap()).await
}

/// The `Status` with which a request was refused.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: kube::Result<T>) -> Box<Status> {
    match result.unwrap_err() {
        kube::Error::Api(status) => status,
        other => panic!("the request did not get an answer: {other:?}"),
    }
}

/// The fields that a `Status` finds at fault.
pub fn fields(status: &Status) -> Vec<&str> {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    causes.iter().map(|cause| cause.field.as_str()).collect()
}
