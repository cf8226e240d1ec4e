//! What the user asked for: options as they are given, then with everything decided.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::kind::Kind;
use crate::steps::Workload;
use crate::storage::StorageArgs;

/// Measures ucloud.
#[derive(Parser)]
#[command(name = "ucloud-bench", bin_name = "cargo xtask bench")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Puts load on an API server, and shows its speed and what it costs.
    ///
    /// Without --kubeconfig it starts an etcd and a ucloud-api of its own, on free ports of the loopback interface and
    /// with all files in a temporary folder, and ends and removes both at the end. Raw transactions of an etcd that
    /// serves nothing else are measured in alternation with the server's creates, as the limit of what is possible.
    #[command(after_help = "Examples:\n  \
        cargo xtask bench api                                  all of it, some minutes\n  \
        cargo xtask bench api --quick                          some seconds: does it work at all?\n  \
        cargo xtask bench api --only raw-etcd,create --rounds 5\n  \
        cargo xtask bench api --kubeconfig ~/.kube/config --context kind --kind configmap")]
    Api(ApiArgs),
    /// Measures disks and images in Ceph. hack/bench/storage makes all that this needs.
    Storage(StorageArgs),
}

#[derive(Args)]
pub struct ApiArgs {
    /// The ucloud-api to start; `cargo xtask bench` gives the one that it has built.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Measure the server of this kubeconfig instead.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context [default: its current one]
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// The process of that server, to tell what it takes of CPU and memory.
    #[arg(long, value_name = "PID", requires = "kubeconfig")]
    server_pid: Option<u32>,
    /// The process of that server's etcd.
    #[arg(long, value_name = "PID", requires = "kubeconfig")]
    etcd_pid: Option<u32>,
    /// The kind of the objects, each of which has 1.5 KiB [default: vm, and configmap with --kubeconfig]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// How many objects there are [default: 10000, 300 with --quick]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(100..=100_000))]
    objects: Option<u64>,
    /// How often everything is measured [default: 3, 1 with --quick]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each single measurement lasts [default: 2, 0.2 with --quick]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// How many clients there are at once.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', default_values_t = [1, 16, 64])]
    clients: Vec<usize>,
    /// How many watchers there are at once [default: 100, 10 with --quick]
    #[arg(long, value_name = "NUMBER")]
    watchers: Option<usize>,
    /// Measure these alone.
    #[arg(long, value_enum, value_name = "WORKLOAD", value_delimiter = ',')]
    only: Vec<Workload>,
    /// Fewer objects and shorter measurements: whether everything works, not how fast it is.
    #[arg(long)]
    quick: bool,
    /// Where the figures go.
    #[arg(long, value_name = "FILE", default_value = "target/bench/api.json")]
    json: PathBuf,
    /// Where the picture of them goes.
    #[arg(long, value_name = "FILE", default_value = "target/bench/api.svg")]
    plot: PathBuf,
}

/// What is not told is so.
struct Usual {
    objects: u64,
    rounds: u32,
    seconds: f64,
    watchers: usize,
}

const FULL: Usual = Usual { objects: 10_000, rounds: 3, seconds: 2.0, watchers: 100 };
const QUICK: Usual = Usual { objects: 300, rounds: 1, seconds: 0.2, watchers: 10 };

/// Which server is measured.
#[derive(Debug)]
pub enum Server {
    /// One that is started for it, from this program.
    Own(PathBuf),
    /// One that runs already.
    Foreign {
        kubeconfig: PathBuf,
        context: Option<String>,
        server_pid: Option<u32>,
        etcd_pid: Option<u32>,
        /// Makes the certificates of the etcd that it is compared with.
        program: Option<PathBuf>,
    },
}

/// The options with everything decided.
#[derive(Debug)]
pub struct Settings {
    pub server: Server,
    pub kind: Kind,
    pub objects: u64,
    pub rounds: u32,
    /// How long a single measurement lasts.
    pub duration: Duration,
    pub clients: Vec<usize>,
    pub watchers: usize,
    /// Empty for all.
    pub only: Vec<Workload>,
    pub json: PathBuf,
    pub plot: PathBuf,
}

impl Settings {
    pub fn new(arguments: ApiArgs) -> anyhow::Result<Self> {
        let server = match (arguments.kubeconfig, arguments.program) {
            (Some(kubeconfig), program) => Server::Foreign {
                kubeconfig,
                program,
                context: arguments.context,
                server_pid: arguments.server_pid,
                etcd_pid: arguments.etcd_pid,
            },
            (None, Some(program)) => Server::Own(program),
            (None, None) => {
                anyhow::bail!("no server to measure: give --kubeconfig, or run this as `cargo xtask bench api`")
            }
        };
        let usual = if arguments.quick { &QUICK } else { &FULL };
        let seconds = arguments.seconds.unwrap_or(usual.seconds);
        anyhow::ensure!((0.05..=600.0).contains(&seconds), "--seconds {seconds}: must be from 0.05 to 600");
        let watchers = arguments.watchers.unwrap_or(usual.watchers);
        anyhow::ensure!((1..=10_000).contains(&watchers), "--watchers {watchers}: must be from 1 to 10000");
        anyhow::ensure!(
            arguments.clients.iter().all(|clients| (1..=1000).contains(clients)),
            "--clients: must be from 1 to 1000"
        );
        let kind = arguments.kind.unwrap_or(match server {
            Server::Own(_) => Kind::Vm,
            Server::Foreign { .. } => Kind::Configmap,
        });
        Ok(Self {
            server,
            kind,
            objects: arguments.objects.unwrap_or(usual.objects),
            rounds: arguments.rounds.unwrap_or(usual.rounds),
            duration: Duration::from_secs_f64(seconds),
            clients: arguments.clients,
            watchers,
            only: arguments.only,
            json: arguments.json,
            plot: arguments.plot,
        })
    }
}
