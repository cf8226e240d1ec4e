//! "Servers with support for API chunking should ...".

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use ucloud_e2e::{ControlPlane, Program};

use super::wire::{Wire, version};

super::tests!("chunking": lists_come_in_chunks);

/// This test needs a control plane of its own.
pub const ALONE: (&str, fn() -> anyhow::Result<()>) =
    ("chunking::a_list_goes_on_when_its_version_has_been_compacted", compacted);

const TOTAL: usize = 400;

fn leases(wire: &Wire) -> String {
    wire.path("/apis/coordination.k8s.io/v1", "leases")
}

async fn fill(wire: &Wire) -> anyhow::Result<()> {
    let path = leases(wire);
    for start in (0..TOTAL).step_by(20) {
        let create = |number: usize| {
            let object = json!({"metadata": {"name": format!("template-{number:04}")}, "spec": {}});
            let path = path.clone();
            async move { wire.post(&path, &object).await?.ok() }
        };
        futures::future::try_join_all((start..start + 20).map(create)).await?;
    }
    Ok(())
}

/// A page: its items are checked to be those that follow the `found` that have been seen.
async fn page(wire: &Wire, limit: usize, token: &str, found: &mut usize) -> anyhow::Result<Value> {
    let list = wire.get(&format!("{}?limit={limit}&continue={token}", leases(wire))).await?.ok()?;
    let items = list["items"].as_array().context("a list without items")?;
    ensure!(items.len() <= limit, "{} items, where {limit} were asked for", items.len());
    for item in items {
        let name = &item["metadata"]["name"];
        ensure!(*name == format!("template-{found:04}"), "{name} comes after {found} others");
        *found += 1;
    }
    match next(&list) {
        "" => ensure!(list["metadata"]["remainingItemCount"].is_null(), "{}", list["metadata"]),
        _ => ensure!(list["metadata"]["remainingItemCount"] == TOTAL - *found, "{} after {found}", list["metadata"]),
    }
    Ok(list)
}

fn next(list: &Value) -> &str {
    list["metadata"]["continue"].as_str().unwrap_or_default()
}

async fn lists_come_in_chunks(wire: &Wire) -> anyhow::Result<()> {
    fill(wire).await?;
    for limit in [1 + TOTAL / 10, 17, 40] {
        let (mut found, mut token, mut at) = (0, String::new(), None);
        loop {
            let list = page(wire, limit, &token, &mut found).await?;
            let first = at.get_or_insert_with(|| version(&list).to_owned());
            ensure!(first == version(&list), "one page is of {first}, another of {}", version(&list));
            token = next(&list).to_owned();
            if token.is_empty() {
                break;
            }
            // what changes meanwhile is in no page
            let extra = json!({"metadata": {"name": format!("a-{found}-{limit}")}, "spec": {}});
            wire.post(&leases(wire), &extra).await?.ok()?;
        }
        ensure!(found == TOTAL, "{found} of {TOTAL}");
        for number in wire.get(&leases(wire)).await?.ok()?["items"].as_array().context("no items")? {
            let name = number["metadata"]["name"].as_str().unwrap_or_default();
            if name.starts_with("a-") {
                wire.delete(&format!("{}/{name}", leases(wire))).await?.ok()?;
            }
        }
    }
    let mut found = 0;
    page(wire, TOTAL + 1, "", &mut found).await?;
    ensure!(found == TOTAL, "{found} of {TOTAL} at once");
    Ok(())
}

fn compacted() -> anyhow::Result<()> {
    let mut plane = ControlPlane::start(&[Program::Etcd, Program::Api])?;
    let runtime = tokio::runtime::Runtime::new()?;
    let wire = runtime.block_on(Wire::new(&plane, "chunking"))?;
    let first = runtime.block_on(begin(&wire))?;
    plane.kill(Program::Api)?;
    plane.compact()?;
    plane.start_again(Program::Api)?;
    runtime.block_on(go_on(&wire, &first))
}

const LIMIT: usize = TOTAL / 10;

/// The first page; then something happens.
async fn begin(wire: &Wire) -> anyhow::Result<Value> {
    fill(wire).await?;
    let first = page(wire, LIMIT, "", &mut 0).await?;
    wire.patch(&format!("{}/template-0399", leases(wire)), &json!({"metadata": {"labels": {"a": "b"}}})).await?.ok()?;
    Ok(first)
}

async fn go_on(wire: &Wire, first: &Value) -> anyhow::Result<()> {
    let expired = wire.get(&format!("{}?limit={LIMIT}&continue={}", leases(wire), next(first))).await?;
    let token = next(&expired.body).to_owned();
    expired.failed(410, &[])?;
    ensure!(!token.is_empty(), "the refusal has no token to go on with");

    let mut found = LIMIT;
    let mut list = page(wire, LIMIT, &token, &mut found).await?;
    ensure!(version(&list) != version(first), "it is of another version now");
    let at = version(&list).to_owned();
    while !next(&list).is_empty() {
        list = page(wire, LIMIT, next(&list), &mut found).await?;
        ensure!(version(&list) == at, "one page is of {at}, another of {}", version(&list));
    }
    ensure!(found == TOTAL, "{found} of {TOTAL}");
    Ok(())
}
