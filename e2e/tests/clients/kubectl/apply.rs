//! apply on the client's side, diff, and prune by labels.

use anyhow::ensure;

use super::{Kubectl, vm};

const GRACE: &str = "  terminationGracePeriodSeconds: 5\n";

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.manifest(&["apply"], &vm("a", 1, GRACE), &["vm.ucloud.ungleich.ch/a created"])?;
    let before = kubectl.get(&["vm", "a"])?;
    kubectl.manifest(&["apply"], &vm("a", 1, GRACE), &["vm.ucloud.ungleich.ch/a unchanged"])?;
    diff(kubectl)?;
    kubectl.manifest(&["apply", "--dry-run=server"], &vm("a", 2, ""), &["configured (server dry run)"])?;
    kubectl.manifest(&["apply", "--dry-run=client"], &vm("a", 2, ""), &["configured (dry run)"])?;
    ensure!(kubectl.get(&["vm", "a"])?["spec"] == before["spec"], "nothing was changed yet");

    // a field that somebody else has set stays, one that is no longer applied goes
    kubectl.ok(&["patch", "vm", "a", "--type=merge", "-p", r#"{"spec":{"hostSelector":{"disk":"fast"}}}"#])?;
    kubectl.manifest(&["apply"], &vm("a", 2, ""), &["vm.ucloud.ungleich.ch/a configured"])?;
    let spec = &kubectl.get(&["vm", "a"])?["spec"];
    ensure!(spec["cpus"] == 2 && spec["terminationGracePeriodSeconds"].is_null(), "{spec}");
    ensure!(spec["hostSelector"]["disk"] == "fast", "{spec}");
    kubectl.says(&["apply", "view-last-applied", "vm/a"], &["cpus: 2"])?;
    kubectl.feed(&["apply", "set-last-applied", "-f", "-"], &vm("a", 2, GRACE))?.ok()?;
    kubectl.says(&["apply", "view-last-applied", "vm/a"], &["terminationGracePeriodSeconds: 5"])?;
    kubectl.feed(&["apply", "-f", "-"], &vm("a", 0, ""))?.failed(1, &["spec.cpus"])?;

    prune(kubectl)
}

fn diff(kubectl: &Kubectl) -> anyhow::Result<()> {
    let same = kubectl.feed(&["diff", "-f", "-"], &vm("a", 1, GRACE))?.ok()?;
    ensure!(same.stdout.is_empty(), "{}", same.stdout);
    let other = kubectl.feed(&["diff", "-f", "-"], &vm("a", 4, GRACE))?.failed(1, &[])?;
    ensure!(other.stdout.contains("-  cpus: 1") && other.stdout.contains("+  cpus: 4"), "{}", other.stdout);
    let new = kubectl.feed(&["diff", "-f", "-"], &vm("z", 1, ""))?.failed(1, &[])?;
    ensure!(new.stdout.contains("+kind: VM"), "{}", new.stdout);
    Ok(())
}

fn prune(kubectl: &Kubectl) -> anyhow::Result<()> {
    let labelled = |name: &str| vm(name, 1, "").replace(&format!("app: {name}"), "set: one");
    // the kinds that it looks for by default are those of Kubernetes
    let kinds = if kubectl.program.minor >= 26 { "--prune-allowlist" } else { "--prune-whitelist" };
    let kinds = format!("{kinds}=ucloud.ungleich.ch/v1alpha1/VM");
    let words = ["apply", "--prune", "-l", "set=one", &kinds];
    kubectl.manifest(&words, &[labelled("p1"), labelled("p2")].concat(), &["p1 created", "p2 created"])?;
    kubectl.manifest(&words, &labelled("p1"), &["p1 unchanged", "p2 pruned"])?;
    kubectl.selects(&["vms"], &["a", "p1"])
}
