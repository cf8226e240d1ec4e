//! `ucloudctl file upload`, `download` and `scan`.

pub mod local;
mod scan;
pub mod upload;

use super::download;
use crate::{cli::FileCommand, server::Server};

pub async fn run(server: &Server, command: &FileCommand) -> anyhow::Result<()> {
    match command {
        FileCommand::Upload(options) => upload::run(server, options).await,
        FileCommand::Download(options) => download::run(server, "file", options).await,
        FileCommand::Scan(options) => scan::run(server, options).await,
    }
}
