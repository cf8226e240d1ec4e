//! One linearizable read of the store's revision for all callers that wait for one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Mutex;

use crate::storage::{Revision, Storage, StorageError};

/// What a read told; shared by all who waited for it.
type Answer = Result<Revision, Arc<StorageError>>;

/// Shares reads of the current revision. A read that has begun before a caller came may be too old for that caller, so
/// all who come while one is in flight share the next one.
#[derive(Default)]
pub(super) struct Freshness {
    /// How many reads have begun.
    begun: AtomicU64,
    /// The last read that ended: its number, and what came of it. Held while a read is in flight.
    last: Mutex<Option<(u64, Answer)>>,
}

impl Freshness {
    /// A revision that includes every write answered before this call.
    pub(super) async fn current_revision(&self, storage: &dyn Storage) -> Answer {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((number, answer)) = &*last
            && *number > begun_before
        {
            return answer.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = storage.current_revision().await.map_err(Arc::new);
        *last = Some((number, answer.clone()));
        answer
    }
}
