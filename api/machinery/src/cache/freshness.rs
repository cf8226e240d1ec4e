//! One linearizable read of the store's revision for all callers that wait for one.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::Mutex;

use crate::storage::{Revision, Storage, StorageError};

/// Shares reads of the current revision. A read that has begun before a caller came may be too old for that caller, so
/// all who come while one is in flight share the next one.
#[derive(Default)]
pub(super) struct Freshness {
    /// How many reads have begun.
    begun: AtomicU64,
    /// The last read that ended: its number, and what came of it. Held while a read is in flight.
    last: Mutex<Option<(u64, Result<Revision, Arc<StorageError>>)>>,
}

impl Freshness {
    /// A revision that includes every write answered before this call.
    pub(super) async fn current_revision(&self, storage: &dyn Storage) -> Result<Revision, Arc<StorageError>> {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some((number, result)) = &*last
            && *number > begun_before
        {
            return result.clone();
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let result = storage.current_revision().await.map_err(Arc::new);
        *last = Some((number, result.clone()));
        result
    }
}
