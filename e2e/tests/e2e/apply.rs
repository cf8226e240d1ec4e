//! `ucloudctl apply` among others who write the same objects.

use anyhow::ensure;
use serde_json::Value;
use ucloud_e2e::{Installation, Run, manifest::Vm};

use crate::{Test, World};

pub const TESTS: &[Test] = &[
    ("apply::goes_on_with_what_kubectl_applied", goes_on_with_what_kubectl_applied),
    ("apply::says_whose_a_field_is", says_whose_a_field_is),
    ("apply::a_dry_run_changes_nothing", a_dry_run_changes_nothing),
];

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A VM that no host is needed for.
fn halted(name: &str, cpus: &str) -> String {
    Vm { name, cpus, run_strategy: "Halted", ..Vm::default() }.yaml()
}

fn kubectl(ucloud: &Installation, words: &[&str], manifest: &str) -> anyhow::Result<Run> {
    Run::of(ucloud.command("kubectl").args(words), manifest)
}

fn goes_on_with_what_kubectl_applied(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let labelled =
        halted("moved", "1").replace("{name: moved}", "{name: moved, labels: {old: \"yes\", kept: \"yes\"}}");
    kubectl(ucloud, &["apply", "-f", "-"], &labelled)?.ok()?;
    kubectl(ucloud, &["label", "vm", "moved", "other=yes"], "")?.ok()?;

    let fewer = halted("moved", "2").replace("{name: moved}", "{name: moved, labels: {kept: \"yes\"}}");
    ucloud.apply(&fewer)?.ok()?;
    let vm = ucloud.get("vm/moved")?;
    let labels = &vm["metadata"]["labels"];
    ensure!(labels["old"].is_null() && labels["kept"] == "yes" && labels["other"] == "yes", "{labels}");
    ensure!(vm["spec"]["cpus"] == 2, "{vm}");
    ensure!(vm["metadata"]["annotations"].get(LAST_APPLIED).is_none_or(Value::is_null), "{vm}");

    let before = ucloud.word("vm/moved", "/metadata/resourceVersion")?;
    let again = ucloud.apply(&fewer)?.ok()?;
    ensure!(again.stdout.contains("unchanged"), "{}", again.stdout);
    ensure!(ucloud.word("vm/moved", "/metadata/resourceVersion")? == before, "nothing to do, and yet it was written");
    ucloud.delete(&["vm", "moved"])
}

fn says_whose_a_field_is(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    ucloud.apply(&halted("shared", "1"))?.ok()?;
    let theirs = ["apply", "--server-side", "--field-manager=autoscaler", "-f", "-"];
    let refused = kubectl(ucloud, &theirs, &halted("shared", "2"))?;
    ensure!(refused.code != 0 && refused.stderr.contains("ucloudctl"), "{}", refused.stderr);
    kubectl(ucloud, &[&theirs[..], &["--force-conflicts"]].concat(), &halted("shared", "2"))?.ok()?;

    ucloud.apply(&halted("shared", "1"))?.failed(1, &["autoscaler", "spec.cpus", "--force-conflicts"])?;
    ensure!(ucloud.get("vm/shared")?["spec"]["cpus"] == 2, "a conflict changes nothing");
    Run::of(ucloud.command("ucloudctl").args(["apply", "--force-conflicts", "-f", "-"]), &halted("shared", "1"))?
        .ok()?;
    ensure!(ucloud.get("vm/shared")?["spec"]["cpus"] == 1, "it was taken by force");
    ucloud.delete(&["vm", "shared"])
}

fn a_dry_run_changes_nothing(world: &World) -> anyhow::Result<()> {
    let ucloud = &world.installation;
    let dry = |manifest: &str| Run::of(ucloud.command("ucloudctl").args(["apply", "--dry-run", "-f", "-"]), manifest);
    dry(&halted("dry", "1"))?.ok()?;
    ucloud.ucloudctl(&["get", "vm", "dry"])?.failed(3, &[])?;
    ucloud.apply(&halted("dry", "1"))?.ok()?;
    let before = ucloud.get("vm/dry")?;
    dry(&halted("dry", "2"))?.ok()?;
    ensure!(ucloud.get("vm/dry")? == before, "a dry run changed the VM");
    ucloud.delete(&["vm", "dry"])
}
