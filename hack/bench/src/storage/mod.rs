//! Disks and images in Ceph, beside what Ceph's and QEMU's own programs do with the same cluster in the same run:
//! root disks beside `rbd clone`, imports and uploads beside `qemu-img convert`.
//!
//! Ours is measured where agents call it, at `BlockStore` of [`Rbd`], and uploads from where users begin, at `ucloudctl
//! image upload`. Both sides take turns, so that whatever else the machine does meets both. `ceph` runs the programs,
//! `clones` and `uploads` measure, `report` keeps and shows the figures.

mod ceph;
mod clones;
mod report;
mod uploads;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use ucloud_agent_import::{ImportConfig, Importer};
use ucloud_agent_rbd::{Pools, Rbd};

use crate::machine::Machine;
use ceph::Ceph;
use report::Report;

/// How long Ceph may take to answer, as for agents.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is measured, and with what.
#[derive(Args)]
pub struct StorageArgs {
    /// The cluster's configuration.
    #[arg(long, value_name = "FILE")]
    conf: PathBuf,
    /// Ceph's user, who may write to both pools.
    #[arg(long, value_name = "NAME", default_value = "admin")]
    user: String,
    /// The pool in which disks are made and images are imported. Nobody else may use it.
    #[arg(long, value_name = "POOL", default_value = "bench")]
    pool: String,
    /// A folder for files, with the images to be imported in `import/bench`: `image.raw` and `image.qcow2`, of the same disk.
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// ucloudctl, to upload images with; it finds the API server by itself.
    #[arg(long, value_name = "FILE")]
    ucloudctl: PathBuf,
    /// The StoragePool that images are uploaded to, and the pool of Ceph in which it is.
    #[arg(long, value_names = ["STORAGEPOOL", "POOL"], num_args = 2)]
    upload_to: Vec<String>,
    /// The agent's process, to tell what it takes of memory.
    #[arg(long, value_name = "PID")]
    agent_pid: u32,
    /// How many disks are made one after the other.
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    disks: u32,
    /// How many disks are made at once.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    at_once: u32,
    /// How often each image is imported and uploaded.
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// How the programs that are measured were built, for the report.
    #[arg(long, value_name = "TEXT", default_value = "unknown")]
    build: String,
    /// Where the figures go.
    #[arg(long, value_name = "FILE", default_value = "target/bench/storage.json")]
    json: PathBuf,
}

/// Measures everything.
pub fn run(arguments: &StorageArgs) -> anyhow::Result<()> {
    // As in an agent.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(measure(arguments))
}

async fn measure(arguments: &StorageArgs) -> anyhow::Result<()> {
    let folder = &arguments.folder;
    let import = ImportConfig { import_dir: folder.join("import"), ..ImportConfig::default() };
    let pools = Arc::new(Pools::new(PATIENCE));
    let rbd = Rbd::new(pools, Arc::new(Importer::new(import)?), folder.join("scratch"))?;
    let ceph = Ceph { conf: arguments.conf.clone(), user: arguments.user.clone(), pool: arguments.pool.clone() };
    let mut report = Report::new(Machine::here()?, arguments.build.clone())?;
    report.introduce();
    clones::measure(&rbd, &ceph, arguments, &mut report).await?;
    uploads::measure(&rbd, &ceph, arguments, &mut report).await?;
    report.show();
    report.save(&arguments.json)
}
