//! What there is and what it means: describe, explain, discovery, events.

use anyhow::ensure;

use super::{Kubectl, vm};

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.says(&["version"], &["Server Version"])?;
    discovery(kubectl)?;
    kubectl.says(&["explain", "vm"], &["KIND:", "VM", "A virtual machine"])?;
    kubectl.says(&["explain", "vm.spec"], &["cpus", "The number of virtual CPUs."])?;
    kubectl.says(&["explain", "vms.spec.disks"], &["image"])?;
    kubectl.says(&["explain", "vm", "--recursive"], &["terminationGracePeriodSeconds"])?;
    kubectl.fails(&["explain", "vm.spec.nothing"], &["nothing"])?;

    kubectl.manifest(&["create"], &vm("a", 1, ""), &[])?;
    kubectl.says(&["describe", "vm", "a"], &["Name:", "Namespace:", "Memory:", "128Mi", "Events:"])?;
    events(kubectl)
}

fn discovery(kubectl: &Kubectl) -> anyhow::Result<()> {
    let resources = kubectl.says(&["api-resources"], &["SHORTNAMES", "ucloud.ungleich.ch/v1alpha1"])?;
    let row = resources.lines().find(|line| line.starts_with("vms "));
    ensure!(row.is_some_and(|row| row.contains("true") && row.ends_with("VM")), "{resources}");
    kubectl.says(&["api-resources", "-o", "wide"], &["VERBS", "deletecollection"])?;
    let own = kubectl.ok(&["api-resources", "--api-group=ucloud.ungleich.ch", "--namespaced=false", "-o", "name"])?;
    ensure!(own.lines().any(|line| line == "hosts.ucloud.ungleich.ch") && !own.contains("vms"), "{own}");
    let versions = kubectl.ok(&["api-versions"])?;
    for version in ["v1", "ucloud.ungleich.ch/v1alpha1", "events.k8s.io/v1", "coordination.k8s.io/v1"] {
        ensure!(versions.lines().any(|line| line == version), "{version} is not in:\n{versions}");
    }
    Ok(())
}

fn events(kubectl: &Kubectl) -> anyhow::Result<()> {
    let uid = kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.metadata.uid}"])?;
    let namespace = &kubectl.namespace;
    let event = format!(
        "apiVersion: v1\nkind: Event\nmetadata: {{name: a.1, namespace: {namespace}}}\ntype: Warning\nreason: Tested\n\
         message: it was looked at\nsource: {{component: a-test}}\nlastTimestamp: \"2026-01-01T00:00:00Z\"\n\
         firstTimestamp: \"2026-01-01T00:00:00Z\"\ncount: 1\ninvolvedObject:\n  apiVersion: ucloud.ungleich.ch/v1alpha1\n  \
         kind: VM\n  name: a\n  namespace: {namespace}\n  uid: {uid}\n"
    );
    kubectl.manifest(&["create"], &event, &["event/a.1 created"])?;
    kubectl.says(&["get", "events"], &["REASON", "Tested", "it was looked at"])?;
    kubectl.says(&["get", "events.events.k8s.io"], &["Tested"])?;
    let selected = ["get", "events", "--field-selector", "involvedObject.name=a,reason=Tested", "-o", "name"];
    kubectl.says(&selected, &["event/a.1"])?;
    kubectl.says(&["describe", "vm", "a"], &["Tested", "it was looked at"])?;
    if kubectl.has(26, "command events") {
        kubectl.says(&["events"], &["Tested", "it was looked at"])?;
        kubectl.says(&["events", "--for", "vm/a"], &["Tested"])?;
        kubectl.says(&["events", "--types=Warning"], &["Tested"])?;
    }
    Ok(())
}
