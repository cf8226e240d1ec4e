//! get --watch and --watch-only.

use anyhow::ensure;
use ucloud_e2e::eventually;

use super::{Kubectl, PATIENCE, vm};

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.manifest(&["create"], &vm("first", 1, ""), &[])?;
    let all = kubectl.begin(&["get", "vms", "--watch"])?;
    let one = kubectl.begin(&["get", "vm", "first", "--watch", "-o", "jsonpath={.metadata.labels.tier}{'\\n'}"])?;
    let events = kubectl.begin(&["get", "vms", "--watch", "--output-watch-events", "-o", "json"])?;
    let changes = kubectl.begin(&["get", "vms", "--watch-only", "-o", "name"])?;
    all.says("first")?;
    all.says("PHASE")?;
    events.says("\"ADDED\"")?;

    // what begins to look now does not say when it does: so new objects come until it sees one
    let mut number = 0;
    eventually("--watch-only sees a new object", PATIENCE, || {
        number += 1;
        kubectl.manifest(&["create"], &vm(&format!("new-{number}"), 1, ""), &[])?;
        Ok(if changes.said().contains("new-") { Ok(()) } else { Err(changes.said()) })
    })?;
    ensure!(!changes.said().contains("first"), "it was there before: {}", changes.said());

    all.says(&format!("new-{number}"))?;
    kubectl.ok(&["label", "vm", "first", "tier=front"])?;
    one.says("front")?;
    ensure!(!one.said().contains("new"), "{}", one.said());
    events.says("\"MODIFIED\"")?;
    kubectl.ok(&["delete", "vm", "first"])?;
    events.says("\"DELETED\"")
}
