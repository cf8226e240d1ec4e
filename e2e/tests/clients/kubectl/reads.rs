//! create, and get in all its forms.

use anyhow::ensure;
use serde_json::Value;

use super::{Kubectl, vm};

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    let manifest = [vm("a", 1, ""), vm("b", 2, ""), vm("c", 3, "  terminationGracePeriodSeconds: 5\n")].concat();
    kubectl.manifest(
        &["create"],
        &manifest,
        &["vm.ucloud.ungleich.ch/a created", "vm.ucloud.ungleich.ch/c created"],
    )?;
    kubectl.feed(&["create", "-f", "-"], &vm("a", 1, ""))?.failed(1, &["(AlreadyExists)", "\"a\" already exists"])?;
    kubectl.feed(&["create", "-f", "-"], &vm("d", 0, ""))?.failed(1, &["spec.cpus"])?;
    kubectl.feed(&["create", "--dry-run=server", "-f", "-"], &vm("e", 1, ""))?.ok()?;
    kubectl.fails(&["get", "vm", "e"], &["(NotFound)", "\"e\" not found"])?;
    ensure!(kubectl.ok(&["get", "vm", "e", "--ignore-not-found"])?.is_empty());

    tables(kubectl)?;
    formats(kubectl)?;
    selections(kubectl)
}

fn tables(kubectl: &Kubectl) -> anyhow::Result<()> {
    let table = kubectl.says(&["get", "vms"], &["NAME", "PHASE", "HOST", "ADDRESSES", "AGE"])?;
    ensure!(table.lines().count() == 4 && !table.contains("CPUS"), "{table}");
    let wide = kubectl.says(&["get", "vm", "b", "-o", "wide"], &["CPUS", "MEMORY", "128Mi"])?;
    ensure!(wide.lines().count() == 2, "{wide}");
    kubectl.says(&["get", "vms", "--show-labels"], &["LABELS", "app=c"])?;
    kubectl.says(&["get", "vms", "-L", "app"], &["APP"])?;
    kubectl.says(&["get", "vms", "-A"], &["NAMESPACE", &kubectl.namespace])?;
    let bare = kubectl.ok(&["get", "vms", "--no-headers"])?;
    ensure!(bare.lines().count() == 3, "{bare}");
    let sorted = kubectl.ok(&["get", "vms", "--sort-by=.spec.cpus", "-o", "name"])?;
    ensure!(sorted.lines().last() == Some("vm.ucloud.ungleich.ch/c"), "{sorted}");
    // a category, several kinds, and a kind by its full name
    kubectl.says(&["get", "ucloud"], &["vm.ucloud.ungleich.ch/a"])?;
    kubectl.says(&["get", "vms,networks"], &["vm.ucloud.ungleich.ch/a"])?;
    kubectl.selects(&["vms.v1alpha1.ucloud.ungleich.ch"], &["a", "b", "c"])?;
    kubectl.says(&["get", "namespace", &kubectl.namespace], &["STATUS", "Active"]).map(|_| ())
}

fn formats(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.says(&["get", "vm", "a", "-o", "yaml"], &["kind: VM", "cpus: 1", "memory: 128Mi"])?;
    let a = kubectl.get(&["vm", "a"])?;
    ensure!(a["spec"]["cpus"] == 1 && a["metadata"]["uid"].is_string(), "{a}");
    let all = kubectl.get(&["vms"])?;
    ensure!(all["kind"] == "List" && all["items"].as_array().map(Vec::len) == Some(3), "{all}");
    let memory = kubectl.ok(&["get", "vm", "a", "-o", "jsonpath={.spec.memory}"])?;
    ensure!(memory == "128Mi", "{memory}");
    let names = kubectl.ok(&["get", "vms", "-o", "jsonpath={.items[*].metadata.name}"])?;
    ensure!(names == "a b c", "{names}");
    let columns = kubectl.ok(&["get", "vms", "-o", "custom-columns=N:.metadata.name,C:.spec.cpus"])?;
    ensure!(columns.split_whitespace().eq(["N", "C", "a", "1", "b", "2", "c", "3"]), "{columns}");
    let template = kubectl.ok(&["get", "vms", "-o", "go-template={{range .items}}{{.spec.cpus}},{{end}}"])?;
    ensure!(template == "1,2,3,", "{template}");
    let version: Value = serde_json::from_str(&kubectl.ok(&["get", "--raw", "/version"])?)?;
    ensure!(version["major"].is_string(), "{version}");
    Ok(())
}

fn selections(kubectl: &Kubectl) -> anyhow::Result<()> {
    kubectl.selects(&["vms", "-l", "app=a"], &["a"])?;
    kubectl.selects(&["vms", "-l", "app in (a, b)"], &["a", "b"])?;
    kubectl.selects(&["vms", "-l", "app notin (a),app"], &["b", "c"])?;
    kubectl.selects(&["vms", "-l", "!app"], &[])?;
    kubectl.selects(&["vms", "--field-selector", "metadata.name=b"], &["b"])?;
    kubectl.selects(&["vms", "--field-selector", "metadata.name!=b"], &["a", "c"])?;
    kubectl.selects(&["vms", "--field-selector", "status.binding.host=nowhere"], &[])?;
    kubectl.fails(&["get", "vms", "--field-selector", "spec.nothing=1"], &["field label not supported"])?;
    kubectl.selects(&["vms", "--chunk-size=2"], &["a", "b", "c"])
}
