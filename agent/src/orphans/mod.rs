//! What is on the host, and in its pools, and belongs to no object: found by every survey, reported in the Host's status, and
//! destroyed or given to a Volume when an Orphan says so.
//!
//! This host's caches explain most of what there is; of the rest the API server is asked, which knows the objects of all hosts. It
//! is asked again immediately before anything is done. UIDs are given once: whom there is no object of now, there never will be,
//! unless the API server loses its memory or gets an older one back.

mod keeper;
mod look;

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;
use ucloud_types::orphan::HostOrphan;

pub use keeper::run;
pub use look::look;

/// What was tried with orphans.
pub struct Orphans {
    /// Those of which it failed, each with why.
    failed: Mutex<Vec<(HostOrphan, String)>>,
    changed: watch::Sender<u64>,
}

impl Default for Orphans {
    fn default() -> Self {
        Self { failed: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Orphans {
    /// Changes whenever something was done, so that the host should be looked at anew.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Adds to a report why nothing was done.
    pub fn explain(&self, report: &mut [HostOrphan]) {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        for orphan in report {
            orphan.error = failed.iter().find(|(of, _)| of.is(orphan)).map(|(_, why)| why.clone());
        }
    }

    /// Notes how it went, and tells of it where that is news.
    fn note(&self, orphan: &HostOrphan, failure: Option<String>) {
        let news = {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            let before = failed.iter().position(|(of, _)| of.is(orphan)).map(|index| failed.remove(index).1);
            let news = failure.is_none() || before != failure;
            failed.extend(failure.map(|failure| (orphan.clone(), failure)));
            news
        };
        if news {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Forgets those of which `keep` does not hold.
    fn retain(&self, keep: impl Fn(&HostOrphan) -> bool) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).retain(|(orphan, _)| keep(orphan));
    }
}
