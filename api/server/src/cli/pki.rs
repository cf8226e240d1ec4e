//! `ucloud-api pki`: makes what is missing, and says what it made.

use std::{path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use jiff::{Timestamp, tz::TimeZone};
use ucloud_api::pki::{AltName, Directory, HostName, Made, ServerUrl};
use ucloud_types::host::HostRole;

#[derive(Subcommand)]
pub enum PkiCommand {
    /// Make the authorities, the servers' certificates, and the kubeconfigs of the administrator and the controllers.
    ///
    /// What is there and good is left alone; what is about to expire, or lacks a name, is made anew. So it can be run
    /// at every start. Programs read their certificates when they start.
    #[command(
        after_help = "Example:\n  ucloud-api pki init --dir /etc/ucloud/pki --kubeconfig-dir /etc/ucloud \\\n    \
            --server https://[fd00::1]:6443 --san api.example.com"
    )]
    Init(InitArgs),
    /// Make the kubeconfig with which a host's agent reaches the API.
    #[command(
        after_help = "Example:\n  ucloud-api pki agent --dir /etc/ucloud/pki --host h1 --server https://[fd00::1]:6443 \
            --out h1.kubeconfig"
    )]
    Agent(AgentArgs),
}

#[derive(Args)]
pub struct InitArgs {
    /// The folder of the certificates and keys.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The folder for admin.kubeconfig and controllers.kubeconfig.
    #[arg(long, value_name = "DIR")]
    kubeconfig_dir: PathBuf,
    /// Where clients reach the API server, as written into the kubeconfigs. Its host goes into the servers' certificates.
    #[arg(long, value_name = "URL")]
    server: ServerUrl,
    /// A further DNS name or IP address for the servers' certificates, besides localhost, ::1 and 127.0.0.1. May be repeated.
    #[arg(long = "san", value_name = "NAME")]
    names: Vec<AltName>,
}

#[derive(Args)]
pub struct AgentArgs {
    /// The folder of the certificates and keys.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The host's name.
    #[arg(long, value_name = "NAME")]
    host: HostName,
    /// The roles that the host may have. The agent registers its host with these, or with some of them.
    #[arg(long, value_name = "ROLE", value_delimiter = ',', default_value = "compute,router")]
    roles: Vec<Role>,
    /// Where the agent reaches the API server.
    #[arg(long, value_name = "URL")]
    server: ServerUrl,
    /// The kubeconfig to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    /// It runs VMs.
    Compute,
    /// It carries gateways of networks.
    Router,
}

impl From<Role> for HostRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Compute => Self::Compute,
            Role::Router => Self::Router,
        }
    }
}

pub fn run(command: PkiCommand) -> anyhow::Result<()> {
    let now = SystemTime::now();
    let made = match command {
        PkiCommand::Init(InitArgs { dir, kubeconfig_dir, server, names }) => {
            Directory::new(dir, now).init(&server, &names, &kubeconfig_dir)?
        }
        PkiCommand::Agent(AgentArgs { dir, host, roles, server, out }) => {
            let roles: Vec<HostRole> = roles.into_iter().map(HostRole::from).collect();
            Directory::new(dir, now).agent(&host, &roles, &server, &out)?
        }
    };
    if made.is_empty() {
        println!("nothing to do: all certificates are there and valid");
    }
    for certificate in &made {
        println!("{}", line(certificate));
    }
    Ok(())
}

fn line(made: &Made) -> String {
    let until = made
        .expires
        .and_then(|end| Timestamp::try_from(end).ok())
        .map_or_else(|| "?".to_owned(), |end| end.to_zoned(TimeZone::UTC).date().to_string());
    let what = format!("{} ({}, valid until {until})", made.path.display(), made.subject);
    match &made.replaced {
        None => format!("made    {what}"),
        Some(flaw) => format!("renewed {what}: {flaw}"),
    }
}
