//! delete with its three cascades, of ConfigMaps that own others.

use anyhow::{Context as _, ensure};
use ucloud_e2e::eventually;

use super::{Kubectl, PATIENCE};

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.ok(&["create", "secret", "generic", "password", "--from-literal=a=b"])?;
    kubectl.says(&["get", "secret", "password", "-o", "jsonpath={.data.a}"], &["Yg=="])?;
    kubectl.says(&["describe", "secret", "password"], &["a:", "1 byte"])?;

    family(kubectl, "background")?;
    kubectl.ok(&["delete", "configmap", "background-owner", "--cascade=background"])?;
    gone(kubectl, "background-child")?;

    family(kubectl, "foreground")?;
    kubectl.ok(&["delete", "configmap", "foreground-owner", "--cascade=foreground", "--timeout=60s"])?;
    // who waited for the owner has waited for all
    kubectl.fails(&["get", "configmap", "foreground-child"], &["(NotFound)"])?;

    family(kubectl, "orphan")?;
    kubectl.ok(&["delete", "configmap", "orphan-owner", "--cascade=orphan", "--timeout=60s"])?;
    let child = kubectl.get(&["configmap", "orphan-child"])?;
    let (owners, deleted) = (&child["metadata"]["ownerReferences"], &child["metadata"]["deletionTimestamp"]);
    ensure!(owners.as_array().is_none_or(Vec::is_empty) && deleted.is_null(), "{child}");
    Ok(())
}

/// An owner and its child.
fn family(kubectl: &Kubectl, name: &str) -> anyhow::Result<()> {
    kubectl.says(&["create", "configmap", &format!("{name}-owner")], &["created"])?;
    let owner = kubectl.get(&["configmap", &format!("{name}-owner")])?;
    let uid = owner["metadata"]["uid"].as_str().context("an object without a UID")?;
    let child = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}-child\n  ownerReferences:\n  - apiVersion: v1\n    \
         kind: ConfigMap\n    name: {name}-owner\n    uid: {uid}\n    blockOwnerDeletion: true\n"
    );
    kubectl.manifest(&["create"], &child, &["created"])
}

fn gone(kubectl: &Kubectl, name: &str) -> anyhow::Result<()> {
    eventually(&format!("configmap {name} is gone"), PATIENCE, || {
        let found = kubectl.ok(&["get", "configmap", name, "--ignore-not-found"])?;
        Ok(if found.is_empty() { Ok(()) } else { Err(found) })
    })
}
