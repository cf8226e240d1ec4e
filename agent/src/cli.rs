//! The command line of ucloud-agent.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use ucloud_agent_import::IpPrefix;
use ucloud_types::{Quantity, host::HostRole};

/// Runs the VMs that are bound to this host.
#[derive(Debug, Parser)]
#[command(
    name = "ucloud-agent",
    version,
    after_help = "RUST_LOG sets what is logged, such as RUST_LOG=debug; info by default."
)]
pub struct Cli {
    /// The kubeconfig of this host's agent.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: PathBuf,
    /// The folder for consoles and for radvd's files.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ucloud/agent")]
    pub data: PathBuf,
    /// The folder from which images are imported: DIR/NAMESPACE/FILE.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ucloud/import")]
    pub import_dir: PathBuf,
    /// The name of this host [default: the system's host name]
    #[arg(long, value_name = "NAME")]
    host_name: Option<String>,
    /// What a new host is for.
    #[arg(long, value_name = "ROLES", value_delimiter = ',', default_value = "compute", value_enum)]
    roles: Vec<Role>,
    /// The interface that carries the networks to other hosts. It needs an IPv6 address.
    #[arg(long, value_name = "INTERFACE")]
    pub underlay: String,
    /// The interface by which the networks that this host routes reach the outside. With it the host forwards IPv6 as soon
    /// as it routes a network; without it, it forwards as it did.
    #[arg(long, value_name = "INTERFACE")]
    pub uplink: Option<String>,
    /// libvirt's URI.
    #[arg(long, value_name = "URI", default_value = "qemu:///system")]
    pub libvirt: String,
    /// How many virtual CPUs VMs may take for each of the host's.
    #[arg(long, value_name = "NUMBER", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpu_overcommit: u32,
    /// The memory that is kept from VMs.
    #[arg(long, value_name = "SIZE", default_value = "512Mi")]
    pub reserved_memory: Quantity,
    /// Addresses that images may be downloaded from although they are not public: a mirror's. May be repeated.
    #[arg(long, value_name = "PREFIX")]
    pub allow_import_from: Vec<IpPrefix>,
    /// Where to take and give the bytes of Files, to and from the API server alone, such as [::]:9402. Without it, this host
    /// keeps no Files.
    #[arg(long, value_name = "ADDRESS")]
    pub streams: Option<SocketAddr>,
    /// Where to serve metrics and health.
    #[arg(long, value_name = "ADDRESS", default_value = "[::1]:9401")]
    pub metrics: SocketAddr,
    /// The form of the log, which goes to stderr.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// It runs VMs.
    Compute,
    /// It carries gateways of networks.
    Router,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object per line.
    Json,
}

impl Cli {
    /// The name of this host.
    pub fn host_name(&self) -> anyhow::Result<String> {
        match &self.host_name {
            Some(name) => Ok(name.clone()),
            None => nix::unistd::gethostname()
                .context("cannot find out the host's name; give it by --host-name")?
                .into_string()
                .map_err(|name| {
                    anyhow::anyhow!("the host's name {} cannot be used; give one by --host-name", name.display())
                }),
        }
    }

    /// What a new host is for.
    pub fn roles(&self) -> Vec<HostRole> {
        let role = |role: &Role| match role {
            Role::Compute => HostRole::Compute,
            Role::Router => HostRole::Router,
        };
        self.roles.iter().map(role).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        let cli =
            Cli::parse_from(["ucloud-agent", "--kubeconfig", "k", "--underlay", "eth0", "--roles", "compute,router"]);
        assert_eq!(cli.roles(), [HostRole::Compute, HostRole::Router]);
        assert_eq!(cli.reserved_memory, "512Mi".parse().unwrap());
    }
}
