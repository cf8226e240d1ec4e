//! Sending a file, from where an upload before ended.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use serde_json::{Value, json};
use ucloud_types::image::Sha256;

use super::local::Local;
use crate::{
    cli::{FileUpload, Structured},
    content::Content,
    ensure::{ensure, staying},
    failure, output,
    progress::{Transfer, Unfinished},
    resource::Resource,
    server::{Form, Server},
    watch::{self, Followed, within},
};

/// So many bytes are sent at a time: much, as whoever keeps them makes sure of that at the end of each piece, and not all, so that
/// no request lasts for hours. What has come of a piece that breaks off is kept.
const PIECE: u64 = 1 << 30;
/// At least so many, or all that are left, are sent by themselves at the end: what goes with them must be known before, and that is the
/// checksum of all.
const LAST: u64 = 1 << 20;
/// So often in a row a piece is tried where nothing else is to be done, with pauses that double from the first to the last.
const ATTEMPTS: u32 = 9;
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MOST: Duration = Duration::from_secs(15);
/// A host is chosen within this time, or it is said why not.
const SCHEDULING: Duration = Duration::from_secs(5);
/// What the host has told the sender is in the File's status within this time.
const TOLD: Duration = Duration::from_secs(10);

pub async fn run(server: &Server, options: &FileUpload) -> anyhow::Result<()> {
    let name = options.name.strip_prefix("file/").unwrap_or(&options.name);
    let wanted = Wanted::new(name, Local::open(&options.path)?, options.pool.as_deref());
    let file = upload(server, &wanted).await?;
    match options.output {
        Some(Structured::Json) => output::document(&format!("{file:#}\n")),
        None => output::line(&format!("file.ucloud.ungleich.ch/{name} uploaded ({})", wanted.sha256().await?)),
    }
}

/// A File as it is to be.
pub struct Wanted {
    name: String,
    local: Arc<Local>,
    /// Its checksum, where that is known before it is sent.
    promised: Option<Sha256>,
    pool: Option<String>,
    /// Whose it is: it goes with that.
    pub owner: Option<Value>,
    /// What is told if the upload ends before its end.
    pub unfinished: &'static str,
    /// So often in a row a piece is tried.
    pub attempts: u32,
}

impl Wanted {
    /// A File of this name with these bytes.
    pub fn new(name: &str, local: Local, pool: Option<&str>) -> Self {
        let unfinished = "what has been sent is kept: the same command goes on there";
        let (name, pool, local) = (name.to_owned(), pool.map(str::to_owned), Arc::new(local));
        Self { name, local, promised: None, pool, owner: None, unfinished, attempts: ATTEMPTS }
    }

    /// The same, with this checksum.
    pub fn promised(self, sha256: Sha256) -> Self {
        Self { promised: Some(sha256), ..self }
    }

    /// The first bytes: so many, or all of them where there are fewer.
    pub fn head(&self, length: usize) -> anyhow::Result<Vec<u8>> {
        self.local.head(length)
    }

    /// Their checksum. Takes as long as it takes to read what has not been sent.
    pub async fn sha256(&self) -> anyhow::Result<Sha256> {
        match &self.promised {
            Some(sha256) => Ok(sha256.clone()),
            None => self.sum(self.local.size, true).await,
        }
    }

    /// The checksum of so many of the first bytes. `shown`: with a progress of its own, if it takes long.
    async fn sum(&self, to: u64, shown: bool) -> anyhow::Result<Sha256> {
        let (name, local) = (self.name.clone(), Arc::clone(&self.local));
        // Where it does not keep Ctrl-C waiting
        let summed = tokio::task::spawn_blocking(move || {
            let shown = shown && local.unsummed(to) > LAST;
            let progress = shown.then(|| Transfer::new(format!("{name}: computing its checksum"), local.size));
            local.sum(to, |summed| progress.iter().for_each(|progress| progress.set(summed)))
        });
        summed.await.context("the checksum was not computed")?
    }

    fn object(&self) -> Value {
        let mut object = json!({
            "apiVersion": format!("{}/{}", ucloud_types::GROUP, ucloud_types::VERSION), "kind": "File",
            "metadata": {"name": self.name},
            "spec": {"size": self.local.size.to_string()},
        });
        if let Some(sha256) = &self.promised {
            object["spec"]["sha256"] = json!(sha256);
        }
        if let Some(pool) = &self.pool {
            object["spec"]["pool"] = json!(pool);
        }
        if let Some(owner) = &self.owner {
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        object
    }

    /// Whether the File that is there can be the one that is to be made.
    async fn check(&self, file: &Value) -> anyhow::Result<()> {
        let found = serde_json::from_value::<ucloud_types::FileSpec>(file["spec"].clone())?;
        let size = found.size.bytes();
        let known = ["/spec/sha256", "/status/sha256"].iter().find_map(|field| file.pointer(field)?.as_str());
        let same = size == self.local.size
            && match known {
                Some(known) => known == self.sha256().await?.to_string(),
                None => true,
            };
        if !same {
            return Err(self.other_bytes(size, known.unwrap_or("any")));
        }
        let pool = found.effective_pool();
        if self.pool.as_deref().is_some_and(|wanted| wanted != pool) {
            bail!("file {:?} is there already, in pool {pool}: choose another name, or delete it first", self.name);
        }
        Ok(())
    }

    fn other_bytes(&self, size: u64, sum: &str) -> anyhow::Error {
        anyhow!(
            "file {:?} is there already, for other bytes ({size} of them, {sum}): choose another name, or delete it first",
            self.name
        )
    }

    /// Whether the File that is there is about to go, by itself or with the owner that it had.
    fn is_leaving(&self, file: &Value) -> bool {
        let owners = file.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
        let of_another = |owner: &Value| {
            self.owner.as_ref().is_some_and(|own| {
                owner["kind"] == own["kind"] && owner["name"] == own["name"] && owner["uid"] != own["uid"]
            })
        };
        is_deleting(file) || owners.into_iter().any(of_another)
    }
}

/// Whether the object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Before an owner is made for it: waits for a File that goes with an owner of before, and refuses one of other bytes.
pub async fn prepare(server: &Server, wanted: &Wanted) -> anyhow::Result<()> {
    let kind = server.catalog().await?.one("files.ucloud.ungleich.ch")?;
    match staying(server, &kind, &wanted.name, |file| wanted.is_leaving(file)).await? {
        Some(file) => wanted.check(&file).await,
        None => Ok(()),
    }
}

/// Makes the File if it is missing, and sends what is missing of its bytes; answers the File.
pub async fn upload(server: &Server, wanted: &Wanted) -> anyhow::Result<Value> {
    let kind = server.catalog().await?.one("files.ucloud.ungleich.ch")?;
    let (namespace, name) = (server.namespace.clone(), wanted.name.clone());
    let file = ensure(server, &kind, &name, &wanted.object(), |file| wanted.is_leaving(file)).await?;
    wanted.check(&file).await?;
    if !is_judged(&file) {
        await_host(server, &kind, &name).await?;
    }
    let content = Content::new(server, &kind, &namespace, &name);
    let unfinished = Unfinished::new(wanted.unfinished);
    let progress = Transfer::new(kind.display(&name), wanted.local.size);
    let (mut failures, mut furthest) = (0, None);
    loop {
        let mut offset = None;
        match send(&content, wanted, &progress, &mut offset).await {
            Ok(()) => break,
            Err(error) => {
                // Whoever gets further does not try in vain
                failures = if furthest < offset { 1 } else { failures + 1 };
                furthest = furthest.max(offset);
                if failure::exit_code(&error) == failure::NOT_FOUND {
                    // it was deleted: nothing is kept
                    unfinished.finish();
                    return Err(error);
                }
                if failures >= wanted.attempts || !(failure::is_transient(&error) || failure::is_conflict(&error)) {
                    if content.state().await.is_ok_and(|state| state.offset == 0) {
                        // it was thrown away, or never came
                        unfinished.finish();
                    }
                    return Err(error);
                }
                progress.note(&format!("{error:#}; trying again"));
                tokio::time::sleep((PAUSE_FIRST * (1 << (failures - 1))).min(PAUSE_MOST)).await;
            }
        }
    }
    unfinished.finish();
    drop(progress);
    // Who goes on with the File, such as a script, finds it Ready
    let followed = Followed::object(server, &kind, &namespace, &name);
    let told = watch::until(&followed, |file| match file {
        Some(file) if !is_ready(file) => None,
        other => Some(other.cloned()),
    });
    match within(Some(TOLD), told).await?.flatten() {
        Some(file) => Ok(file),
        None => server.get(&kind, &namespace, &name, Form::Object).await,
    }
}

/// Deletes the File of this name if it was made for bytes of this checksum and lacks some: they will never come.
pub async fn withdraw(server: &Server, name: &str, sha256: &Sha256) -> anyhow::Result<()> {
    let kind = server.catalog().await?.one("files.ucloud.ungleich.ch")?;
    let Some(file) = server.find(&kind, &server.namespace, name).await? else { return Ok(()) };
    match file.pointer("/metadata/uid").and_then(Value::as_str) {
        Some(uid) if is_half(&file, sha256) => server.delete(&kind, &server.namespace, name, uid).await,
        _ => Ok(()),
    }
}

/// Whether the File was made for bytes of this checksum, for itself, and lacks some.
fn is_half(file: &Value, sha256: &Sha256) -> bool {
    let own = file["spec"]["sha256"] == json!(sha256) && file["metadata"]["ownerReferences"].is_null();
    own && !is_ready(file) && !is_deleting(file)
}

fn conditions(object: &Value) -> impl Iterator<Item = &Value> {
    object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten()
}

fn is_ready(file: &Value) -> bool {
    conditions(file).any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Whether a host was chosen, or said why none can be.
fn is_judged(file: &Value) -> bool {
    file.pointer("/status/host").is_some() || conditions(file).any(|condition| condition["type"] == "Scheduled")
}

/// A File that was just made has no host for a moment, which is no failure.
async fn await_host(server: &Server, kind: &Resource, name: &str) -> anyhow::Result<()> {
    let followed = Followed::object(server, kind, &server.namespace, name);
    let judged = watch::until(&followed, |file| file.is_none_or(is_judged).then_some(()));
    within(Some(SCHEDULING), judged).await.map(|_| ())
}

/// Sends all that the host lacks. `offset` is how much it was known to have.
async fn send(
    content: &Content<'_>,
    wanted: &Wanted,
    progress: &Transfer,
    offset: &mut Option<u64>,
) -> anyhow::Result<()> {
    let mut state = content.state().await?;
    loop {
        *offset = Some(state.offset);
        progress.set(state.offset);
        if let Some(found) = state.sha256() {
            return if found == wanted.sha256().await? {
                Ok(())
            } else {
                Err(wanted.other_bytes(state.size, &found.to_string()))
            };
        }
        let left = wanted.local.size.saturating_sub(state.offset);
        let (length, sha256) = match &wanted.promised {
            Some(sha256) => (PIECE, Some(sha256.clone())),
            None if left > LAST => (PIECE.min(left - LAST), None),
            None => (left, Some(wanted.sha256().await?)),
        };
        if wanted.promised.is_none() {
            // Before the request begins, which must not wait for it
            if wanted.local.unsummed(state.offset) > LAST {
                progress.note("computing the checksum of what was sent before");
            }
            wanted.sum(state.offset, false).await?;
        }
        let (piece, mut sending) = wanted.local.piece(state.offset, length);
        let show = async {
            while sending.taken.changed().await.is_ok() {
                progress.set(*sending.taken.borrow_and_update());
            }
            std::future::pending().await
        };
        let appended = tokio::select! {
            appended = content.append(state.offset, piece, sha256.as_ref()) => appended,
            never = show => never,
        };
        state = appended.map_err(|error| sending.failure().map_or(error, Into::into))?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_an_image_that_is_gone_is_not_taken_for_the_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, "bytes").unwrap();
        let mut wanted = Wanted::new("disk", Local::open(&path).unwrap(), None);
        let owner = |uid: &str| json!({"kind": "Image", "name": "disk", "uid": uid});
        wanted.owner = Some(owner("new"));
        let file = |metadata: Value| json!({"metadata": metadata});
        assert!(!wanted.is_leaving(&file(json!({}))));
        assert!(!wanted.is_leaving(&file(json!({"ownerReferences": [owner("new")]}))));
        assert!(wanted.is_leaving(&file(json!({"ownerReferences": [owner("old")]}))));
        assert!(wanted.is_leaving(&file(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}))));
    }

    #[test]
    fn only_what_was_made_for_these_bytes_and_lacks_some_is_taken_back() {
        let sum = Sha256::from([1; 32]);
        let file = |spec: Value, ready: &str| json!({"metadata": {}, "spec": spec, "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        let own = json!({"size": "5", "sha256": sum});
        assert!(is_half(&file(own.clone(), "False"), &sum));
        assert!(!is_half(&file(own.clone(), "True"), &sum), "it is complete");
        assert!(!is_half(&file(json!({"size": "5"}), "False"), &sum), "it may be for any bytes");
        assert!(!is_half(&file(own.clone(), "False"), &Sha256::from([2; 32])));
        let mut of_image = file(own, "False");
        of_image["metadata"]["ownerReferences"] = json!([{"kind": "Image"}]);
        assert!(!is_half(&of_image, &sum));
    }

    #[tokio::test]
    async fn a_file_in_another_pool_or_for_other_bytes_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        std::fs::write(&path, "bytes").unwrap();
        let wanted = |pool| Wanted::new("disk", Local::open(&path).unwrap(), pool);
        let file = json!({"spec": {"size": "5"}});
        for (pool, same) in [(None, true), (Some("default"), true), (Some("other"), false)] {
            assert_eq!(wanted(pool).check(&file).await.is_ok(), same, "{pool:?}");
        }
        let own = wanted(None).sha256().await.unwrap();
        for (size, sha256, same) in [("5", &own, true), ("4", &own, false), ("5", &Sha256::from([1; 32]), false)] {
            let file = json!({"spec": {"size": size, "sha256": sha256}});
            assert_eq!(wanted(None).check(&file).await.is_ok(), same, "{file}");
            assert_eq!(wanted(None).promised(own.clone()).check(&file).await.is_ok(), same, "{file}");
        }
    }
}
