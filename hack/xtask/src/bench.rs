//! Builds what is measured and what measures it, optimised, and runs that in this program's place, so that signals reach it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde::Deserialize;

#[derive(Deserialize)]
struct Metadata {
    target_directory: PathBuf,
}

/// Returns only when it fails.
pub fn run(root: &Path, arguments: &[OsString]) -> anyhow::Result<()> {
    let (what, options) = arguments.split_first().context("nothing to measure")?;
    if what == "net" || what == "storage" {
        // it is about commands on hosts, so it is a script
        let script = root.join("hack/bench").join(what);
        let error = Command::new(&script).args(options).exec();
        return Err(error).with_context(|| format!("cannot run {}", script.display()));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(&cargo)
        .args(["build", "--locked", "--release", "--bins", "-p", "ucloud-api", "-p", "ucloud-bench"])
        .current_dir(root)
        .status()
        .context("cannot run cargo build")?;
    anyhow::ensure!(status.success(), "the build has failed; the compiler's messages are above");
    let output = Command::new(&cargo)
        .args(["metadata", "--format-version", "1", "--no-deps"])
        .current_dir(root)
        .output()
        .context("cannot run cargo metadata")?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    let programs = metadata.target_directory.join("release");
    let error = Command::new(programs.join("ucloud-bench"))
        .arg(what)
        .arg("--program")
        .arg(programs.join("ucloud-api"))
        .args(options)
        .exec();
    Err(error).context("cannot run ucloud-bench")
}
