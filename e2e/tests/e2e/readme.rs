//! The README's commands, as they stand there.

use anyhow::{Context as _, ensure};
use ucloud_e2e::{Run, machine::Traces};

use crate::{Test, World};

pub const TESTS: &[Test] =
    &[("readme::every_command_of_the_quick_start_works", every_command_of_the_quick_start_works)];

/// The commands of all `sh` blocks in the section "Quick start".
fn commands(readme: &str) -> anyhow::Result<String> {
    let section = readme
        .split("\n## ")
        .find(|section| section.starts_with("Quick start"))
        .context("no section \"Quick start\"")?;
    let blocks: Vec<_> = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    ensure!(!blocks.is_empty(), "the section \"Quick start\" has no commands");
    Ok(blocks.concat())
}

fn every_command_of_the_quick_start_works(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let commands = commands(&std::fs::read_to_string(ucloud.root().join("README.md"))?)?;
    ensure!(
        commands.contains("hack/up") && commands.contains("hack/down --purge"),
        "not from nothing to nothing:\n{commands}"
    );
    // the state goes where UCLOUD_DATA says, so that an installation of the developer's is left alone
    Run::of(ucloud.command("bash").args(["-xeuo", "pipefail", "-c", &commands]).env_remove("KUBECONFIG"), "")?.ok()?;
    ensure!(Traces::now()? == world.before, "something is left: {:?}", Traces::now()?);
    Ok(())
}
