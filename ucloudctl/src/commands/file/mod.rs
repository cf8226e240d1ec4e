//! `ucloudctl file upload` and `download`.

mod download;
pub mod local;
pub mod upload;

use crate::{cli::FileCommand, server::Server};

pub async fn run(server: &Server, command: &FileCommand) -> anyhow::Result<()> {
    match command {
        FileCommand::Upload(options) => upload::run(server, options).await,
        FileCommand::Download(options) => download::run(server, options).await,
    }
}
