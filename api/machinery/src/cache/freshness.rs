//! One linearizable read of the store's revision for all callers that wait for one.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::FutureExt as _;
use tokio::sync::watch;

use crate::storage::{Revision, Storage, StorageError};

/// What a read told; shared by all who waited for it.
type Answer = Result<Revision, Arc<StorageError>>;

/// Shares reads of the current revision. A read that has begun before a caller came may be too old for that caller, so
/// all who come while one is in flight share the next one. It begins when that one ends, whoever still waits, and its
/// end wakes all of them at once: a chain in which each wakes the next would cost a switch between threads for each.
#[derive(Default)]
pub(super) struct Freshness {
    reads: Arc<Mutex<Reads>>,
}

#[derive(Default)]
struct Reads {
    /// Whether a task reads, and will see `next`.
    running: bool,
    /// The read that has yet to begin.
    next: Option<watch::Sender<Option<Answer>>>,
}

impl Freshness {
    /// A revision that includes every write answered before this call.
    pub(super) async fn current_revision(&self, storage: &Arc<dyn Storage>) -> Answer {
        let mut answer = self.join(storage);
        match answer.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(answer)) => answer.clone(),
            // the runtime is shutting down
            Ok(None) | Err(_) => Err(Arc::new(failed())),
        }
    }

    fn join(&self, storage: &Arc<dyn Storage>) -> watch::Receiver<Option<Answer>> {
        let mut reads = lock(&self.reads);
        let answer = reads.next.get_or_insert_with(|| watch::Sender::new(None)).subscribe();
        if !reads.running {
            reads.running = true;
            tokio::spawn(run(self.reads.clone(), storage.clone()));
        }
        answer
    }
}

/// Reads for as long as somebody waits.
async fn run(reads: Arc<Mutex<Reads>>, storage: Arc<dyn Storage>) {
    while let Some(read) = begin(&reads) {
        // after a panic others must still be able to read
        let answer = AssertUnwindSafe(storage.current_revision()).catch_unwind().await;
        read.send_replace(Some(answer.unwrap_or_else(|_panic| Err(failed())).map_err(Arc::new)));
    }
}

/// Takes the read that comes next: whoever comes from now on may come too late for it.
fn begin(reads: &Mutex<Reads>) -> Option<watch::Sender<Option<Answer>>> {
    let mut reads = lock(reads);
    let next = reads.next.take();
    reads.running = next.is_some();
    next
}

fn lock(reads: &Mutex<Reads>) -> MutexGuard<'_, Reads> {
    // a panic while it was held cannot leave it inconsistent
    reads.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed() -> StorageError {
    StorageError::unavailable("the read of the store's revision failed")
}
