//! "Garbage collector should ...". ConfigMaps that own others take the places of Deployments, ReplicaSets, ReplicationControllers and Pods.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::wire::{PATIENCE, Wire};

super::tests!("garbage_collection":
    background_deletes_dependents_of_dependents,
    background_deletes_dependents,
    foreground_keeps_the_owner_until_its_dependents_are_gone,
    a_circle_of_owners_blocks_nothing,
    a_dependent_with_another_valid_owner_stays,
    orphan_leaves_dependents_of_dependents,
    orphan_leaves_dependents,
);

fn config_maps(wire: &Wire) -> String {
    wire.path("/api/v1", "configmaps")
}

async fn create(wire: &Wire, name: &str, owners: &[&Value]) -> anyhow::Result<Value> {
    let object = json!({"metadata": {"name": name, "ownerReferences": references(owners)}});
    wire.post(&config_maps(wire), &object).await?.ok()
}

fn references(owners: &[&Value]) -> Vec<Value> {
    let reference = |owner: &&Value| {
        let metadata = &owner["metadata"];
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "name": metadata["name"], "uid": metadata["uid"],
            "blockOwnerDeletion": true,
        })
    };
    owners.iter().map(reference).collect()
}

async fn delete(wire: &Wire, name: &str, policy: &str) -> anyhow::Result<()> {
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    let path = format!("{}/{name}", config_maps(wire));
    wire.send("DELETE", &path, &[("content-type", "application/json")], &options.to_string()).await?.ok().map(|_| ())
}

/// All that there is, by name.
async fn all(wire: &Wire) -> anyhow::Result<Vec<Value>> {
    let list = wire.get(&config_maps(wire)).await?.ok()?;
    list["items"].as_array().cloned().context("a list without items")
}

/// Waits until it holds of all that there is.
async fn until(wire: &Wire, what: &str, holds: impl Fn(&[Value]) -> bool) -> anyhow::Result<Vec<Value>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let objects = all(wire).await?;
        if holds(&objects) {
            return Ok(objects);
        }
        ensure!(Instant::now() < deadline, "it never came about that {what}: there is {objects:?}");
        sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn names(objects: &[Value]) -> Vec<&str> {
    objects.iter().filter_map(|object| object["metadata"]["name"].as_str()).collect()
}

/// An object that is deleted last: when it is gone, the collector has seen all that was deleted before it.
async fn settle(wire: &Wire) -> anyhow::Result<()> {
    let owner = create(wire, "settle-owner", &[]).await?;
    create(wire, "settle", &[&owner]).await?;
    delete(wire, "settle-owner", "Background").await?;
    until(wire, "the collector has come so far", |objects| !names(objects).contains(&"settle")).await.map(|_| ())
}

async fn background_deletes_dependents_of_dependents(wire: &Wire) -> anyhow::Result<()> {
    let deployment = create(wire, "deployment", &[]).await?;
    let set = create(wire, "set", &[&deployment]).await?;
    for pod in ["pod-1", "pod-2"] {
        create(wire, pod, &[&set]).await?;
    }
    delete(wire, "deployment", "Background").await?;
    until(wire, "all are gone", <[Value]>::is_empty).await.map(|_| ())
}

async fn background_deletes_dependents(wire: &Wire) -> anyhow::Result<()> {
    let controller = create(wire, "controller", &[]).await?;
    for number in 0..10 {
        create(wire, &format!("pod-{number}"), &[&controller]).await?;
    }
    delete(wire, "controller", "Background").await?;
    wire.get(&format!("{}/controller", config_maps(wire))).await?.failed(404, &[])?;
    until(wire, "all are gone", <[Value]>::is_empty).await.map(|_| ())
}

async fn foreground_keeps_the_owner_until_its_dependents_are_gone(wire: &Wire) -> anyhow::Result<()> {
    let controller = create(wire, "controller", &[]).await?;
    for number in 0..10 {
        create(wire, &format!("pod-{number}"), &[&controller]).await?;
    }
    // one of them cannot go yet
    let held = format!("{}/pod-0", config_maps(wire));
    wire.patch(&held, &json!({"metadata": {"finalizers": ["example.com/hold"]}})).await?.ok()?;
    delete(wire, "controller", "Foreground").await?;
    let left = until(wire, "all go that can", |objects| objects.len() == 2).await?;
    ensure!(names(&left) == ["controller", "pod-0"], "{left:?}");
    let finalizers = &left[0]["metadata"]["finalizers"];
    ensure!(finalizers == &json!(["foregroundDeletion"]), "{finalizers}");
    settle(wire).await?;
    ensure!(names(&all(wire).await?) == ["controller", "pod-0"], "the owner did not wait");
    wire.patch(&held, &json!({"metadata": {"finalizers": null}})).await?.ok()?;
    until(wire, "all are gone", <[Value]>::is_empty).await.map(|_| ())
}

async fn a_circle_of_owners_blocks_nothing(wire: &Wire) -> anyhow::Result<()> {
    let mut pods = Vec::new();
    for number in 1..=3 {
        pods.push(create(wire, &format!("pod-{number}"), &[]).await?);
    }
    for (pod, owner) in [(0, 2), (1, 0), (2, 1)] {
        let patch = json!({"metadata": {"ownerReferences": references(&[&pods[owner]])}});
        wire.patch(&format!("{}/pod-{}", config_maps(wire), pod + 1), &patch).await?.ok()?;
    }
    delete(wire, "pod-1", "Foreground").await?;
    until(wire, "all are gone", <[Value]>::is_empty).await.map(|_| ())
}

async fn a_dependent_with_another_valid_owner_stays(wire: &Wire) -> anyhow::Result<()> {
    let first = create(wire, "first", &[]).await?;
    let second = create(wire, "second", &[]).await?;
    for number in 0..10 {
        let owners = if number % 2 == 0 { vec![&first] } else { vec![&first, &second] };
        create(wire, &format!("pod-{number}"), &owners).await?;
    }
    delete(wire, "first", "Foreground").await?;
    until(wire, "the first owner is gone", |objects| !names(objects).contains(&"first")).await?;
    settle(wire).await?;
    let left = all(wire).await?;
    ensure!(names(&left) == ["pod-1", "pod-3", "pod-5", "pod-7", "pod-9", "second"], "{left:?}");
    ensure!(left.iter().all(|object| object["metadata"]["deletionTimestamp"].is_null()), "{left:?}");
    Ok(())
}

fn has_owner(object: &Value) -> bool {
    object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty())
}

async fn orphan_leaves_dependents_of_dependents(wire: &Wire) -> anyhow::Result<()> {
    let deployment = create(wire, "deployment", &[]).await?;
    let set = create(wire, "set", &[&deployment]).await?;
    create(wire, "pod", &[&set]).await?;
    delete(wire, "deployment", "Orphan").await?;
    until(wire, "the owner is gone", |objects| !names(objects).contains(&"deployment")).await?;
    settle(wire).await?;
    let left = all(wire).await?;
    ensure!(names(&left) == ["pod", "set"] && has_owner(&left[0]) && !has_owner(&left[1]), "{left:?}");
    Ok(())
}

async fn orphan_leaves_dependents(wire: &Wire) -> anyhow::Result<()> {
    let controller = create(wire, "controller", &[]).await?;
    for number in 0..10 {
        create(wire, &format!("pod-{number}"), &[&controller]).await?;
    }
    delete(wire, "controller", "Orphan").await?;
    until(wire, "the owner is gone", |objects| !names(objects).contains(&"controller")).await?;
    settle(wire).await?;
    let left = all(wire).await?;
    ensure!(left.len() == 10 && !left.iter().any(has_owner), "{left:?}");
    Ok(())
}
