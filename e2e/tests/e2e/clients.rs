//! kubectl as it is, and what scripts rely on in ucloudctl.

use std::process::Command;

use anyhow::ensure;
use ucloud_e2e::{Run, manifest::Vm};

use crate::{Test, World};

pub const TESTS: &[Test] = &[
    ("clients::kubectl_gets_and_deletes", kubectl_gets_and_deletes),
    ("clients::exit_codes_and_messages", exit_codes_and_messages),
    ("clients::every_example_is_accepted", every_example_is_accepted),
];

fn kubectl_gets_and_deletes(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let run = ucloud.kubectl(&["get", "vms,networks,images,hosts"])?.ok()?;
    for word in [
        "vm.ucloud.ungleich.ch/hello",
        "network.ucloud.ungleich.ch/lan",
        "image.ucloud.ungleich.ch/guest",
        "host.ucloud.ungleich.ch/",
        "Running",
    ] {
        ensure!(run.stdout.contains(word), "kubectl does not show {word}:\n{}", run.stdout);
    }
    ucloud.apply(&Vm { name: "doomed", ..Vm::default() }.yaml())?.ok()?;
    ucloud.ready("vm/doomed")?;
    let uid = ucloud.uid("vm/doomed")?;
    let run = ucloud.kubectl(&["delete", "vm", "doomed", "--timeout=90s"])?.ok()?;
    ensure!(run.stdout.contains("\"doomed\" deleted"), "{}", run.stdout);
    ucloud.nothing_left_of(&uid)
}

fn exit_codes_and_messages(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.ucloudctl(&["get", "vm", "nobody"])?.failed(3, &["\"nobody\" not found"])?;
    ucloud.ucloudctl(&["get", "pods"])?.failed(1, &["the server has no kind \"pods\"", "vms"])?;
    ucloud.ucloudctl(&["frobnicate"])?.failed(2, &["frobnicate"])?;
    ucloud
        .ucloudctl(&["wait", "--for=condition=NeverThere", "vm/hello", "--timeout", "1s"])?
        .failed(4, &["vm.ucloud.ungleich.ch/hello"])?;
    ucloud.ucloudctl(&["delete", "vm", "nobody"])?.failed(3, &["nobody"])?;
    ucloud.ucloudctl(&["--kubeconfig", "/nowhere", "get", "vms"])?.failed(1, &["/nowhere"])?;
    let described = ucloud.ucloudctl(&["describe", "vm", "hello"])?.ok()?.stdout;
    for word in ["Conditions:", "Ready", "Events:", "Started"] {
        ensure!(described.contains(word), "describe does not show {word}:\n{described}");
    }
    let names = ucloud.ucloudctl(&["get", "vms", "-o", "name"])?.ok()?.stdout;
    ensure!(names.lines().any(|line| line == "vm.ucloud.ungleich.ch/hello"), "{names}");
    // a reader that goes away is no failure
    let mut shell = ucloud.command("bash");
    Run::of(shell.args(["-c", "set -o pipefail; ucloudctl get vms -o yaml | head -n 1"]), "")?.ok()?;
    Ok(())
}

fn every_example_is_accepted(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let run = ucloud.ucloudctl(&["apply", "--dry-run", "-f", "manifests/examples"])?.ok()?;
    ensure!(run.stdout.lines().count() >= 3, "{}", run.stdout);
    let mut kubectl = Command::new("git");
    let listed = Run::of(kubectl.current_dir(ucloud.root()).args(["ls-files", "manifests/examples"]), "")?.ok()?;
    ensure!(!listed.stdout.is_empty(), "there are examples");
    Ok(())
}
