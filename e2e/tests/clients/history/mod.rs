//! Writers, readers and watchers note what they see of a few objects, while etcd and the API server are stopped, killed and
//! compacted. In the end there must be one order of all writes and consistent reads that explains every answer, and
//! the watches must have told exactly that.

mod clients;
mod faults;

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use libtest_mimic::Trial;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{task::JoinSet, time::timeout};
use ucloud_e2e::{
    ControlPlane, Program,
    history::{register, watch},
};

use self::clients::Record;

const WRITERS: u64 = 4;
const READERS: u64 = 3;
const WATCHERS: u64 = 3;
/// After the last fault, watchers come to the end within this time.
const PATIENCE: Duration = Duration::from_mins(1);
/// Repeats a run, as far as chance decides about it.
const SEED: &str = "UCLOUD_TEST_SEED";

pub fn trials() -> Vec<Trial> {
    vec![crate::trial("history::writes_are_linearizable_and_watches_complete", run)]
}

fn run() -> anyhow::Result<()> {
    let seed = match env::var(SEED) {
        Ok(text) => text.parse().with_context(|| format!("{SEED} must be a number"))?,
        Err(_) => rand::rng().random(),
    };
    println!("history: {SEED}={seed}");
    let plane = ControlPlane::start(&[Program::Etcd, Program::Api])?;
    let runtime = tokio::runtime::Runtime::new()?;
    let checked = runtime.block_on(observe(plane, seed));
    checked.with_context(|| format!("{SEED}={seed} repeats it"))
}

async fn observe(plane: ControlPlane, seed: u64) -> anyhow::Result<()> {
    let client = client(&plane).await?;
    let record = Arc::new(Record::new());
    let mut busy = JoinSet::new();
    for number in 0..WRITERS {
        busy.spawn(clients::write(
            client.clone(),
            record.clone(),
            StdRng::seed_from_u64(seed ^ (1000 + number)),
            number,
        ));
    }
    for number in 0..READERS {
        busy.spawn(clients::read(client.clone(), record.clone(), StdRng::seed_from_u64(seed ^ (2000 + number))));
    }
    let mut watchers = JoinSet::new();
    for _ in 0..WATCHERS {
        watchers.spawn(clients::watch(client.clone(), record.clone()));
    }

    let told = record.clone();
    let faults = tokio::task::spawn_blocking(move || {
        let mut plane = plane;
        let done = faults::happen(&mut plane, &told, StdRng::seed_from_u64(seed));
        (plane, done)
    });
    let (plane, done) = faults.await?;
    record.ended.store(true, Ordering::SeqCst);
    while let Some(ended) = busy.join_next().await {
        ended??;
    }
    done?;

    let last = clients::last_write(&client).await?;
    record.last.store(last, Ordering::SeqCst);
    let mut seen = Vec::new();
    while let Some(watcher) =
        timeout(PATIENCE, watchers.join_next()).await.context("a watcher never came to the end")?
    {
        seen.push(watcher?);
    }
    drop(plane);
    check(&record, &seen)
}

fn check(record: &Record, seen: &[Vec<watch::Seen>]) -> anyhow::Result<()> {
    let operations = record.operations.lock().expect("nobody panicked").clone();
    let written = record.written.lock().expect("nobody panicked").clone();
    let lists = record.lists.lock().expect("nobody panicked").clone();
    let known: usize = operations.values().map(Vec::len).sum();
    let events: Vec<usize> = seen.iter().map(Vec::len).collect();
    println!(
        "history: {known} operations on {} objects, {} writes acknowledged, {} lists, watchers saw {events:?}",
        operations.len(),
        written.len(),
        lists.len()
    );
    // a run in which hardly anything was seen proves nothing
    ensure!(
        written.len() >= 100 && lists.len() >= 10 && events.iter().all(|events| *events >= 100),
        "too little was seen"
    );
    let contradiction = |problem: String| anyhow::anyhow!(problem);
    register::check(&operations).map_err(contradiction)?;
    watch::check(seen, &written).map_err(contradiction)?;
    for watcher in seen {
        for (version, objects) in &lists {
            watch::check_list(watcher, *version, objects).map_err(contradiction)?;
        }
    }
    one_version_per_write(record)
}

/// A write has one version, whoever sees it.
fn one_version_per_write(record: &Record) -> anyhow::Result<()> {
    let mut versions = BTreeMap::new();
    for (id, version) in record.versions.lock().expect("nobody panicked").iter() {
        let first = *versions.entry(*id).or_insert(*version);
        ensure!(first == *version, "write {id} was seen at {first} and at {version}");
    }
    Ok(())
}

async fn client(plane: &ControlPlane) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig())?;
    let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // the history must hold each request
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
