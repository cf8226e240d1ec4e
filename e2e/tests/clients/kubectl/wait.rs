//! wait, for all that it can wait for; and delete, of which it is a part.

use anyhow::ensure;

use super::{Kubectl, vm};

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    let names = ["a", "b", "c", "d"];
    kubectl.manifest(&["create"], &names.map(|name| vm(name, 1, "")).concat(), &[])?;
    // there is no host: the scheduler says so
    kubectl.says(&["wait", "--for=condition=Scheduled=false", "vm/a", "--timeout=60s"], &["condition met"])?;
    kubectl.fails(&["wait", "--for=condition=Never", "vm/a", "--timeout=1s"], &["timed out waiting"])?;
    if kubectl.has(23, "wait --for=jsonpath") {
        kubectl
            .says(&["wait", "--for=jsonpath={.status.phase}=Pending", "vm/a", "--timeout=60s"], &["condition met"])?;
    }
    if kubectl.has(31, "wait --for=create") {
        let mut waiting = kubectl.begin(&["wait", "--for=create", "vm/late", "--timeout=60s"])?;
        kubectl.manifest(&["create"], &vm("late", 1, ""), &[])?;
        waiting.succeeds()?;
        kubectl.ok(&["delete", "vm", "late"])?;
    }

    kubectl.says(&["delete", "vm", "d", "--dry-run=server"], &["\"d\" deleted", "(server dry run)"])?;
    kubectl.selects(&["vms"], &names)?;
    // an old one fails where the object is gone before it looks
    if kubectl.has(24, "wait --for=delete of what is gone") {
        let mut waiting = kubectl.begin(&["wait", "--for=delete", "vm/a", "--timeout=60s"])?;
        kubectl.says(&["delete", "vm", "a", "--wait=false"], &["deleted"])?;
        waiting.succeeds()?;
        kubectl.ok(&["wait", "--for=delete", "vm/a", "--timeout=60s"])?;
    } else {
        kubectl.says(&["delete", "vm", "a"], &["deleted"])?;
    }
    kubectl.fails(&["delete", "vm", "a"], &["(NotFound)"])?;
    kubectl.ok(&["delete", "vm", "a", "--ignore-not-found"])?;
    kubectl.says(&["delete", "vms", "-l", "app=b"], &["\"b\""])?;
    kubectl.selects(&["vms"], &["c", "d"])?;
    kubectl.manifest(&["delete"], &vm("c", 1, ""), &["\"c\" "])?;
    kubectl.says(&["delete", "vms", "--all", "--grace-period=0", "--force"], &["\"d\" "])?;
    kubectl.selects(&["vms"], &[])?;

    // a namespace goes with what is in it
    kubectl.manifest(&["create"], &vm("left", 1, ""), &[])?;
    let namespace = kubectl.namespace.clone();
    kubectl.ok(&["delete", "namespace", &namespace, "--timeout=60s"])?;
    let left = kubectl.run(&["get", "vms"])?;
    ensure!(left.code == 0 && left.stdout.is_empty(), "{left:?}");
    kubectl.fails(&["get", "namespace", &namespace], &["(NotFound)"])
}
