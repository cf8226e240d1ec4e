//! Live lists that many reconciles share. Whoever wants to prove that something is not there needs a list that began
//! after it asked, and it need not be its own: while one is under way, all who ask wait for the next one together. So a
//! thousand deletions at once do not cost a thousand lists.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use kube::Client;

use super::{Failure, Kind, objects};

/// The lists of one kind.
pub struct Lists<K> {
    client: Client,
    /// Of each namespace, or of all of them (None), as long as somebody asks.
    rounds: Mutex<HashMap<Option<String>, Arc<Rounds<K>>>>,
}

impl<K: Kind> Lists<K> {
    /// Lists by this client.
    pub fn new(client: &Client) -> Self {
        Self { client: client.clone(), rounds: Mutex::default() }
    }

    /// All objects of the namespace, or of all namespaces, as they are on the server at a moment after the call. One
    /// that cannot be read fails the whole list.
    pub async fn fresh(&self, namespace: Option<&str>) -> Result<Arc<Vec<Arc<K>>>, Failure> {
        let key = namespace.map(str::to_owned);
        let rounds = Arc::clone(self.rounds.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let list = rounds
            .fresh(|| async {
                let objects = objects::list(&self.client, namespace, None).await?;
                Ok(objects.into_iter().map(Arc::new).collect())
            })
            .await;
        drop(rounds);
        let mut all = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, rounds| Arc::strong_count(rounds) > 1);
        list
    }
}

/// The rounds of one list. One is under way at a time.
struct Rounds<K> {
    /// Counts who asks and what begins, so that which came first can be told.
    moments: AtomicU64,
    last: tokio::sync::Mutex<(u64, Weak<Vec<Arc<K>>>)>,
}

impl<K> Default for Rounds<K> {
    fn default() -> Self {
        Self { moments: AtomicU64::new(1), last: tokio::sync::Mutex::new((0, Weak::new())) }
    }
}

impl<K> Rounds<K> {
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// What a list that began after this call found.
    async fn fresh<F>(&self, list: impl FnOnce() -> F) -> Result<Arc<Vec<Arc<K>>>, Failure>
    where
        F: Future<Output = Result<Vec<Arc<K>>, Failure>>,
    {
        let asked = self.moment();
        let mut last = self.last.lock().await;
        let (began, found) = &*last;
        if *began > asked
            && let Some(found) = found.upgrade()
        {
            return Ok(found);
        }
        let began = self.moment();
        let found = Arc::new(list().await?);
        *last = (began, Arc::downgrade(&found));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_while_a_list_is_under_way_share_the_next() {
        let (rounds, lists) = (Rounds::<usize>::default(), AtomicUsize::new(0));
        let ask = || {
            rounds.fresh(|| async {
                tokio::task::yield_now().await;
                Ok(vec![Arc::new(lists.fetch_add(1, Ordering::SeqCst))])
            })
        };
        let found: Vec<_> = join_all((0..8).map(|_| ask())).await.into_iter().map(|list| *list.unwrap()[0]).collect();
        assert_eq!(found, [0, 1, 1, 1, 1, 1, 1, 1], "all had asked before the second list began");
        assert_eq!(*ask().await.unwrap()[0], 2, "what was found before is not asked for any more");
    }

    #[tokio::test]
    async fn a_list_that_fails_is_the_failure_of_one() {
        let rounds = Rounds::<usize>::default();
        let fails = rounds.fresh(|| async { Err(Failure::Conflict { doing: "list".to_owned() }) });
        let works = rounds.fresh(|| async { Ok(vec![Arc::new(7)]) });
        let (failed, worked) = tokio::join!(fails, works);
        assert!(failed.is_err());
        assert_eq!(*worked.unwrap()[0], 7);
    }
}
