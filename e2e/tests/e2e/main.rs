//! End-to-end tests against real etcd, libvirt/QEMU and radvd, in the order in which they are listed: one
//! installation serves all of them. The first brings it up as a user would, and the last but one proves that
//! nothing is left of it. What belongs together stands in one module.

mod apply;
mod bad_input;
mod ceph;
mod clients;
mod faults;
mod life;
mod quickstart;
mod readme;
mod snapshots;
mod uploads;
mod volumes;

use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use ucloud_e2e::{Installation, machine::Traces};

/// What every test is given.
struct World {
    installation: Installation,
    /// The machine before the installation was there.
    before: Traces,
}

type Test = (&'static str, fn(&World) -> anyhow::Result<()>);

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let folder = tempfile::Builder::new().prefix("ucloud-e2e.").tempdir()?;
    let world = Arc::new(World { installation: Installation::at(folder.path().join("data"))?, before: Traces::now()? });
    let tests = [
        quickstart::TESTS,
        clients::TESTS,
        apply::TESTS,
        life::TESTS,
        bad_input::TESTS,
        uploads::TESTS,
        volumes::TESTS,
        snapshots::TESTS,
        faults::TESTS,
        ceph::TESTS,
        quickstart::LAST,
        readme::TESTS,
    ];
    let trials = tests.iter().flat_map(|tests| tests.iter()).map(|&(name, test): &Test| {
        let world = world.clone();
        Trial::test(name, move || {
            test(&world).map_err(|error| {
                // what this test has left stopped must not fail the next ones
                let healed = if world.installation.data.exists() { world.installation.up().err() } else { None };
                let healed = healed.map_or_else(String::new, |why| format!("\nand hack/up fails after it: {why:?}"));
                Failed::from(format!("{error:?}{healed}"))
            })
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if world.installation.data.exists() {
        // a test was chosen by name, or the purge itself failed
        world.installation.down(&["--purge"])?;
    }
    drop(folder);
    conclusion.exit()
}
