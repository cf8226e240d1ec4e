//! How long each object waits after a failed reconcile.
//!
//! kube's error policy is not told how often an object has failed, so the count is kept here: per UID, so that an
//! object that is made again under the same name starts afresh.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// The wait after the first failure; it doubles with each further one.
pub const FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
pub const LONGEST: Duration = Duration::from_mins(1);

/// The wait after this many failures in a row.
pub fn delay(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST.saturating_mul(1 << doublings).min(LONGEST)
}

/// The version of an object on which a decision depends: a new generation is a new spec, and deletion is a new wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// Whether the object is being deleted.
    pub deleting: bool,
}

#[derive(Default)]
struct History {
    failures: u32,
    given_up_at: Option<Wish>,
}

/// What is remembered of the objects whose last reconcile failed.
#[derive(Default)]
pub struct Failures {
    by_uid: Mutex<HashMap<String, History>>,
}

impl Failures {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, History>) -> T) -> T {
        act(&mut self.by_uid.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a failure and tells how many there were in a row.
    pub fn failed(&self, uid: &str) -> u32 {
        self.with(|map| {
            let history = map.entry(uid.to_owned()).or_default();
            history.failures = history.failures.saturating_add(1);
            history.failures
        })
    }

    /// How many failures in a row there were.
    pub fn count(&self, uid: &str) -> u32 {
        self.with(|map| map.get(uid).map_or(0, |history| history.failures))
    }

    /// Remembers that nothing can be done for the object before it changes.
    pub fn give_up(&self, uid: &str, wish: Wish) {
        self.with(|map| map.entry(uid.to_owned()).or_default().given_up_at = Some(wish));
    }

    /// Whether nothing can be done for the object as it is.
    pub fn is_hopeless(&self, uid: &str, wish: Wish) -> bool {
        self.with(|map| map.get(uid).is_some_and(|history| history.given_up_at == Some(wish)))
    }

    /// Forgets everything: the object is as it should be, or gone.
    pub fn clear(&self, uid: &str) {
        self.with(|map| map.remove(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<u64> = (1..=10).map(|n| u64::try_from(delay(n).as_millis()).unwrap()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(delay(u32::MAX), LONGEST);
    }

    #[test]
    fn success_starts_the_count_again() {
        let failures = Failures::default();
        assert_eq!((failures.failed("a"), failures.failed("a"), failures.failed("b")), (1, 2, 1));
        failures.clear("a");
        assert_eq!(failures.failed("a"), 1);
    }

    /// Pattern 15: there is a way back from a bad spec.
    #[test]
    fn what_is_hopeless_is_tried_again_once_it_changes() {
        let failures = Failures::default();
        let bad = Wish { generation: Some(1), deleting: false };
        failures.give_up("a", bad);
        assert!(failures.is_hopeless("a", bad));
        assert!(!failures.is_hopeless("a", Wish { generation: Some(2), ..bad }));
        assert!(!failures.is_hopeless("a", Wish { deleting: true, ..bad }));
        assert!(!failures.is_hopeless("another", bad));
    }
}
