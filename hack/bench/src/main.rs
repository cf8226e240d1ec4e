//! `ucloud-bench`: measures ucloud. `cargo xtask bench api` builds it and the server, and runs it; `cargo xtask bench storage`
//! makes what [`storage`] needs besides.
//!
//! `settings` is what the user asked for; `subject` is the server that is measured (one of our own, or any other);
//! `http` talks to it; `load` drives it in closed loops; `run` goes through the steps; `results` keeps every figure,
//! and `targets`, `terminal` and `plot` show them.

mod http;
mod kind;
mod lists;
mod load;
mod machine;
mod plot;
mod raw;
mod results;
mod run;
mod settings;
mod steps;
mod storage;
mod subject;
mod targets;
mod terminal;
mod watches;

use std::pin::pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let result = match settings::Cli::parse().command {
        settings::Command::Api(arguments) => api(arguments),
        settings::Command::Storage(arguments) => storage::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn api(arguments: settings::ApiArgs) -> anyhow::Result<()> {
    // One thread: the generator must leave the cores to what it measures.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(until_told_to_stop(arguments))
}

/// Whatever ends the run, what it started and made is ended and removed.
async fn until_told_to_stop(arguments: settings::ApiArgs) -> anyhow::Result<()> {
    let settings = settings::Settings::new(arguments)?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut told = pin!(async {
        tokio::select! {
            _ = interrupt.recv() => anyhow::anyhow!("interrupted"),
            _ = terminate.recv() => anyhow::anyhow!("told to stop"),
        }
    });
    let (mut subject, start) = tokio::select! {
        started = subject::Subject::start(&settings) => started?,
        told = &mut told => return Err(told),
    };
    let start = start.map(results::milliseconds);
    subject.make_room().await?;
    let result = tokio::select! {
        result = run::run(&settings, &mut subject, start) => result,
        told = &mut told => Err(told),
    };
    result.and(subject.tidy_up().await)
}
