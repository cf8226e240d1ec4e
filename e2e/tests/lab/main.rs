//! Networks between hosts, with real guests: one lab that `hack/lab` makes serves all tests, in the order in which they
//! are listed. The first makes it, the last proves that nothing is left of it.

mod failover;
mod guests;
mod hotplug;
mod life;
mod reboot;
mod storage;
mod tenants;
mod types;
mod uplink;

use std::sync::Arc;

use libtest_mimic::{Arguments, Failed, Trial};
use ucloud_e2e::Lab;

const HOSTS: u8 = 2;
const ROUTERS: u8 = 2;

/// What every test is given.
struct World {
    lab: Lab,
}

type Test = (&'static str, fn(&World) -> anyhow::Result<()>);

fn main() -> anyhow::Result<()> {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let folder = tempfile::Builder::new().prefix("ucloud-lab.").tempdir()?;
    let world = Arc::new(World { lab: Lab::at(folder.path(), "e2e")? });
    let tests = [
        life::TESTS,
        types::TESTS,
        uplink::TESTS,
        failover::TESTS,
        hotplug::TESTS,
        tenants::TESTS,
        storage::TESTS,
        reboot::TESTS,
        life::LAST,
    ];
    let trials = tests.iter().flat_map(|tests| tests.iter()).map(|&(name, test): &Test| {
        let world = world.clone();
        Trial::test(name, move || {
            test(&world).map_err(|error| {
                // what this test has left switched off must not fail the next ones
                let healed = if world.lab.folder().exists() { world.lab.up(HOSTS, ROUTERS).err() } else { None };
                let healed =
                    healed.map_or_else(String::new, |why| format!("\nand hack/lab up fails after it: {why:?}"));
                Failed::from(format!("{error:?}{healed}"))
            })
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if world.lab.folder().exists() {
        // a test was chosen by name, or the last one failed
        world.lab.run(&["down"])?.ok()?;
    }
    drop(folder);
    conclusion.exit()
}
