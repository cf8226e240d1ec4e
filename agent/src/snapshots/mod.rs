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

pub use keeper::run;

/// What is being taken.
#[derive(Default)]
pub struct Snapshots {
    /// The name of the snapshot that is being taken, by the UID of the VM or Volume.
    sources: Mutex<HashMap<String, String>>,
}

impl Snapshots {
    /// The name of the snapshot for which a VM, or one of these Volumes, must stay as it is: it does not run.
    pub fn hold<'a>(&self, uids: impl IntoIterator<Item = &'a str>) -> Option<String> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        uids.into_iter().find_map(|uid| sources.get(uid).cloned())
    }

    fn change<T>(&self, change: impl FnOnce(&mut HashMap<String, String>) -> T) -> T {
        change(&mut self.sources.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
