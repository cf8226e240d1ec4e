//! The snapshots that this host takes.
//!
//! That one is about to be taken is written down first: whatever an agent leaves half done, the next one finds by that,
//! throws it away, and takes all of it anew, at one moment. While a VM that does not run is taken, it is not started.

mod keeper;
mod take;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

pub use keeper::run;

/// The VMs and Volumes whose disks must stay as they are, or are another's to change, for the sake of a snapshot.
#[derive(Default)]
pub struct Snapshots {
    /// The name of the snapshot that is being taken of it, or from which it is being restored, by the UID of the VM or Volume.
    sources: Mutex<HashMap<String, String>>,
    released: Notify,
}

impl Snapshots {
    /// The name of the snapshot for which a VM, or one of these Volumes, must stay as it is: it does not run.
    pub fn hold<'a>(&self, uids: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        uids.into_iter().find_map(|uid| sources.get(uid).cloned())
    }

    /// Holds all of these, unless one of them is held.
    pub fn claim(&self, uids: &[String], snapshot: &str) -> bool {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if uids.iter().any(|uid| sources.contains_key(uid)) {
            return false;
        }
        sources.extend(uids.iter().map(|uid| (uid.clone(), snapshot.to_owned())));
        true
    }

    /// Holds these no more.
    pub fn release(&self, uids: &[String]) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.retain(|uid, _| !uids.contains(uid));
        self.released.notify_one();
    }

    /// Returns when something is held no more. One caller at a time is told.
    async fn released(&self) {
        self.released.notified().await;
    }
}
