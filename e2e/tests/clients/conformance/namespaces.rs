//! "Namespaces should ...": what was in one is gone with it, and its finalizer, status and labels are written as any other's.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::wire::{PATIENCE, Wire};

super::tests!("namespaces":
    everything_in_it_is_removed_with_it,
    a_namespace_is_patched,
    a_namespace_is_updated,
    a_finalizer_is_set_and_removed,
    its_status_is_changed,
);

/// A second namespace beside the test's own.
async fn other(wire: &Wire) -> anyhow::Result<String> {
    let name = format!("{}-2", wire.namespace);
    wire.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?.ok()?;
    Ok(format!("/api/v1/namespaces/{name}"))
}

async fn everything_in_it_is_removed_with_it(wire: &Wire) -> anyhow::Result<()> {
    let namespace = other(wire).await?;
    let name = namespace.trim_start_matches("/api/v1/namespaces/");
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{name}/leases");
    let vms = format!("/apis/ucloud.ungleich.ch/v1alpha1/namespaces/{name}/vms");
    let vm = json!({"metadata": {"name": "a"}, "spec": {"cpus": 1, "memory": "1Gi", "disks": [{"name": "root", "image": "i"}]}});
    wire.post(&leases, &json!({"metadata": {"name": "a"}, "spec": {}})).await?.ok()?;
    wire.post(&vms, &vm).await?.ok()?;
    wire.delete(&namespace).await?.ok()?;
    let deadline = Instant::now() + PATIENCE;
    while wire.get(&namespace).await?.code != 404 {
        ensure!(Instant::now() < deadline, "it is still there: {:?}", wire.get(&namespace).await?.body);
        sleep(Duration::from_millis(50)).await;
    }
    // the same name again: nothing of the old one is in the new one
    other(wire).await?;
    for path in [leases, vms] {
        let left = wire.get(&path).await?.ok()?;
        ensure!(left["items"] == json!([]), "{left}");
    }
    Ok(())
}

async fn a_namespace_is_patched(wire: &Wire) -> anyhow::Result<()> {
    let namespace = other(wire).await?;
    wire.patch(&namespace, &json!({"metadata": {"labels": {"testLabel": "testValue"}}})).await?.ok()?;
    let patched = wire.get(&namespace).await?.ok()?;
    ensure!(patched["metadata"]["labels"]["testLabel"] == "testValue", "{patched}");
    Ok(())
}

async fn a_namespace_is_updated(wire: &Wire) -> anyhow::Result<()> {
    let namespace = other(wire).await?;
    let mut object = wire.get(&namespace).await?.ok()?;
    object["metadata"]["labels"]["updated"] = json!("yes");
    let headers = [("content-type", "application/json")];
    wire.send("PUT", &namespace, &headers, &object.to_string()).await?.ok()?;
    let updated = wire.get(&namespace).await?.ok()?;
    ensure!(updated["metadata"]["labels"]["updated"] == "yes", "{updated}");
    wire.send("PUT", &namespace, &headers, &object.to_string()).await?.failed(409, &["the object has been modified"])
}

async fn a_finalizer_is_set_and_removed(wire: &Wire) -> anyhow::Result<()> {
    let namespace = other(wire).await?;
    let finalize = async |finalizers: serde_json::Value| {
        let mut object = wire.get(&namespace).await?.ok()?;
        object["spec"]["finalizers"] = finalizers;
        let path = format!("{namespace}/finalize");
        wire.send("PUT", &path, &[("content-type", "application/json")], &object.to_string()).await?.ok()
    };
    let held = finalize(json!(["kubernetes", "e2e.example.com/fakeFinalizer"])).await?;
    ensure!(held["spec"]["finalizers"] == json!(["kubernetes", "e2e.example.com/fakeFinalizer"]), "{held}");
    let freed = finalize(json!(["kubernetes"])).await?;
    ensure!(freed["spec"]["finalizers"] == json!(["kubernetes"]), "{freed}");
    Ok(())
}

async fn its_status_is_changed(wire: &Wire) -> anyhow::Result<()> {
    let namespace = other(wire).await?;
    let status = format!("{namespace}/status");
    let read = wire.get(&status).await?.ok()?;
    ensure!(read["status"]["phase"] == "Active", "{read}");
    let condition =
        |reason: &str| json!([{"type": "StatusPatch", "status": "True", "reason": reason, "message": "e2e"}]);
    let patched = wire.patch(&status, &json!({"status": {"conditions": condition("Patched")}})).await?.ok()?;
    ensure!(patched["status"]["conditions"][0]["reason"] == "Patched", "{patched}");
    let mut object = patched;
    object["status"]["conditions"] = condition("Updated");
    let updated =
        wire.send("PUT", &status, &[("content-type", "application/json")], &object.to_string()).await?.ok()?;
    ensure!(updated["status"]["conditions"][0]["reason"] == "Updated", "{updated}");
    Ok(())
}
