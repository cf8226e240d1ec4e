//! The Files that the host keeps: what there is of them is reported, and removed when their File goes. Their bytes come
//! and go by [`crate::streams`].

mod keeper;
mod source;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use ucloud_agent_core::{
    HostError,
    file_store::{AppendError, FileRequest, Stored},
};
use ucloud_types::File;

use crate::shared::Shared;

pub use keeper::run;
pub use source::FileSource;

/// What is known of Files beside what is on the disk.
pub struct Files {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    /// A File is complete, which is worth a report of its own.
    awaited: Notify,
}

#[derive(Default)]
struct State {
    /// How many are at it to add bytes to a File at this moment, by its UID.
    coming: BTreeMap<String, usize>,
    /// Why bytes were not taken the last time, by the File's UID.
    failed: BTreeMap<String, Failed>,
}

/// Why bytes were not taken.
#[derive(Clone)]
enum Failed {
    /// They were the wrong ones, and were thrown away.
    Checksum(String),
    /// The host could not keep them.
    Host { reason: &'static str, message: String },
}

impl Default for Files {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::channel(0).0, awaited: Notify::new() }
    }
}

impl Files {
    /// Changes whenever there may be something new to report.
    fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// There may be something new to report.
    pub fn changed(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody is at it to add bytes to the File.
    fn is_coming(&self, uid: &str) -> bool {
        self.state().coming.contains_key(uid)
    }
}

/// Bytes of a File are coming, as long as this is there.
struct Coming<'a> {
    files: &'a Files,
    uid: &'a str,
}

impl<'a> Coming<'a> {
    fn begin(files: &'a Files, uid: &'a str) -> Self {
        *files.state().coming.entry(uid.to_owned()).or_default() += 1;
        Self { files, uid }
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        let mut state = self.files.state();
        if let Some(count) = state.coming.get_mut(self.uid) {
            *count -= 1;
            if *count == 0 {
                state.coming.remove(self.uid);
            }
        }
    }
}

/// Whether this is the File with the UID, and is to stay.
pub fn is_live(file: &File, uid: &str) -> bool {
    file.metadata.uid.as_deref() == Some(uid) && file.metadata.deletion_timestamp.is_none()
}

/// Whether the File is there, as far as is known, and is to stay.
pub fn is_wanted(shared: &Shared, request: &FileRequest) -> bool {
    let file = shared.caches.files.get(Some(&request.namespace), &request.name);
    file.is_some_and(|file| is_live(&file, &request.uid))
}

/// Appends to a File, and keeps account of it. Goes on to its end also where nobody waits for it.
pub async fn append(
    shared: Arc<Shared>,
    request: FileRequest,
    offset: u64,
    bytes: mpsc::Receiver<Bytes>,
) -> Result<Stored, AppendError> {
    let appended = append_wanted(&shared, &request, offset, bytes).await;
    if let Ok(Stored::Complete(_)) = appended {
        shared.files.awaited.notify_one();
    }
    shared.files.changed();
    appended
}

async fn append_wanted(
    shared: &Shared,
    request: &FileRequest,
    offset: u64,
    bytes: mpsc::Receiver<Bytes>,
) -> Result<Stored, AppendError> {
    let _coming = Coming::begin(&shared.files, &request.uid);
    // Who removes the bytes has first seen that the File goes, and then that none are coming. So either that is known here
    // by now, or the removal waits: nothing is made anew behind it
    if !is_wanted(shared, request) {
        return Err(gone(request));
    }
    let appended = shared.machine.files.append(request, offset, bytes).await;
    let mut state = shared.files.state();
    let failed = &mut state.failed;
    match &appended {
        Err(error @ AppendError::Checksum { .. }) => {
            failed.insert(request.uid.clone(), Failed::Checksum(error.to_string()));
        }
        Err(AppendError::Host(error)) => {
            let failure = Failed::Host { reason: error.reason, message: error.message.clone() };
            failed.insert(request.uid.clone(), failure);
        }
        // that the wrong bytes were thrown away is worth knowing until others are there
        Ok(Stored::Partial(0)) | Err(_) => {}
        Ok(_) => {
            failed.remove(&request.uid);
        }
    }
    appended
}

fn gone(request: &FileRequest) -> AppendError {
    let message = format!("file {}/{} is being deleted", request.namespace, request.name);
    HostError::terminal(FILE_GONE, message).into()
}

/// The File is not to be kept any more.
pub const FILE_GONE: &str = "FileGone";
