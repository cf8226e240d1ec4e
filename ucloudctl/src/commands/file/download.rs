//! Fetching a file, from where a download before ended.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use http_body_util::BodyExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256 as Hasher};

use super::local::{checksum, hash};
use crate::{
    cli::{FileDownload, Structured},
    content::Content,
    failure, output,
    progress::{Transfer, Unfinished},
    server::Server,
};

/// So often in a row a download that breaks off goes on where it was.
const ATTEMPTS: u32 = 5;

pub async fn run(server: &Server, options: &FileDownload) -> anyhow::Result<()> {
    let name = options.name.strip_prefix("file/").unwrap_or(&options.name);
    let kind = server.catalog().await?.one("files.ucloud.ungleich.ch")?;
    let content = Content::new(server, &kind, &server.namespace, name);
    let state = content.state().await?;
    let Some(sha256) = state.sha256 else {
        let (offset, size) = (state.offset, state.size);
        bail!("file {name:?} is not complete: {offset} of {size} bytes are there; upload the rest first");
    };
    let progress = Transfer::new(kind.display(name), state.size);
    let mut hasher = Hasher::new();
    if options.path == Path::new("-") {
        let mut stdout = std::io::stdout();
        fetch(&content, 0, state.size, &mut hasher, &mut stdout, &progress).await?;
        drop(progress);
        let found = checksum(hasher);
        if found != sha256 {
            bail!("what was fetched has the checksum {found}, and the file {sha256}: throw it away and try again");
        }
        return Ok(());
    }
    let part = part(&options.path);
    let shown = part.display().to_string();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&part)
        .with_context(|| format!("cannot write {shown}"))?;
    hash(&mut file, &mut hasher, |_| {}).with_context(|| format!("cannot read {shown}"))?;
    let have = file.metadata().with_context(|| format!("cannot look at {shown}"))?.len();
    if have < state.size {
        let unfinished = Unfinished::new("what has come is kept: the same command goes on there");
        fetch(&content, have, state.size, &mut hasher, &mut file, &progress).await?;
        unfinished.finish();
    }
    drop(progress);
    let found = checksum(hasher);
    if found != sha256 {
        fs::remove_file(&part).with_context(|| format!("cannot remove {shown}"))?;
        bail!("what was fetched has the checksum {found}, and the file {sha256}: it was thrown away; try again");
    }
    file.sync_all().with_context(|| format!("cannot write {shown}"))?;
    let path = &options.path;
    fs::rename(&part, path).with_context(|| format!("cannot rename {shown} to {}", path.display()))?;
    match options.output {
        Some(Structured::Json) => {
            let fetched = json!({"name": name, "path": path, "size": state.size, "sha256": sha256});
            output::document(&format!("{fetched:#}\n"))
        }
        None => output::line(&format!("file.ucloud.ungleich.ch/{name} downloaded to {} ({sha256})", path.display())),
    }
}

/// Where the bytes are until all have come.
fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

/// Fetches the bytes from `offset` on, hashes them and hands them on.
async fn fetch(
    content: &Content<'_>,
    mut offset: u64,
    size: u64,
    hasher: &mut Hasher,
    into: &mut impl Write,
    progress: &Transfer,
) -> anyhow::Result<()> {
    let mut failures = 0;
    while offset < size {
        let before = offset;
        let broken = match content.read(offset).await {
            Ok(mut body) => loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Ok(bytes) = frame.into_data() {
                            into.write_all(&bytes)?;
                            hasher.update(&bytes);
                            offset += bytes.len() as u64;
                            progress.set(offset);
                        }
                    }
                    Some(Err(error)) => break Some(anyhow::Error::new(error).context("the download broke off")),
                    None => break None,
                }
            },
            Err(error) if failure::is_transient(&error) => Some(error),
            Err(error) => return Err(error),
        };
        failures = if offset > before { 0 } else { failures + 1 };
        if failures >= ATTEMPTS {
            return Err(broken.unwrap_or_else(|| anyhow::anyhow!("the server sends nothing; try again")));
        }
        if offset < size {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }
    into.flush()?;
    Ok(())
}
