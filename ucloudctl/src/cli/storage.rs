//! The words of what has to do with disks: volumes, snapshots, orphans, files and images.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use ucloud_types::image::ImageFormat;

use super::{Structured, duration};

#[derive(Args)]
pub struct Attach {
    /// The VM's name
    pub vm: String,
    /// The Volume's name
    pub volume: String,
    /// The name of the VM's disk; the guest finds it as /dev/disk/by-id/virtio-NAME [default: the Volume's name]
    #[arg(long, value_name = "NAME")]
    pub disk: Option<String>,
}

#[derive(Args)]
pub struct Detach {
    /// The VM's name
    pub vm: String,
    /// The Volume's name
    pub volume: String,
}

#[derive(Args)]
pub struct Snapshot {
    /// The VM's name, or volume/NAME
    pub source: String,
    /// The name of the Snapshot
    pub name: String,
    /// How long to wait until it was taken, such as 90s or 5m
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = duration)]
    pub timeout: Duration,
    /// What was taken, as JSON
    #[arg(long, short, value_enum)]
    pub output: Option<Structured>,
}

#[derive(Args)]
pub struct Restore {
    /// The name of the Snapshot
    pub snapshot: String,
    /// The name of the VM to make
    #[arg(required_unless_present = "in_place")]
    pub vm: Option<String>,
    /// Restores the disks of the VM of which it was taken, which is halted; what they hold now is lost
    #[arg(long, conflicts_with = "vm")]
    pub in_place: bool,
    /// How long to wait until it was restored in place, such as 90s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Args)]
pub struct Adopt {
    /// The name of the Orphan
    pub orphan: String,
    /// The name of the Volume to make [default: that of the Orphan]
    #[arg(long = "as", value_name = "NAME")]
    pub volume: Option<String>,
    /// How long to wait until it is made, such as 90s or 5m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
    /// What was made, as JSON
    #[arg(long, short, value_enum)]
    pub output: Option<Structured>,
}

#[derive(Args)]
pub struct Destroy {
    /// The names of the Orphans
    #[arg(required = true, value_name = "ORPHAN")]
    pub orphans: Vec<String>,
    /// Does not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Returns only when they are gone
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub wait: bool,
    /// How long to wait, such as 90s or 5m [default: without end]
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
}

#[derive(Subcommand)]
pub enum FileCommand {
    /// Uploads a file of this machine; run again, it goes on where it was
    #[command(after_help = "Example:\n  ucloudctl file upload installer installer.iso")]
    Upload(FileUpload),
    /// Downloads a file that was uploaded; run again, it goes on where it was
    #[command(after_help = "Examples:\n  ucloudctl file download installer installer.iso\n  \
                            ucloudctl file download notes - | less")]
    Download(Download),
    /// Uploads what is put into a folder, FOLDER/NAMESPACE/NAME, until it is ended
    #[command(
        after_help = "Example:\n  ucloudctl file scan /srv/drop\n\nThe file FOLDER/NAMESPACE/NAME becomes the File NAME in that namespace, once it has not changed for a while, \
                      and stays where it is. Names that begin with a dot or end in .part, .tmp or ~ are left alone."
    )]
    Scan(FileScan),
}

#[derive(Args)]
pub struct FileUpload {
    /// The name of the File; it is made if it is not there
    pub name: String,
    /// Where the bytes are
    pub path: PathBuf,
    /// The StoragePool of a File that is made [default: "default"]
    #[arg(long)]
    pub pool: Option<String>,
    /// Prints the File
    #[arg(long, short, value_enum)]
    pub output: Option<Structured>,
}

#[derive(Args)]
pub struct Download {
    /// Its name
    pub name: String,
    /// Where to put its bytes, or - for standard output
    pub path: PathBuf,
    /// Prints what was downloaded
    #[arg(long, short, value_enum)]
    pub output: Option<Structured>,
}

#[derive(Args)]
pub struct FileScan {
    /// The folder, which has a folder for each namespace
    pub folder: PathBuf,
    /// Looks once, and ends when all that is complete is uploaded; an error if something is not
    #[arg(long)]
    pub once: bool,
    /// For how long a file must not have changed before it is taken for complete, such as 5s or 1m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub settle: Duration,
    /// The StoragePool of Files that are made [default: "default"]
    #[arg(long)]
    pub pool: Option<String>,
    /// Prints what happens as JSON, an object in a line
    #[arg(long, short, value_enum)]
    pub output: Option<Structured>,
}

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Uploads a disk image and makes an Image of it; run again, it goes on where it was
    #[command(
        after_help = "Example:\n  ucloudctl image upload debian-12 debian-12.qcow2\n\nWhat is compressed (gz, xz, zst) is sent as it is, and unpacked by the host."
    )]
    Upload(ImageUpload),
    /// Downloads the disk that an Image holds, as raw bytes; run again, it goes on where it was
    #[command(after_help = "Examples:\n  ucloudctl image download before-upgrade-root root.raw\n  \
                            ucloudctl image download before-upgrade-root - | zstd > root.raw.zst\n  \
                            qemu-img convert -O qcow2 root.raw root.qcow2\n\n\
                            What is zeros comes over the network, and takes no room in the file.")]
    Download(Download),
}

#[derive(Subcommand)]
pub enum VolumeCommand {
    /// Downloads a Volume that no VM has, as raw bytes; run again, it goes on where it was
    #[command(after_help = "Examples:\n  ucloudctl volume download data data.raw\n  \
                            ucloudctl volume download data - | zstd > data.raw.zst\n\n\
                            Of one that a VM has, take a snapshot and download its image:\n  \
                            ucloudctl snapshot volume/data monday\n  \
                            ucloudctl image download monday-volume data.raw\n\n\
                            What is zeros comes over the network, and takes no room in the file.")]
    Download(Download),
}

#[derive(Args)]
pub struct ImageUpload {
    /// The name of the Image, and of the File that it is made from
    pub name: String,
    /// Where the bytes are
    pub path: PathBuf,
    /// The format of the disk [default: what the bytes begin as; of a compressed one what its name says]
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The StoragePool [default: "default"]
    #[arg(long)]
    pub pool: Option<String>,
    /// How long to wait for the import once all is uploaded, such as 90s or 5m
    #[arg(long, default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
    /// Prints the Image
    #[arg(long, short, value_enum)]
    pub output: Option<Structured>,
}

/// The format of a disk image.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Qcow2,
    Raw,
    Vmdk,
    Vhdx,
    Vdi,
}

impl From<Format> for ImageFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Qcow2 => Self::Qcow2,
            Format::Raw => Self::Raw,
            Format::Vmdk => Self::Vmdk,
            Format::Vhdx => Self::Vhdx,
            Format::Vdi => Self::Vdi,
        }
    }
}
