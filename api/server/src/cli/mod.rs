//! The command line: what can be asked of the program, and its help.

mod pki;
mod serve;

use clap::{Parser, Subcommand};

/// ucloud's API server: a Kubernetes-style API over etcd.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  \
        ucloud-api pki init --dir /etc/ucloud/pki --kubeconfig-dir /etc/ucloud --server https://[::1]:6443\n  \
        ucloud-api serve --pki-dir /etc/ucloud/pki --etcd https://[::1]:2379\n  \
        ucloud-api pki agent --dir /etc/ucloud/pki --host h1 --server https://[fd00::1]:6443 --out h1.kubeconfig"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API until SIGTERM or Ctrl-C.
    Serve(serve::ServeArgs),
    /// Make the certificates and kubeconfigs of an installation.
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    /// Print the version.
    Version,
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(args) => serve::run(args),
            Command::Pki(command) => pki::run(command),
            Command::Version => {
                println!("ucloud-api {}", env!("CARGO_PKG_VERSION"));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
