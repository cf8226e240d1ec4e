//! The commands, one file each.

mod apply;
mod console;
mod delete;
mod describe;
mod download;
mod events;
mod file;
mod get;
mod image;
mod orphan;
mod power;
mod snapshot;
mod version;
mod volume;
mod wait;

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Command, VolumeCommand},
    connection,
};

/// Runs the command that was typed.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    if let Command::Completion { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "ucloudctl", &mut std::io::stdout());
        return Ok(());
    }
    // two providers may be compiled in through dependencies; ours is ring. A second installation is refused, and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = connection::connect(&cli.connection).await?;
    match cli.command {
        Command::Apply(options) => apply::run(&server, &options).await,
        Command::Get(options) => get::run(&server, &options).await,
        Command::Describe(options) => describe::run(&server, &options).await,
        Command::Delete(options) => delete::run(&server, &options).await,
        Command::Wait(options) => wait::run(&server, &options).await,
        Command::Start(options) => power::run(&server, &options, "start", "start requested").await,
        Command::Stop(options) => power::run(&server, &options, "stop", "shutdown requested").await,
        Command::Restart(options) => power::run(&server, &options, "restart", "restart requested").await,
        Command::Snapshot(options) => snapshot::take(&server, &options).await,
        Command::Restore(options) => snapshot::restore(&server, &options).await,
        Command::Attach(options) => volume::attach(&server, &options).await,
        Command::Detach(options) => volume::detach(&server, &options).await,
        Command::Adopt(options) => orphan::adopt(&server, &options).await,
        Command::Destroy(options) => orphan::destroy(&server, &options).await,
        Command::Console(options) => console::run(&server, &options).await,
        Command::File(command) => file::run(&server, &command).await,
        Command::Image(command) => image::run(&server, &command).await,
        Command::Volume(VolumeCommand::Download(options)) => download::run(&server, "volume", &options).await,
        Command::Events(options) => events::run(&server, &options).await,
        Command::Version { output } => version::run(&server, output).await,
        Command::Completion { .. } => Ok(()),
    }
}
