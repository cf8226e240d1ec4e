//! The informers: one in this process, two as programs that print what they hold whenever it has changed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, ResourceExt as _,
    runtime::{WatchStreamExt as _, reflector, reflector::Store, watcher},
};
use tokio::runtime::Runtime;
use ucloud_e2e::ControlPlane;

use super::{NAMESPACE, State};

/// An informer that runs until this is dropped.
pub struct Library {
    pub name: &'static str,
    informer: Informer,
}

enum Informer {
    Task(Store<Lease>),
    Process { child: Child, output: PathBuf },
}

impl Library {
    /// kube-rs: watcher and reflector, with their default pauses.
    pub fn kube_rs(runtime: &Runtime, leases: Api<Lease>) -> Self {
        let (store, writer) = reflector::store();
        let events = watcher(leases, watcher::Config::default()).default_backoff().reflect(writer);
        // it tries on after each failure
        runtime.spawn(events.for_each(|_| async {}));
        Self { name: "kube-rs", informer: Informer::Task(store) }
    }

    /// The package `kubernetes` of PyPI.
    pub fn python(plane: &ControlPlane) -> anyhow::Result<Self> {
        let python = crate::fetched_folder().join("python/bin/python3");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/informer.py");
        Self::process("kubernetes for Python", plane, Command::new(python).arg(script))
    }

    /// The package `@kubernetes/client-node` of npm.
    pub fn javascript(plane: &ControlPlane) -> anyhow::Result<Self> {
        // Node looks for packages beside the script: both were put there
        let script = crate::fetched_folder().join("javascript/informer.js");
        ensure!(script.exists(), "{} is missing: ./hack/test clients puts it there", script.display());
        Self::process("@kubernetes/client-node", plane, Command::new("node").arg(script))
    }

    fn process(name: &'static str, plane: &ControlPlane, command: &mut Command) -> anyhow::Result<Self> {
        let file: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let (output, errors) = (plane.path(&format!("{file}.out")), plane.path(&format!("{file}.err")));
        command
            .arg(plane.kubeconfig())
            .arg(NAMESPACE)
            .stdin(Stdio::null())
            .stdout(File::create(&output)?)
            .stderr(File::create(errors)?);
        let child =
            command.spawn().with_context(|| format!("cannot run {command:?}: ./hack/test clients installs it"))?;
        Ok(Self { name, informer: Informer::Process { child, output } })
    }

    /// What it holds now.
    pub fn state(&self) -> anyhow::Result<State> {
        match &self.informer {
            Informer::Task(store) => {
                let version = |lease: &Lease| lease.resource_version().unwrap_or_default();
                Ok(store.state().iter().map(|lease| (lease.name_any(), version(lease))).collect())
            }
            Informer::Process { output, .. } => {
                let text = fs::read_to_string(output)?;
                // the last line may still be written
                let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
                match whole.lines().last() {
                    Some(line) => serde_json::from_str(line).with_context(|| format!("{} said {line}", self.name)),
                    None => Ok(State::new()),
                }
            }
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Informer::Process { child, .. } = &mut self.informer {
            // it may have ended by itself
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
