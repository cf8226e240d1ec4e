//! Informers of three client libraries that others have written follow one kind while objects come, change and go, and while etcd's history
//! is compacted, the API server is stopped and killed, and etcd is stopped and killed. After each fault each of them sees what is
//! written then, and in the end each holds exactly what is stored.

mod library;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::runtime::Runtime;
use ucloud_e2e::{ControlPlane, Program, eventually};

use self::library::Library;

/// What an informer holds: names and resourceVersions.
type State = BTreeMap<String, String>;

const NAMESPACE: &str = "default";
/// How many objects the writer changes.
const OBJECTS: u32 = 20;
/// The writer's pause after each write.
const PACE: Duration = Duration::from_millis(30);
/// Libraries wait longer from one attempt to the next, some up to half a minute.
const PATIENCE: Duration = Duration::from_mins(2);

type Fault = fn(&mut ControlPlane) -> anyhow::Result<()>;

const FAULTS: [(&str, Fault); 5] = [
    ("compaction", compaction),
    ("api-restart", api_restart),
    ("api-kill-and-compaction", api_kill_and_compaction),
    ("etcd-pause", etcd_pause),
    ("etcd-restart", etcd_restart),
];

pub fn trials() -> Vec<Trial> {
    vec![crate::trial("informers::three_libraries_follow_through_faults", follow_through_faults)]
}

fn follow_through_faults() -> anyhow::Result<()> {
    let mut plane = ControlPlane::start(&[Program::Etcd, Program::Api])?;
    let runtime = Runtime::new()?;
    let leases = runtime.block_on(leases(&plane))?;
    for number in 0..OBJECTS {
        runtime.block_on(leases.create(&PostParams::default(), &lease(&format!("object-{number}"))))?;
    }
    let libraries =
        [Library::kube_rs(&runtime, leases.clone()), Library::python(&plane)?, Library::javascript(&plane)?];
    see(&libraries, "the first objects", |state| state.len() >= OBJECTS as usize)?;

    let ended = Arc::new(AtomicBool::new(false));
    let writer = runtime.spawn(write(leases.clone(), ended.clone()));
    for (name, fault) in FAULTS {
        fault(&mut plane).context(name)?;
        // no writer touches it
        let marker = format!("after-{name}");
        runtime.block_on(leases.create(&PostParams::default(), &lease(&marker)))?;
        see(&libraries, &marker, |state| state.contains_key(&marker))?;
    }
    ended.store(true, Ordering::SeqCst);
    runtime.block_on(writer)?;

    let stored = runtime.block_on(stored(&leases))?;
    see(&libraries, "what is stored", |state| *state == stored).with_context(|| format!("stored are {stored:?}"))
}

fn compaction(plane: &mut ControlPlane) -> anyhow::Result<()> {
    plane.compact()
}

fn api_restart(plane: &mut ControlPlane) -> anyhow::Result<()> {
    plane.terminate(Program::Api)?;
    plane.start_again(Program::Api)
}

/// The history that watchers want to go on from is gone when the server comes back.
fn api_kill_and_compaction(plane: &mut ControlPlane) -> anyhow::Result<()> {
    plane.kill(Program::Api)?;
    plane.compact()?;
    plane.start_again(Program::Api)
}

fn etcd_pause(plane: &mut ControlPlane) -> anyhow::Result<()> {
    plane.signal(Program::Etcd, Signal::SIGSTOP)?;
    std::thread::sleep(Duration::from_secs(3));
    plane.signal(Program::Etcd, Signal::SIGCONT)
}

fn etcd_restart(plane: &mut ControlPlane) -> anyhow::Result<()> {
    plane.kill(Program::Etcd)?;
    plane.start_again(Program::Etcd)
}

/// Waits until each library's informer holds what it should.
fn see(libraries: &[Library], what: &str, holds: impl Fn(&State) -> bool) -> anyhow::Result<()> {
    for library in libraries {
        eventually(&format!("{} sees {what}", library.name), PATIENCE, || {
            let state = library.state()?;
            Ok(if holds(&state) { Ok(()) } else { Err(format!("it holds {state:?}")) })
        })?;
        println!("informers: {} sees {what}", library.name);
    }
    Ok(())
}

async fn leases(plane: &ControlPlane) -> anyhow::Result<Api<Lease>> {
    let kubeconfig = Kubeconfig::read_from(plane.kubeconfig())?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Api::namespaced(Client::try_from(config)?, NAMESPACE))
}

fn lease(name: &str) -> Lease {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    Lease { metadata, spec: Some(LeaseSpec::default()) }
}

/// Creates, changes and deletes; what fails while the server is away is left.
async fn write(leases: Api<Lease>, ended: Arc<AtomicBool>) {
    let mut turn = 0_u32;
    while !ended.load(Ordering::SeqCst) {
        turn += 1;
        let name = format!("object-{}", turn % OBJECTS);
        if turn.is_multiple_of(7) {
            let _ = leases.delete(&name, &DeleteParams::default()).await;
        } else {
            let patch = Patch::Merge(json!({"spec": {"holderIdentity": turn.to_string()}}));
            if leases.patch(&name, &PatchParams::default(), &patch).await.is_err() {
                let _ = leases.create(&PostParams::default(), &lease(&name)).await;
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

async fn stored(leases: &Api<Lease>) -> anyhow::Result<State> {
    let list = leases.list(&ListParams::default()).await?;
    list.items
        .iter()
        .map(|lease| Ok((lease.name_any(), lease.resource_version().context("an object without a version")?)))
        .collect()
}
