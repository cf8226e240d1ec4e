//! The command line's words, as they are typed.

mod storage;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use storage::{
    Adopt, Attach, Destroy, Detach, Download, FileCommand, FileScan, FileUpload, ImageCommand, ImageUpload, Restore,
    Snapshot, VolumeCommand,
};

/// The command line of ucloud: virtual machines that are run like Kubernetes.
#[derive(Parser)]
#[command(
    name = "ucloudctl",
    version,
    disable_version_flag = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the object does not exist, 4 timed out, 130 interrupted.\n\n\
                  Everything here works with kubectl too, but for start, stop, restart, attach, detach, snapshot, restore, adopt, destroy, console, file, image and volume."
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the API server is and who asks.
#[derive(Args)]
pub struct Connection {
    /// The kubeconfig file [default: those of $KUBECONFIG, else admin.kubeconfig in $UCLOUD_DATA or /var/lib/ucloud if it is there, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace (project) [default: that of the kubeconfig's context, else "default"]
    #[arg(long, short, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Makes or changes objects so that they are as the files say
    #[command(after_help = "Examples:\n  ucloudctl apply -f vm.yaml\n  ucloudctl apply -f manifests/ -f more.yaml\n  \
                            cat vm.yaml | ucloudctl apply -f -")]
    Apply(Apply),
    /// Shows objects
    #[command(after_help = "Examples:\n  ucloudctl get vms\n  ucloudctl get vms,networks -A -o wide\n  \
                            ucloudctl get vm/web -o yaml\n  ucloudctl get vms -w")]
    Get(Get),
    /// Shows all there is to know of an object: spec, status, conditions, events
    #[command(after_help = "Example:\n  ucloudctl describe vm web")]
    Describe(Describe),
    /// Deletes objects, and waits until they are gone
    #[command(after_help = "Examples:\n  ucloudctl delete vm web\n  ucloudctl delete -f vm.yaml\n  \
                            ucloudctl delete vms -l app=web --wait=false")]
    Delete(Delete),
    /// Waits until objects are as they should be
    #[command(after_help = "Examples:\n  ucloudctl wait --for=condition=Ready vm/web --timeout 3m\n  \
                            ucloudctl wait --for=jsonpath='{.status.phase}'=Stopped vm/web\n  \
                            ucloudctl wait --for=delete vm/web")]
    Wait(Wait),
    /// Starts VMs
    Start(Power),
    /// Shuts VMs down; the guest is asked first, and switched off when its grace period is over
    Stop(Power),
    /// Shuts VMs down and starts them again
    Restart(Power),
    /// Gives a VM a volume, which one VM at a time has; it may run
    #[command(after_help = "Examples:\n  ucloudctl attach web data\n  \
                            ucloudctl wait --for=jsonpath={.status.phase}=Attached volume/data")]
    Attach(Attach),
    /// Has a VM give a volume back; it may run. Unmount what is on it first
    #[command(after_help = "Examples:\n  ucloudctl detach web data\n  \
                            ucloudctl wait --for=jsonpath={.status.phase}=Available volume/data")]
    Detach(Detach),
    /// Keeps the disks of a VM, or a volume, as they are at this moment; the VM may run
    #[command(after_help = "Examples:\n  ucloudctl snapshot web before-upgrade\n  \
                            ucloudctl snapshot volume/data monday")]
    Snapshot(Snapshot),
    /// Makes a VM of a snapshot, or takes the VM of which it was taken back to it
    #[command(after_help = "Examples:\n  ucloudctl restore before-upgrade web-2\n  \
                            ucloudctl stop web && ucloudctl wait --for=jsonpath='{.status.phase}'=Stopped vm/web\n  \
                            ucloudctl restore before-upgrade --in-place")]
    Restore(Restore),
    /// Makes a volume of a disk that belongs to no object (`ucloudctl get orphans`)
    #[command(after_help = "Examples:\n  ucloudctl adopt disk-3f9a2b71c04d5e66 --as rescued\n  \
                            ucloudctl adopt disk-3f9a2b71c04d5e66 -n shop --as data")]
    Adopt(Adopt),
    /// Destroys what belongs to no object (`ucloudctl get orphans`), and waits until it is gone
    #[command(after_help = "Examples:\n  ucloudctl destroy domain-91c04d5e663f9a2b\n  \
                            ucloudctl destroy disk-3f9a2b71c04d5e66 --yes\n\n\
                            Nothing is destroyed to which there is an object, whoever says so.")]
    Destroy(Destroy),
    /// Connects to a VM's serial console, on the host that runs it (Ctrl-] leaves)
    #[command(after_help = "Examples:\n  ucloudctl console web\n  ucloudctl console web --log --lines 50")]
    Console(Console),
    /// Uploads files and downloads them
    #[command(subcommand)]
    File(FileCommand),
    /// Makes images of files of this machine, and downloads images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Downloads volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Shows what happened, to all objects or to one
    #[command(after_help = "Examples:\n  ucloudctl events\n  ucloudctl events vm/web -w")]
    Events(Events),
    /// Prints a script that completes ucloudctl's commands in a shell
    #[command(after_help = "Example:\n  ucloudctl completion bash > /etc/bash_completion.d/ucloudctl")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Prints the versions of ucloudctl and of the API server
    Version {
        /// As JSON
        #[arg(long, short, value_enum)]
        output: Option<Structured>,
    },
}

#[derive(Args)]
pub struct Apply {
    #[command(flatten)]
    pub files: Files,
    /// Has the API server check everything, and changes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Takes fields that others own
    #[arg(long)]
    pub force_conflicts: bool,
    /// The name under which the fields in the files are owned
    #[arg(long, value_name = "NAME", default_value = "ucloudctl")]
    pub field_manager: String,
}

/// Where objects are described.
#[derive(Args)]
pub struct Files {
    /// A YAML or JSON file, a folder of them, or - for standard input; may be given more than once
    #[arg(long = "filename", short, required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Goes into the folders of folders
    #[arg(long, short = 'R')]
    pub recursive: bool,
}

/// Which of a kind's objects are meant.
#[derive(Args)]
pub struct Selection {
    /// Only objects with these labels, such as app=web,tier!=db
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// Only objects with these fields, such as status.binding.host=host1
    #[arg(long)]
    pub field_selector: Option<String>,
    /// In all namespaces
    #[arg(long, short = 'A')]
    pub all_namespaces: bool,
}

#[derive(Args)]
pub struct Get {
    /// KIND, KIND NAME..., KIND/NAME... or KIND,KIND...
    #[arg(required = true, value_name = "KIND[/NAME]")]
    pub what: Vec<String>,
    #[command(flatten)]
    pub selection: Selection,
    /// How to print them [default: a table]
    #[arg(long, short, value_enum)]
    pub output: Option<Output>,
    /// Goes on showing changes
    #[arg(long, short)]
    pub watch: bool,
    /// No header line
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table with more columns
    Wide,
    Yaml,
    Json,
    /// KIND/NAME alone
    Name,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Structured {
    Json,
}

#[derive(Args)]
pub struct Describe {
    /// KIND NAME... or KIND/NAME...
    #[arg(required = true, value_name = "KIND[/NAME]")]
    pub what: Vec<String>,
}

#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are the flags of a command line")]
pub struct Delete {
    /// KIND NAME... or KIND/NAME...
    #[arg(required_unless_present = "files", value_name = "KIND[/NAME]")]
    pub what: Vec<String>,
    /// The objects that these files describe
    #[arg(long = "filename", short, conflicts_with = "what", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Goes into the folders of folders
    #[arg(long, short = 'R', requires = "files")]
    pub recursive: bool,
    /// Only objects with these labels
    #[arg(long, short = 'l')]
    pub selector: Option<String>,
    /// All objects of the kind in the namespace
    #[arg(long, conflicts_with = "selector")]
    pub all: bool,
    /// An object that does not exist is no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Returns only when the objects are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub wait: bool,
    /// How long to wait, such as 90s or 5m [default: without end]
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
}

#[derive(Args)]
pub struct Wait {
    /// KIND NAME... or KIND/NAME...
    #[arg(required = true, value_name = "KIND[/NAME]")]
    pub what: Vec<String>,
    /// condition=TYPE, condition=TYPE=STATUS, jsonpath={.path}=VALUE, or delete
    #[arg(long = "for", value_name = "WHAT")]
    pub for_: String,
    /// How long to wait, such as 90s or 5m
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Args)]
pub struct Power {
    /// The VMs' names
    #[arg(required = true, value_name = "VM")]
    pub vms: Vec<String>,
}

#[derive(Args)]
pub struct Console {
    /// The VM's name
    pub vm: String,
    /// Prints what the console has shown, and ends
    #[arg(long)]
    pub log: bool,
    /// How many of the log's last lines
    #[arg(long, default_value_t = 20, requires = "log")]
    pub lines: usize,
    /// Where ucloud keeps its state on this host
    #[arg(long, env = "UCLOUD_DATA", default_value = "/var/lib/ucloud", value_name = "DIR")]
    pub data: PathBuf,
}

#[derive(Args)]
pub struct Events {
    /// KIND NAME or KIND/NAME [default: everything in the namespace]
    #[arg(value_name = "KIND[/NAME]")]
    pub what: Vec<String>,
    /// In all namespaces
    #[arg(long, short = 'A', conflicts_with = "what")]
    pub all_namespaces: bool,
    /// Goes on showing new events
    #[arg(long, short)]
    pub watch: bool,
}

/// A duration as Kubernetes writes it: a sum of numbers with units h, m, s, ms.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration; write 90s, 5m or 1h30m");
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit = &rest[digits..];
        let (millis, length) = match unit.as_bytes() {
            [b'm', b's', ..] => (1, 2),
            [b'h', ..] => (3_600_000, 1),
            [b'm', ..] => (60_000, 1),
            [b's', ..] => (1_000, 1),
            _ => return Err(wrong()),
        };
        sum = number
            .checked_mul(millis)
            .and_then(|millis| sum.checked_add(Duration::from_millis(millis)))
            .ok_or_else(wrong)?;
        rest = &unit[length..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_are_kubernetes_durations() {
        for (text, seconds) in [("90s", 90), ("5m", 300), ("1h30m", 5400), ("0s", 0), ("1500ms", 1)] {
            assert_eq!(duration(text).map(|d| d.as_secs()), Ok(seconds), "{text}");
        }
        for text in ["", "5", "s", "5 m", "-5s", "5d", "99999999999999999999h", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text:?} was accepted");
        }
    }
}
