//! The program `nft`: a script goes in by its standard input, a listing comes out as JSON.

use std::{io, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, process::Command};

/// The longest that one call may take. A host with a thousand taps needs seconds.
const LIMIT: Duration = Duration::from_mins(1);

/// Why nft did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NftError {
    #[error("cannot run nft; install the package nftables")]
    Run(#[source] io::Error),
    #[error("nft did not end within {} s", LIMIT.as_secs())]
    Slow,
    #[error("nft failed: {0}")]
    Failed(String),
    #[error("cannot read what nft lists")]
    Listing(#[from] serde_json::Error),
}

/// Carries out the script, all of it or nothing.
pub(crate) async fn apply(script: &str) -> Result<(), NftError> {
    run(&["-f", "-"], script).await.map(drop)
}

/// What is in the table, if there is one.
pub(crate) async fn list(family: &str, table: &str) -> Result<Option<Value>, NftError> {
    match run(&["-j", "-s", "list", "table", family, table], "").await {
        Ok(listing) => Ok(Some(serde_json::from_slice(&listing)?)),
        Err(NftError::Failed(message)) if message.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn run(arguments: &[&str], input: &str) -> Result<Vec<u8>, NftError> {
    let mut nft = Command::new("nft")
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(NftError::Run)?;
    let stdin = nft.stdin.take();
    let work = async {
        if let Some(mut stdin) = stdin {
            match stdin.write_all(input.as_bytes()).await {
                // it says itself why it did not read on
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
                written => written?,
            }
        }
        nft.wait_with_output().await
    };
    let output = tokio::time::timeout(LIMIT, work).await.map_err(|_| NftError::Slow)?.map_err(NftError::Run)?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        let said = String::from_utf8_lossy(&output.stderr);
        // The first line says what is wrong; the others quote the script
        Err(NftError::Failed(said.lines().next().unwrap_or("it did not say why").to_owned()))
    }
}
