//! That any client of Kubernetes works with ucloud as it is: every kubectl that there is, informers of three client libraries, and
//! clients that check what they see while etcd and the API server are stopped, killed and compacted. No VMs are needed.
//!
//! `hack/test clients` installs what they need and runs them all; each control plane has ports and state of its own.

mod conformance;
mod history;
mod informers;
mod kubectl;
mod shared;

use std::{env, path::PathBuf};

use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::from_args();
    let shared = shared::Shared::new();
    let trials = [kubectl::trials(&shared)?, conformance::trials(&shared), informers::trials(), history::trials()];
    // from now on the tests alone hold it
    drop(shared);
    libtest_mimic::run(&arguments, trials.into_iter().flatten().collect()).exit()
}

/// Where `hack/test` puts the clients that it fetches: the folder `clients` beside that of the build.
fn fetched_folder() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.ancestors().nth(3).unwrap_or(&own).join("clients")
}

/// A test as libtest-mimic wants it.
fn trial(name: &str, test: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || test().map_err(|error| Failed::from(format!("{error:#}"))))
}
