//! edit by an editor that is a script, patch, label, annotate, replace.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, ensure};
use ucloud_e2e::Run;

use super::{Kubectl, vm};

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.manifest(&["create"], &vm("a", 1, ""), &[])?;
    edit(kubectl)?;
    patch(kubectl)?;
    marks(kubectl)?;
    replace(kubectl)
}

fn edit(kubectl: &Kubectl) -> anyhow::Result<()> {
    let edit = |script: &str| -> anyhow::Result<Run> {
        let editor = kubectl.plane().path(&format!("editor-{}", kubectl.namespace));
        fs::write(&editor, format!("#!/bin/sh\n{script}\n"))?;
        fs::set_permissions(&editor, fs::Permissions::from_mode(0o755))?;
        Run::of(kubectl.command(&["edit", "vm", "a"]).env("KUBE_EDITOR", &editor), "")
    };
    let changed = edit("sed -i 's/cpus: 1/cpus: 2/' \"$1\"")?.ok()?;
    ensure!(changed.stdout.contains("vm.ucloud.ungleich.ch/a edited"), "{}", changed.stdout);
    let cpus = kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.spec.cpus}"])?;
    ensure!(cpus == "2", "{cpus}");
    let same = edit("true")?.ok()?;
    ensure!(format!("{}{}", same.stdout, same.stderr).contains("no changes made"), "{same:?}");
    // what the server refuses is shown in the editor again; this one leaves it so
    let refused = edit("sed -i 's/cpus: 2/cpus: 0/' \"$1\"")?;
    ensure!(refused.code != 0 && refused.stderr.contains("is invalid"), "{refused:?}");
    Ok(())
}

fn patch(kubectl: &Kubectl) -> anyhow::Result<()> {
    let patch = |kind: &str, patch: &str| {
        let kind = format!("--type={kind}");
        kubectl.run(&["patch", "vm", "a", &kind, "-p", patch])
    };
    let cpus = || kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.spec.cpus}"]);
    patch("json", r#"[{"op":"test","path":"/spec/cpus","value":2},{"op":"replace","path":"/spec/cpus","value":3}]"#)?
        .ok()?;
    ensure!(cpus()? == "3");
    patch("json", r#"[{"op":"test","path":"/spec/cpus","value":2}]"#)?.failed(1, &[])?;
    patch("merge", r#"{"spec":{"cpus":4,"terminationGracePeriodSeconds":7}}"#)?.ok()?;
    let again = patch("merge", r#"{"spec":{"cpus":4}}"#)?.ok()?;
    ensure!(again.stdout.contains("patched (no change)"), "{}", again.stdout);
    patch("merge", r#"{"spec":{"terminationGracePeriodSeconds":null}}"#)?.ok()?;
    let grace = kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.spec.terminationGracePeriodSeconds}"])?;
    ensure!(grace.is_empty() && cpus()? == "4", "{grace}");
    // as for every kind that is not compiled into Kubernetes
    patch("strategic", r#"{"spec":{"cpus":5}}"#)?.failed(1, &["application/merge-patch+json"])?;
    if kubectl.has(24, "patch --subresource") {
        let status = r#"{"status":{"phase":"Unknown"}}"#;
        kubectl.run(&["patch", "vm", "a", "--subresource=status", "--type=merge", "-p", status])?.ok()?;
    }
    ensure!(cpus()? == "4");
    Ok(())
}

fn marks(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.says(&["label", "vm", "a", "tier=front", "x-"], &["labeled"])?;
    kubectl.fails(&["label", "vm", "a", "tier=back"], &["--overwrite is false"])?;
    kubectl.ok(&["label", "vm", "a", "tier=back", "--overwrite"])?;
    kubectl.fails(&["label", "vm", "a", "tier=-no-"], &["tier"])?;
    kubectl.selects(&["vms", "-l", "tier=back"], &["a"])?;
    kubectl.ok(&["label", "vms", "--all", "tier-"])?;
    kubectl.selects(&["vms", "-l", "tier"], &[])?;
    kubectl.says(&["annotate", "vm", "a", "note=a b c"], &["annotate"])?;
    let note = kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.metadata.annotations.note}"])?;
    ensure!(note == "a b c", "{note}");
    kubectl.ok(&["annotate", "vm", "a", "note-"]).map(|_| ())
}

fn replace(kubectl: &Kubectl) -> anyhow::Result<()> {
    let old = kubectl.ok(&["get", "vm", "a", "-o", "yaml"])?;
    let new = old.replace("cpus: 4", "cpus: 6");
    ensure!(new != old, "{old}");
    kubectl.manifest(&["replace"], &new, &["vm.ucloud.ungleich.ch/a replaced"])?;
    kubectl.feed(&["replace", "-f", "-"], &new)?.failed(1, &["(Conflict)", "the object has been modified"])?;
    kubectl.feed(&["replace", "-f", "-"], &vm("nobody", 1, ""))?.failed(1, &["(NotFound)"])?;
    let uid = || kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.metadata.uid}"]);
    let before = uid()?;
    kubectl.manifest(&["replace", "--force"], &vm("a", 2, ""), &["replaced"])?;
    ensure!(uid().context("it was made again")? != before, "it is another object now");
    Ok(())
}
