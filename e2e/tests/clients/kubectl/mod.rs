//! Every kubectl that is on this machine, and one old and one new that `hack/test` fetches, runs the same script. It comes in chapters;
//! each has a namespace of its own. What a version does not have yet is said by name.

mod access;
mod apply;
mod custom;
mod delete;
mod describe;
mod edit;
mod find;
mod reads;
mod server_side;
mod wait;
mod watches;

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use ucloud_e2e::{ControlPlane, Run, eventually};

use crate::shared::Shared;

/// What is waited for comes within this time.
const PATIENCE: Duration = Duration::from_mins(1);

type Chapter = (&'static str, fn(&Kubectl) -> anyhow::Result<()>);

const CHAPTERS: &[Chapter] = &[
    ("reads", reads::chapter),
    ("watches", watches::chapter),
    ("describe", describe::chapter),
    ("apply", apply::chapter),
    ("edit", edit::chapter),
    ("wait", wait::chapter),
    ("custom", custom::chapter),
    ("server-side", server_side::chapter),
    ("delete", delete::chapter),
    ("access", access::chapter),
];

pub fn trials(shared: &Shared) -> anyhow::Result<Vec<Trial>> {
    let found = find::all()?;
    let mut trials = Vec::new();
    for program in &found {
        for &(name, chapter) in CHAPTERS {
            let (program, shared) = (program.clone(), shared.clone());
            let title = format!("kubectl::{}::{name}", program.label());
            trials.push(crate::trial(&title, move || chapter(&Kubectl::new(program, shared, name)?)));
        }
    }
    trials.push(crate::trial("kubectl::an_old_and_a_new_version_are_tested", move || {
        let minors: Vec<u32> = found.iter().map(|program| program.minor).collect();
        let (oldest, newest) = (minors.iter().min(), minors.iter().max());
        ensure!(
            oldest.zip(newest).is_some_and(|(oldest, newest)| newest - oldest >= 5),
            "only 1.{minors:?} are here: ./hack/test clients fetches others"
        );
        Ok(())
    }));
    Ok(trials)
}

/// A kubectl on this machine.
#[derive(Clone, Debug)]
struct Found {
    path: PathBuf,
    /// As it tells it, such as v1.32.4.
    version: String,
    /// The 32 of 1.32.
    minor: u32,
}

impl Found {
    fn label(&self) -> &str {
        self.version.trim_start_matches('v')
    }
}

/// One kubectl in one namespace.
struct Kubectl {
    program: Found,
    shared: Shared,
    namespace: String,
}

impl Kubectl {
    fn new(program: Found, shared: Shared, chapter: &str) -> anyhow::Result<Self> {
        shared.plane()?;
        let label: String = program.label().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let this = Self { program, shared, namespace: format!("{chapter}-{label}") };
        this.ok(&["create", "namespace", &this.namespace])?;
        Ok(this)
    }

    fn plane(&self) -> &ControlPlane {
        self.shared.plane().expect("it was there when this was made")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program.path);
        command
            .arg("--kubeconfig")
            .arg(self.plane().kubeconfig())
            .arg("--cache-dir")
            .arg(self.plane().path(&format!("cache-{}", self.program.label())))
            .args(["--namespace", &self.namespace])
            .args(words);
        command
    }

    /// Runs it to its end.
    fn run(&self, words: &[&str]) -> anyhow::Result<Run> {
        Run::of(&mut self.command(words), "")
    }

    /// Runs it with this on its standard input.
    fn feed(&self, words: &[&str], input: &str) -> anyhow::Result<Run> {
        Run::of(&mut self.command(words), input)
    }

    /// What it says when it succeeds.
    fn ok(&self, words: &[&str]) -> anyhow::Result<String> {
        Ok(self.run(words)?.ok()?.stdout)
    }

    /// The same, and it must say all of this.
    fn says(&self, words: &[&str], expected: &[&str]) -> anyhow::Result<String> {
        let said = self.ok(words)?;
        for word in expected {
            ensure!(said.contains(word), "kubectl {} does not say {word:?}:\n{said}", words.join(" "));
        }
        Ok(said)
    }

    /// It must fail, and say all of this on standard error.
    fn fails(&self, words: &[&str], expected: &[&str]) -> anyhow::Result<()> {
        self.run(words)?.failed(1, expected).map(|_| ())
    }

    /// An object.
    fn get(&self, what: &[&str]) -> anyhow::Result<Value> {
        let words = [&["get", "-o", "json"], what].concat();
        serde_json::from_str(&self.ok(&words)?).context("kubectl gives no JSON")
    }

    /// The names of what is selected, one a line, as `vm.ucloud.ungleich.ch/a`; compared without the kind.
    fn selects(&self, selection: &[&str], names: &[&str]) -> anyhow::Result<()> {
        let words = [&["get", "-o", "name"], selection].concat();
        let said = self.ok(&words)?;
        let found: Vec<&str> = said.lines().filter_map(|line| line.split('/').nth(1)).collect();
        ensure!(found == names, "kubectl {} gives {found:?} and not {names:?}", words.join(" "));
        Ok(())
    }

    /// Whether this version has something; says so where it does not.
    fn has(&self, since: u32, what: &str) -> bool {
        let there = self.program.minor >= since;
        if !there {
            println!("kubectl {}: NOT TESTED, it has no {what}: that came with 1.{since}", self.program.label());
        }
        there
    }

    /// Creates or applies VMs from a manifest.
    fn manifest(&self, words: &[&str], manifest: &str, expected: &[&str]) -> anyhow::Result<()> {
        let said = self.feed(&[words, &["-f", "-"]].concat(), manifest)?.ok()?.stdout;
        for word in expected {
            ensure!(said.contains(word), "kubectl {} does not say {word:?}:\n{said}", words.join(" "));
        }
        Ok(())
    }

    /// Lets it run, and gathers what it says.
    fn begin(&self, words: &[&str]) -> anyhow::Result<Running> {
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
        let said = Arc::new(Mutex::new(String::new()));
        let (pipe, gathered) = (child.stdout.take().context("no output")?, said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut said = gathered.lock().expect("nobody panicked");
                said.push_str(&line);
                said.push('\n');
            }
        });
        Ok(Running { child, said })
    }
}

/// A kubectl that runs until this is dropped.
struct Running {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Running {
    fn said(&self) -> String {
        self.said.lock().expect("nobody panicked").clone()
    }

    /// Waits until it has said this.
    fn says(&self, word: &str) -> anyhow::Result<()> {
        eventually(&format!("kubectl says {word:?}"), PATIENCE, || {
            let said = self.said();
            Ok(if said.contains(word) { Ok(()) } else { Err(said) })
        })
    }
}

impl Running {
    /// Waits until it has ended, with success.
    fn succeeds(&mut self) -> anyhow::Result<()> {
        eventually("kubectl ends", PATIENCE, || match self.child.try_wait()? {
            Some(status) => {
                ensure!(status.success(), "kubectl ended with {status}: {}", self.said());
                Ok(Ok(()))
            }
            None => Ok(Err(self.said())),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A VM. No host takes it, so that nothing holds it when it is deleted.
fn vm(name: &str, cpus: u32, extra: &str) -> String {
    format!(
        "---\napiVersion: ucloud.ungleich.ch/v1alpha1\nkind: VM\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\n\
         spec:\n  cpus: {cpus}\n  memory: 128Mi\n  disks: [{{name: root, image: guest}}]\n{extra}"
    )
}
