//! auth can-i.

use anyhow::ensure;

use super::Kubectl;

pub fn chapter(kubectl: &Kubectl) -> anyhow::Result<()> {
    let may = |words: &[&str]| -> anyhow::Result<()> {
        let said = kubectl.ok(&[&["auth", "can-i"], words].concat())?;
        ensure!(said.trim() == "yes", "an administrator may {}: {said}", words.join(" "));
        Ok(())
    };
    may(&["create", "vms"])?;
    may(&["update", "vms", "--subresource=status"])?;
    may(&["delete", "namespaces", "--all-namespaces"])?;
    may(&["get", "/metrics"])?;
    // a host's agent sees its own VMs alone
    let agent = kubectl.plane().agent("h1")?;
    // the last one of an option counts
    let refused = kubectl.run(&["auth", "can-i", "delete", "vms", "--kubeconfig", &agent])?;
    ensure!(refused.stdout.trim() == "no" && refused.code == 1, "{refused:?}");
    Ok(())
}
