//! Runs the fuzz targets of api/machinery/fuzz, one after another.
//!
//! The stable toolchain does: the code has no unsafe parts, so coverage is all that is needed of the compiler, and no sanitizer.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};

/// An input that takes longer is a finding: the server must refuse what is hostile at once.
const INPUT_SECONDS: u32 = 5;
/// A target that takes more memory is a finding.
const MEMORY_MIB: u32 = 1024;
/// The longest input that is tried, in bytes.
const MAX_INPUT: u32 = 16 * 1024;

#[derive(clap::Args)]
pub struct Arguments {
    /// How long each target runs.
    #[arg(long, value_name = "N", default_value_t = 10)]
    minutes: u32,
    /// Which targets run; all if none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
}

/// Runs the targets; fails at the first finding.
pub fn run(root: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    let fuzz = root.join("api/machinery/fuzz");
    let targets = if arguments.targets.is_empty() { all(&fuzz)? } else { arguments.targets.clone() };
    for target in &targets {
        println!("fuzzing {target} for {} minutes", arguments.minutes);
        let status = command(&fuzz, target, arguments.minutes)?.status().context("cannot run cargo fuzz")?;
        ensure!(
            status.success(),
            "{target}: there is a finding, or cargo-fuzz is not installed (`cargo install cargo-fuzz`); \
             an input that was found is in api/machinery/fuzz/artifacts/{target}"
        );
    }
    Ok(())
}

/// The targets are the files.
fn all(fuzz: &Path) -> anyhow::Result<Vec<String>> {
    let folder = fuzz.join("targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = PathBuf::from(entry?.file_name());
        targets.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    targets.sort();
    Ok(targets)
}

fn command(fuzz: &Path, target: &str, minutes: u32) -> anyhow::Result<Command> {
    let seeds = fuzz.join("seeds").join(target);
    // what it finds interesting is kept here from run to run, and is in no commit
    let corpus = fuzz.join("corpus").join(target);
    fs::create_dir_all(&corpus).with_context(|| format!("cannot make {}", corpus.display()))?;
    let mut command = Command::new("cargo");
    command
        .args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"])
        .arg(fuzz)
        .arg(target)
        .arg(corpus)
        .arg(seeds)
        .arg("--")
        .arg(format!("-max_total_time={}", minutes * 60))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
        .arg(format!("-max_len={MAX_INPUT}"));
    Ok(command)
}
