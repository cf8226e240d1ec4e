//! `ucloudctl start`, `stop` and `restart`.

use crate::{cli::Power, output, server::Server};

/// Asks for the same of each VM. The VM's agent carries it out; `ucloudctl wait` tells when.
pub async fn run(server: &Server, options: &Power, subresource: &str, said: &str) -> anyhow::Result<()> {
    let vm = server.catalog().await?.one("vms.ucloud.ungleich.ch")?;
    for name in &options.vms {
        let name = name.strip_prefix("vm/").unwrap_or(name);
        server.post(&vm, (&server.namespace, name), subresource, None).await?;
        output::line(&format!("{} {said}", vm.display(name)))?;
    }
    Ok(())
}
