//! ucloudctl: the command line of ucloud. It reads and writes objects through the API server like any
//! Kubernetes client, and adds what VMs need besides: power, consoles, progress.

mod cli;
mod commands;
mod connection;
mod content;
mod ensure;
mod failure;
mod manifest;
mod output;
mod progress;
mod resource;
mod server;
mod table;
mod takeover;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use failure::Failure;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Err(e) => Err(anyhow::Error::new(e).context("cannot start")),
        Ok(runtime) => {
            let result = runtime.block_on(async {
                tokio::select! {
                    result = commands::run(cli) => result,
                    _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted.into()),
                }
            });
            // tokio reads standard input on a thread that cannot be stopped: it is not waited for
            runtime.shutdown_background();
            result
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_closed(&error) => ExitCode::SUCCESS,
        Err(error) => {
            failure::print(&error);
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
