//! Fetching the bytes of a File, an Image or a Volume, from where a download before ended.

mod part;

use std::{io::Write, path::Path};

use anyhow::{Context as _, bail};
use http_body_util::BodyExt as _;
use serde_json::json;
use sha2::{Digest as _, Sha256 as Hasher};
use ucloud_types::{Quantity, image::Sha256};

use super::file::local::checksum;
use crate::{
    cli::{Download, Structured},
    content::{Content, State},
    failure, output,
    progress::{Transfer, Unfinished},
    server::Server,
};
use part::Part;

/// So often in a row a download that breaks off goes on where it was.
const ATTEMPTS: u32 = 5;

/// Downloads what belongs to an object of the kind `what`: file, image or volume.
pub async fn run(server: &Server, what: &str, options: &Download) -> anyhow::Result<()> {
    let name = options.name.strip_prefix(what).and_then(|rest| rest.strip_prefix('/')).unwrap_or(&options.name);
    let kind = server.catalog().await?.one(&format!("{what}s.ucloud.ungleich.ch"))?;
    let content = Content::new(server, &kind, &server.namespace, name);
    let state = content.state().await?;
    let Some(tag) = state.tag.as_deref().filter(|_| state.offset == state.size) else {
        let State { offset, size, .. } = state;
        bail!("{what} {name:?} is not complete: {offset} of {size} bytes are there; upload the rest first");
    };
    let progress = Transfer::new(kind.display(name), state.size);
    let sha256 = state.sha256();
    let mut hasher = sha256.as_ref().map(|_| Hasher::new());
    let fetch = Fetch { content: &content, tag, size: state.size, progress: &progress };
    if options.path == Path::new("-") {
        fetch.fetch(0, &mut Hashed { into: std::io::stdout(), hasher: hasher.as_mut() }).await?;
        drop(progress);
        return check(hasher, sha256.as_ref(), "throw it away and try again");
    }
    let path = &options.path;
    let mut part = match &mut hasher {
        Some(hasher) => Part::of_file(path, state.size, hasher)?,
        None => Part::of_disk(path, state.size, tag)?,
    };
    if part.at() < state.size {
        let unfinished = Unfinished::new("what has come is kept: the same command goes on there");
        fetch.fetch(part.at(), &mut Hashed { into: &mut part, hasher: hasher.as_mut() }).await?;
        unfinished.finish();
    }
    drop(progress);
    if let Err(error) = check(hasher, sha256.as_ref(), "it was thrown away; try again") {
        part.discard()?;
        return Err(error);
    }
    part.finish(path)?;
    match options.output {
        Some(Structured::Json) => {
            let mut fetched = json!({"name": name, "path": path, "size": state.size});
            if let Some(sha256) = sha256 {
                fetched["sha256"] = json!(sha256);
            }
            output::document(&format!("{fetched:#}\n"))
        }
        None => {
            let said = sha256.map_or_else(|| raw(state.size), |sha256| sha256.to_string());
            output::line(&format!("{} downloaded to {} ({said})", kind.display(name), path.display()))
        }
    }
}

fn raw(size: u64) -> String {
    format!("a raw disk of {}", Quantity::from_bytes(size))
}

/// Whether the bytes are those that were to come, where there is a checksum of them.
fn check(hasher: Option<Hasher>, wanted: Option<&Sha256>, next: &str) -> anyhow::Result<()> {
    let found = hasher.map(checksum);
    match (wanted, &found) {
        (Some(wanted), Some(found)) if wanted != found => {
            bail!("what was fetched has the checksum {found}, and the file {wanted}: {next}")
        }
        _ => Ok(()),
    }
}

/// Hashes what is written, if that is wanted.
struct Hashed<'a, W> {
    into: W,
    hasher: Option<&'a mut Hasher>,
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.into.write(bytes)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[..written]);
        }
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.into.flush()
    }
}

/// What is fetched.
struct Fetch<'a> {
    content: &'a Content<'a>,
    tag: &'a str,
    size: u64,
    progress: &'a Transfer,
}

impl Fetch<'_> {
    /// Fetches the bytes from `offset` on and hands them on.
    async fn fetch(&self, mut offset: u64, into: &mut impl Write) -> anyhow::Result<()> {
        let mut failures = 0;
        while offset < self.size {
            let before = offset;
            let broken = match self.content.read(offset, self.tag).await {
                Ok(mut body) => loop {
                    match body.frame().await {
                        Some(Ok(frame)) => {
                            if let Ok(bytes) = frame.into_data() {
                                into.write_all(&bytes).context("cannot write what has come")?;
                                offset += bytes.len() as u64;
                                self.progress.set(offset);
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
            if offset < self.size {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
        into.flush()?;
        Ok(())
    }
}
