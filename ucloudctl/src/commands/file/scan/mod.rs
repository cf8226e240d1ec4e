//! `ucloudctl file scan`: what is put into a drop folder becomes Files, FOLDER/NAMESPACE/NAME the File NAME of that namespace.
//!
//! A file is taken once it has not changed for a while, since nothing else tells that it is complete. It stays where it is, and
//! as long as it does, what is wrong with it is tried again. A File is made and never replaced.

mod folder;
mod plan;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::bail;
use serde_json::json;
use ucloud_types::image::Sha256;

use super::{
    local::Local,
    upload::{Wanted, is_deleting, upload, withdraw},
};
use crate::{
    cli::{FileScan, Structured},
    failure, output,
    server::Server,
};
use folder::{Entry, Identity};
use plan::{Known, Step, better_name};

/// So often the folder is looked at, and a file that is being uploaded.
const LOOK: Duration = Duration::from_secs(2);

/// Scans until it is ended, or once.
pub async fn run(server: &Server, options: &FileScan) -> anyhow::Result<()> {
    let mut scan = Scan { server, options, files: BTreeMap::new() };
    scan.pass().await?;
    if options.once {
        tokio::time::sleep(options.settle).await;
        scan.pass().await?;
        return scan.result();
    }
    loop {
        tokio::time::sleep(LOOK).await;
        // a folder that is not there at the moment may be again
        if let Err(error) = scan.pass().await {
            if output::is_closed(&error) {
                return Err(error);
            }
            scan.say(Path::new(""), State::Failed, &format!("{error:#}"))?;
        }
    }
}

/// What is said of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Uploading,
    Uploaded,
    Failed,
}

/// A file, or something else, in the folder.
#[derive(Default)]
struct File {
    known: Option<Known>,
    said: Option<(State, String)>,
}

struct Scan<'a> {
    server: &'a Server,
    options: &'a FileScan,
    files: BTreeMap<PathBuf, File>,
}

impl Scan<'_> {
    /// Looks at all that is there, and uploads what is complete, one file after the other.
    async fn pass(&mut self) -> anyhow::Result<()> {
        let entries = folder::list(&self.options.folder)?;
        let present: BTreeMap<_, _> =
            entries.iter().map(|entry| (&entry.path, entry.seen.as_ref().ok().copied())).collect();
        for (path, file) in &self.files {
            let identity = present.get(path).copied().flatten();
            if let Some(half) = file.known.as_ref().and_then(|known| known.half(identity)) {
                self.withdraw(path, half).await;
            }
        }
        self.files.retain(|path, _| present.contains_key(path));
        for Entry { path, seen } in entries {
            match seen {
                Ok(identity) => self.file(&path, identity).await?,
                Err(why) => {
                    self.files.entry(path.clone()).or_default().known = None;
                    self.say(&path, State::Failed, &why)?;
                }
            }
        }
        Ok(())
    }

    async fn file(&mut self, path: &Path, identity: Identity) -> anyhow::Result<()> {
        let (namespace, name) = match names(path) {
            Ok(names) => names,
            Err(why) => return self.say(path, State::Failed, &why),
        };
        let (now, settle) = (Instant::now(), self.options.settle);
        let file = self.files.entry(path.to_owned()).or_default();
        let known = file.known.get_or_insert_with(|| Known::new(identity, now));
        match known.seen(identity, now, settle) {
            Step::Leave => return Ok(()),
            Step::Settle => {
                let what = if identity.size == 0 {
                    "is not empty any more".to_owned()
                } else {
                    format!("has not changed for {settle:?}")
                };
                return self.say(path, State::Waiting, &format!("waiting until it {what}"));
            }
            Step::Upload => {}
        }
        let sum = known.sum.clone();
        self.say(path, State::Uploading, "uploading")?;
        let (server, folder) = (self.server.within(namespace), &self.options.folder);
        let mut attempt = Attempt { server, folder, path, identity, sum };
        let sent = attempt.send(namespace, name, self.options.pool.as_deref()).await;
        let is_still = folder::is_still(folder, path, &identity);
        let known =
            self.files.entry(path.to_owned()).or_default().known.get_or_insert_with(|| Known::new(identity, now));
        known.sum = attempt.sum;
        match sent {
            Ok(Some(sum)) => {
                known.uploaded = true;
                self.say(path, State::Uploaded, &format!("is file/{name} in namespace {namespace} ({sum})"))
            }
            Err(error) if is_still => {
                known.failed(Instant::now());
                self.say(path, State::Failed, &format!("{error:#}; it is tried again"))
            }
            // the next look finds another file, or none
            Ok(None) | Err(_) => self.say(path, State::Waiting, "it has changed meanwhile: beginning anew"),
        }
    }

    /// Takes back what was made for bytes that will never be complete.
    async fn withdraw(&self, path: &Path, sum: &Sha256) {
        let Ok((namespace, name)) = names(path) else { return };
        if let Err(error) = withdraw(&self.server.within(namespace), name, sum).await {
            failure::note(&format!("cannot take back what was sent of {}: {error:#}", path.display()));
        }
    }

    /// Says how it is with a file, unless that was said.
    fn say(&mut self, path: &Path, state: State, message: &str) -> anyhow::Result<()> {
        let file = self.files.entry(path.to_owned()).or_default();
        let said = (state, message.to_owned());
        // of what is tried again only the result is news
        if file.said.as_ref() == Some(&said)
            || (state == State::Uploading && matches!(file.said, Some((State::Failed, _))))
        {
            return Ok(());
        }
        file.said = Some(said);
        let shown = self.options.folder.join(path);
        match self.options.output {
            Some(Structured::Json) => {
                let line = json!({"path": shown.to_string_lossy(), "state": format!("{state:?}"), "message": message});
                output::document(&format!("{line}\n"))
            }
            None => output::line(&output::one_line(&format!("{}: {message}", shown.display()))),
        }
    }

    /// Whether all that was there is uploaded.
    fn result(&self) -> anyhow::Result<()> {
        let uploaded =
            self.files.values().filter(|file| file.known.as_ref().is_some_and(|known| known.uploaded)).count();
        let all = self.files.len();
        if uploaded < all {
            bail!("{} of {all} were not uploaded", all - uploaded);
        }
        Ok(())
    }
}

/// The namespace and the name of a file that becomes a File, or why it becomes none.
fn names(path: &Path) -> Result<(&str, &str), String> {
    let text = path.to_str().ok_or("its name is no UTF-8: rename it")?;
    let (namespace, name) =
        text.split_once('/').ok_or("is in no namespace: move it into a folder that has the name of one")?;
    match better_name(name) {
        Some(better) => Err(format!("no File can have the name {name:?}: rename it, such as to {better}")),
        None => Ok((namespace, name)),
    }
}

/// One attempt to upload a file.
struct Attempt<'a> {
    server: Server,
    folder: &'a Path,
    path: &'a Path,
    identity: Identity,
    /// Its checksum, once that is known.
    sum: Option<Sha256>,
}

impl Attempt<'_> {
    /// Sends the file; nothing if it changed before it was sent.
    async fn send(&mut self, namespace: &str, name: &str, pool: Option<&str>) -> anyhow::Result<Option<Sha256>> {
        let kind = self.server.catalog().await?.one("files.ucloud.ungleich.ch")?;
        if self.server.find(&kind, namespace, name).await?.is_some_and(|file| is_deleting(&file)) {
            // to wait for its end would be to keep others waiting
            bail!("file {name:?} is being deleted");
        }
        let file = folder::open_file(self.folder, namespace, name, &self.identity)?;
        let wanted = Wanted::new(name, Local::of(file, &self.folder.join(self.path))?, pool);
        // It is known for the whole life of this file, and what was sent of it is found again by it
        let sum = match &self.sum {
            Some(sum) => sum.clone(),
            None => wanted.sha256().await?,
        };
        self.sum = Some(sum.clone());
        let mut wanted = wanted.promised(sum);
        // whatever breaks off is taken up again, and others go on meanwhile
        wanted.attempts = 1;
        wanted.unfinished = "what has been sent is kept, as long as the file stays as it is";
        tokio::select! {
            biased;
            () = changed(self.folder, self.path, &self.identity) => Ok(None),
            sent = upload(&self.server, &wanted) => sent.map(|_| self.sum.clone()),
        }
    }
}

/// Ends when the file is not what it was.
async fn changed(folder: &Path, path: &Path, identity: &Identity) {
    while folder::is_still(folder, path, identity) {
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_says_what_it_becomes() {
        assert_eq!(names(Path::new("p/installer.iso")), Ok(("p", "installer.iso")));
        assert!(names(Path::new("installer.iso")).unwrap_err().contains("is in no namespace"));
        let why = names(Path::new("p/Debian 12.ISO")).unwrap_err();
        assert!(why.contains("rename it, such as to debian-12.iso"), "{why}");
    }
}
