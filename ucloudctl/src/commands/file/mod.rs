//! `ucloudctl file upload` and `download`.

pub mod local;
pub mod upload;

use super::download;
use crate::{cli::FileCommand, server::Server};

pub async fn run(server: &Server, command: &FileCommand) -> anyhow::Result<()> {
    match command {
        FileCommand::Upload(options) => upload::run(server, options).await,
        FileCommand::Download(options) => download::run(server, "file", options).await,
    }
}
