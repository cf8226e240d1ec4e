//! Project tasks, run as `cargo xtask TASK`: writes the files that are generated, and checks what no compiler does.

mod bench;
mod crds;
mod dependencies;
mod fuzz;
mod stubs;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Project tasks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Writes manifests/crds from the kinds.
    Generate,
    /// Checks that generated files are up to date, who depends on whom, and that nothing was left undone.
    Check,
    /// Measures a part of ucloud, once that and the benchmark are built: `cargo xtask bench api --help`,
    /// `cargo xtask bench net --help`, `cargo xtask bench storage --help`.
    Bench {
        /// What to measure, and how.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Feeds what strangers send to the parsers that read it, for some minutes each. Needs `cargo install cargo-fuzz`.
    Fuzz(fuzz::Arguments),
}

/// The root of the workspace: cargo tells each program it runs where its package is. Without cargo it is the present folder.
fn root() -> anyhow::Result<PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| "hack/xtask".into(), PathBuf::from);
    package.join("../..").canonicalize().context("run this as `cargo xtask`, or in the root of the workspace")
}

fn main() -> anyhow::Result<()> {
    let root = root()?;
    match Arguments::parse().task {
        Task::Generate => crds::generate(&root),
        Task::Check => {
            let findings = [crds::check(&root)?, dependencies::check(&root)?, stubs::check(&root)?].concat();
            anyhow::ensure!(findings.is_empty(), "{}", findings.join("\n"));
            println!("generated files, dependency rules and sources: no findings");
            Ok(())
        }
        Task::Bench { arguments } => bench::run(&root, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&root, &arguments),
    }
}
