//! `ucloudctl version`.

use serde_json::json;

use crate::{cli::Structured, output, server::Server};

/// Prints both versions. That of the server is missing when it does not answer, and the error says why.
pub async fn run(server: &Server, output: Option<Structured>) -> anyhow::Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    let theirs = server.version().await;
    if output == Some(Structured::Json) {
        let document = json!({ "client": own, "server": theirs.as_ref().ok() });
        output::line(&serde_json::to_string_pretty(&document)?)?;
    } else {
        output::line(&format!("ucloudctl {own}"))?;
        if let Ok(info) = &theirs {
            output::line(&format!("API server {}", info["gitVersion"].as_str().unwrap_or("of unknown version")))?;
        }
    }
    theirs.map(|_| ())
}
