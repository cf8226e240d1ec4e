//! "ResourceQuota should ...": those of its tests that are about the quota itself, and about kinds that ucloud serves. A VM takes the place of a
//! Pod.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::wire::{PATIENCE, Wire};

super::tests!("resource_quota":
    its_status_is_calculated,
    it_captures_the_life_of_a_config_map,
    it_captures_the_life_of_a_secret,
    it_captures_the_life_of_a_vm,
    it_is_updated_and_deleted,
    its_life_cycle,
    its_status_is_changed,
);

fn quotas(wire: &Wire) -> String {
    wire.path("/api/v1", "resourcequotas")
}

async fn create(wire: &Wire, hard: &Value) -> anyhow::Result<String> {
    let quota = json!({"metadata": {"name": "quota", "labels": {"quota": "test"}}, "spec": {"hard": hard}});
    wire.post(&quotas(wire), &quota).await?.ok()?;
    Ok(format!("{}/quota", quotas(wire)))
}

/// Waits until the status says that this is used.
async fn used(wire: &Wire, resource: &str, amount: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let quota = wire.get(&format!("{}/quota", quotas(wire))).await?.ok()?;
        if quota["status"]["used"][resource] == amount && quota["status"]["hard"] == quota["spec"]["hard"] {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "it never came about that {amount} of {resource} are used: {quota}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn its_status_is_calculated(wire: &Wire) -> anyhow::Result<()> {
    create(wire, &json!({"count/resourcequotas": "5", "count/configmaps": "10"})).await?;
    used(wire, "count/configmaps", "0").await?;
    used(wire, "count/resourcequotas", "1").await
}

async fn life(wire: &Wire, resource: &str, path: &str, object: &Value) -> anyhow::Result<()> {
    let resource = format!("count/{resource}");
    create(wire, &json!({&resource: "1"})).await?;
    used(wire, &resource, "0").await?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    wire.post(path, object).await?.ok()?;
    used(wire, &resource, "1").await?;
    let mut second = object.clone();
    second["metadata"]["name"] = json!("second");
    wire.post(path, &second).await?.failed(403, &["exceeded quota: quota", &resource])?;
    wire.delete(&format!("{path}/{name}")).await?.ok()?;
    used(wire, &resource, "0").await?;
    wire.post(path, &second).await?.ok().map(|_| ())
}

async fn it_captures_the_life_of_a_config_map(wire: &Wire) -> anyhow::Result<()> {
    life(wire, "configmaps", &wire.path("/api/v1", "configmaps"), &json!({"metadata": {"name": "first"}})).await
}

async fn it_captures_the_life_of_a_secret(wire: &Wire) -> anyhow::Result<()> {
    life(wire, "secrets", &wire.path("/api/v1", "secrets"), &json!({"metadata": {"name": "first"}})).await
}

fn vm(name: &str, cpus: u32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"cpus": cpus, "memory": "1Gi", "disks": [{"name": "root", "image": "i"}]},
    })
}

async fn it_captures_the_life_of_a_vm(wire: &Wire) -> anyhow::Result<()> {
    let vms = wire.path("/apis/ucloud.ungleich.ch/v1alpha1", "vms");
    create(wire, &json!({"requests.cpu": "3"})).await?;
    used(wire, "requests.cpu", "0").await?;
    wire.post(&vms, &vm("first", 2)).await?.ok()?;
    used(wire, "requests.cpu", "2").await?;
    wire.post(&vms, &vm("second", 2)).await?.failed(403, &["exceeded quota: quota"])?;
    // one that grows is measured too
    wire.patch(&format!("{vms}/first"), &json!({"spec": {"cpus": 4}}))
        .await?
        .failed(403, &["exceeded quota: quota"])?;
    wire.delete(&format!("{vms}/first")).await?.ok()?;
    used(wire, "requests.cpu", "0").await
}

async fn it_is_updated_and_deleted(wire: &Wire) -> anyhow::Result<()> {
    let path = create(wire, &json!({"requests.cpu": "1", "requests.memory": "500Mi"})).await?;
    let mut quota = wire.get(&path).await?.ok()?;
    quota["spec"]["hard"] = json!({"requests.cpu": "2", "requests.memory": "1Gi"});
    let headers = [("content-type", "application/json")];
    // its status may be written meanwhile, as a quota's is
    quota["metadata"]["resourceVersion"] = Value::Null;
    wire.send("PUT", &path, &headers, &quota.to_string()).await?.ok()?;
    used(wire, "requests.cpu", "0").await?;
    let updated = wire.get(&path).await?.ok()?;
    ensure!(updated["status"]["hard"]["requests.cpu"] == "2", "{updated}");
    wire.delete(&path).await?.ok()?;
    wire.get(&path).await?.failed(404, &["not found"])
}

async fn its_life_cycle(wire: &Wire) -> anyhow::Result<()> {
    let path = create(wire, &json!({"requests.cpu": "1"})).await?;
    let found = async || {
        anyhow::Ok(wire.get("/api/v1/resourcequotas?labelSelector=quota%3Dlife").await?.ok()?["items"].clone())
    };
    ensure!(found().await? == json!([]));
    wire.patch(&path, &json!({"metadata": {"labels": {"quota": "life"}}, "spec": {"hard": {"requests.cpu": "3"}}}))
        .await?
        .ok()?;
    let list = found().await?;
    ensure!(list[0]["spec"]["hard"]["requests.cpu"] == "3" && list[1].is_null(), "{list}");
    wire.delete(&format!("{}?labelSelector=quota%3Dlife", quotas(wire))).await?.ok()?;
    ensure!(found().await? == json!([]), "all that were selected are deleted");
    Ok(())
}

async fn its_status_is_changed(wire: &Wire) -> anyhow::Result<()> {
    let path = create(wire, &json!({"requests.cpu": "1"})).await?;
    used(wire, "requests.cpu", "0").await?;
    let status = format!("{path}/status");
    let read = wire.get(&status).await?.ok()?;
    ensure!(read["status"]["hard"] == read["spec"]["hard"], "{read}");
    let patched = wire
        .patch(&status, &json!({"status": {"hard": {"requests.cpu": "9"}}, "spec": {"hard": {"requests.cpu": "9"}}}))
        .await?
        .ok()?;
    ensure!(patched["spec"]["hard"]["requests.cpu"] == "1", "the spec is not a part of the status: {patched}");
    // what the controller knows better, it says again
    used(wire, "requests.cpu", "0").await
}
