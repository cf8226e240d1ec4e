//! "Watchers should ...", the five of Kubernetes, with Leases in place of ConfigMaps.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::wire::{Event, Watch, Wire, version};

super::tests!("watch":
    observes_add_update_and_delete,
    starts_from_a_specific_version,
    restarts_from_the_last_version_observed,
    observes_a_deletion_when_the_selector_no_longer_matches,
    concurrent_watches_see_the_same_order,
);

fn leases(wire: &Wire) -> String {
    wire.path("/apis/coordination.k8s.io/v1", "leases")
}

async fn create(wire: &Wire, name: &str, label: &str) -> anyhow::Result<Value> {
    let object = json!({"metadata": {"name": name, "labels": {"watch-this": label}}, "spec": {}});
    wire.post(&leases(wire), &object).await?.ok()
}

async fn update(wire: &Wire, name: &str, holder: &str) -> anyhow::Result<Value> {
    wire.patch(&format!("{}/{name}", leases(wire)), &json!({"spec": {"holderIdentity": holder}})).await?.ok()
}

async fn delete(wire: &Wire, name: &str) -> anyhow::Result<()> {
    wire.delete(&format!("{}/{name}", leases(wire))).await?.ok().map(|_| ())
}

fn holder(event: &Event) -> &Value {
    &event.object["spec"]["holderIdentity"]
}

async fn observes_add_update_and_delete(wire: &Wire) -> anyhow::Result<()> {
    let mut a = wire.watch(&leases(wire), "labelSelector=watch-this%3Da").await?;
    let mut b = wire.watch(&leases(wire), "labelSelector=watch-this%3Db").await?;
    let mut both = wire.watch(&leases(wire), "labelSelector=watch-this+in+(a,b)").await?;

    create(wire, "one", "a").await?;
    for watch in [&mut a, &mut both] {
        watch.sees("ADDED", "one").await?;
    }
    for turn in ["1", "2"] {
        update(wire, "one", turn).await?;
        for watch in [&mut a, &mut both] {
            let event = watch.sees("MODIFIED", "one").await?;
            ensure!(holder(&event) == turn, "{event:?}");
        }
    }
    delete(wire, "one").await?;
    for watch in [&mut a, &mut both] {
        let event = watch.sees("DELETED", "one").await?;
        ensure!(holder(&event) == "2", "the last state is told: {event:?}");
    }
    create(wire, "two", "b").await?;
    delete(wire, "two").await?;
    // that it comes first shows that this watcher saw nothing of the other label
    b.sees("ADDED", "two").await?;
    b.sees("DELETED", "two").await?;
    both.sees("ADDED", "two").await?;
    both.sees("DELETED", "two").await?;
    create(wire, "three", "a").await?;
    a.sees("ADDED", "three").await.map(|_| ())
}

async fn starts_from_a_specific_version(wire: &Wire) -> anyhow::Result<()> {
    create(wire, "object", "from").await?;
    let first = update(wire, "object", "1").await?;
    update(wire, "object", "2").await?;
    delete(wire, "object").await?;
    let mut watch = wire.watch(&leases(wire), &format!("resourceVersion={}", version(&first))).await?;
    let event = watch.sees("MODIFIED", "object").await?;
    ensure!(holder(&event) == "2", "{event:?}");
    watch.sees("DELETED", "object").await.map(|_| ())
}

async fn restarts_from_the_last_version_observed(wire: &Wire) -> anyhow::Result<()> {
    let mut first = wire.watch(&leases(wire), "").await?;
    create(wire, "object", "restart").await?;
    update(wire, "object", "1").await?;
    first.sees("ADDED", "object").await?;
    let last = first.sees("MODIFIED", "object").await?;
    drop(first);

    update(wire, "object", "2").await?;
    let mut second = wire.watch(&leases(wire), &format!("resourceVersion={}", last.version())).await?;
    delete(wire, "object").await?;
    let event = second.sees("MODIFIED", "object").await?;
    ensure!(holder(&event) == "2", "{event:?}");
    second.sees("DELETED", "object").await.map(|_| ())
}

async fn observes_a_deletion_when_the_selector_no_longer_matches(wire: &Wire) -> anyhow::Result<()> {
    let mut watch = wire.watch(&leases(wire), "labelSelector=watch-this%3Dyes").await?;
    let label = async |label: &str| {
        let patch = json!({"metadata": {"labels": {"watch-this": label}}});
        wire.patch(&format!("{}/object", leases(wire)), &patch).await?.ok()
    };
    create(wire, "object", "yes").await?;
    update(wire, "object", "1").await?;
    label("no").await?;
    watch.sees("ADDED", "object").await?;
    watch.sees("MODIFIED", "object").await?;
    watch.sees("DELETED", "object").await?;

    // not seen until the label is back
    update(wire, "object", "2").await?;
    label("yes").await?;
    let event = watch.sees("ADDED", "object").await?;
    ensure!(holder(&event) == "2", "{event:?}");
    update(wire, "object", "3").await?;
    delete(wire, "object").await?;
    watch.sees("MODIFIED", "object").await?;
    watch.sees("DELETED", "object").await.map(|_| ())
}

async fn concurrent_watches_see_the_same_order(wire: &Wire) -> anyhow::Result<()> {
    const EVENTS: usize = 100;
    let mut first = wire.watch(&leases(wire), "").await?;
    let writes = async {
        for turn in 0..EVENTS {
            let name = format!("object-{}", turn % 7);
            match turn % 21 {
                0..7 => drop(create(wire, &name, "order").await?),
                7..14 => drop(update(wire, &name, &turn.to_string()).await?),
                _ => delete(wire, &name).await?,
            }
        }
        anyhow::Ok(())
    };
    let watches = async {
        let mut watches: Vec<Watch> = Vec::new();
        let mut last: Option<Event> = None;
        for number in 0..EVENTS {
            let event = first.next().await.with_context(|| format!("event {number}"))?;
            for watch in &mut watches {
                let other = watch.next().await?;
                ensure!(other == event, "one watch saw {other:?}, another {event:?}");
            }
            if let Some(last) = last.replace(event.clone()) {
                let (before, now): (u64, u64) = (last.version().parse()?, event.version().parse()?);
                ensure!(now > before, "{now} came after {before}");
            }
            // from each version on there is one watch more; enough of them is enough
            if watches.len() < 10 {
                watches.push(wire.watch(&leases(wire), &format!("resourceVersion={}", event.version())).await?);
            }
        }
        Ok(())
    };
    futures::try_join!(writes, watches).map(|_| ())
}
