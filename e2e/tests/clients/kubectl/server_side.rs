//! apply on the server's side: managers, conflicts, hand-over; and prune with an ApplySet.

use anyhow::ensure;
use ucloud_e2e::Run;

use super::{Kubectl, vm};

const GRACE: &str = "  terminationGracePeriodSeconds: 5\n";

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    let one = ["apply", "--server-side", "--field-manager=one"];
    let two = ["apply", "--server-side", "--field-manager=two"];
    kubectl.manifest(&one, &vm("a", 1, GRACE), &["vm.ucloud.ungleich.ch/a serverside-applied"])?;
    let version = || kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.metadata.resourceVersion}"]);
    // until whoever else writes to a new VM has done so
    kubectl.ok(&["wait", "--for=condition=Scheduled=false", "vm/a", "--timeout=60s"])?;
    let before = version()?;
    kubectl.manifest(&one, &vm("a", 1, GRACE), &["serverside-applied"])?;
    ensure!(version()? == before, "what was there already was written again");

    let conflict = [r#"conflict with "one": .spec.cpus"#, "--force-conflicts"];
    kubectl.feed(&[&two[..], &["-f", "-"]].concat(), &vm("a", 2, ""))?.failed(1, &conflict)?;
    let same = kubectl.feed(&["diff", "--server-side", "--field-manager=one", "-f", "-"], &vm("a", 1, GRACE))?.ok()?;
    ensure!(same.stdout.is_empty(), "{}", same.stdout);
    let other = ["diff", "--server-side", "--field-manager=two", "--force-conflicts", "-f", "-"];
    let other = kubectl.feed(&other, &vm("a", 2, ""))?.failed(1, &[])?;
    ensure!(other.stdout.contains("+  cpus: 2"), "{}", other.stdout);

    kubectl.manifest(
        &[&two[..], &["--dry-run=server", "--force-conflicts"]].concat(),
        &vm("a", 2, ""),
        &["dry run"],
    )?;
    let cpus = || kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.spec.cpus}"]);
    ensure!(cpus()? == "1");
    kubectl.manifest(&[&two[..], &["--force-conflicts"]].concat(), &vm("a", 2, ""), &["serverside-applied"])?;
    ensure!(cpus()? == "2");
    managers(kubectl)?;

    // one no longer applies what two has; its other field goes with it
    let left = vm("a", 2, "");
    kubectl.manifest(&one, &left, &["serverside-applied"])?;
    let grace = kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.spec.terminationGracePeriodSeconds}"])?;
    ensure!(grace.is_empty() && cpus()? == "2", "{grace}");
    apply_set(kubectl)
}

fn managers(kubectl: &Kubectl) -> anyhow::Result<()> {
    let mut words = vec!["get", "vm", "a", "-o", "yaml"];
    let hides = kubectl.program.minor >= 21;
    if hides {
        ensure!(!kubectl.ok(&words)?.contains("managedFields"), "they are shown to those who ask");
        words.push("--show-managed-fields");
    }
    kubectl
        .says(&words, &["managedFields:", "manager: one", "manager: two", "operation: Apply", "f:cpus: {}"])
        .map(|_| ())
}

fn apply_set(kubectl: &Kubectl) -> anyhow::Result<()> {
    if !kubectl.has(27, "apply --applyset") {
        return Ok(());
    }
    for side in ["--server-side=true", "--server-side=false"] {
        let apply = |manifest: &str| {
            let words =
                ["apply", side, "--prune", "--applyset=configmaps/the-set", "--force-conflicts=false", "-f", "-"];
            let words: Vec<&str> =
                words.into_iter().filter(|word| side.ends_with("true") || !word.contains("force")).collect();
            Run::of(kubectl.command(&words).env("KUBECTL_APPLYSET", "true"), manifest)?.ok()
        };
        apply(&[vm("s1", 1, ""), vm("s2", 1, "")].concat())?;
        kubectl.selects(&["vms", "-l", "applyset.kubernetes.io/part-of"], &["s1", "s2"])?;
        let pruned = apply(&vm("s1", 1, ""))?;
        ensure!(pruned.stdout.contains("s2 pruned"), "{}", pruned.stdout);
        kubectl.selects(&["vms", "-l", "applyset.kubernetes.io/part-of"], &["s1"])?;
        kubectl.ok(&["delete", "vm/s1", "configmap/the-set"])?;
    }
    Ok(())
}
