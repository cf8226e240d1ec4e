//! One level's seats, and the queues of those who wait for them.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::RequestLimits;

/// Why a request is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many wait already, of this user or in all.
    QueueFull,
    /// It waited as long as any may.
    TooLong,
}

/// Seats for requests in work.
pub(crate) struct Gate {
    limits: RequestLimits,
    state: Mutex<State>,
    queue_full: AtomicU64,
    too_long: AtomicU64,
    admitted: AtomicU64,
}

#[derive(Default)]
struct State {
    taken: usize,
    waiting: usize,
    /// The users who have requests in work or waiting.
    users: HashMap<Arc<str>, User>,
    /// The users who have requests waiting; the first one is next.
    turns: VecDeque<Arc<str>>,
    tickets: u64,
}

#[derive(Default)]
struct User {
    taken: usize,
    waiting: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A seat, until it is dropped.
pub(crate) struct Seat<'a> {
    gate: &'a Gate,
    user: Arc<str>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.gate.lock().leave(&self.user, &self.gate.limits);
    }
}

/// A place in the queue, which may be left at any moment.
struct Place<'a> {
    gate: &'a Gate,
    user: Arc<str>,
    ticket: u64,
    seated: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.seated {
            return;
        }
        let mut state = self.gate.lock();
        if !state.withdraw(&self.user, self.ticket) {
            // it was given a seat at the moment in which it went
            state.leave(&self.user, &self.gate.limits);
        }
    }
}

impl Gate {
    pub(crate) fn new(limits: RequestLimits) -> Self {
        let zero = || AtomicU64::new(0);
        Self { limits, state: Mutex::default(), queue_full: zero(), too_long: zero(), admitted: zero() }
    }

    /// Waits for a seat for `user`.
    pub(crate) async fn admit(&self, user: &str) -> Result<Seat<'_>, Refusal> {
        let (mut place, seated) = match self.lock().enter(user, &self.limits) {
            Entry::Seated(user) => {
                self.admitted.fetch_add(1, Ordering::Relaxed);
                return Ok(Seat { gate: self, user });
            }
            Entry::Refused => {
                self.queue_full.fetch_add(1, Ordering::Relaxed);
                return Err(Refusal::QueueFull);
            }
            Entry::Queued { user, ticket, seated } => (Place { gate: self, user, ticket, seated: false }, seated),
        };
        // the sender is dropped only with the place itself
        if !matches!(tokio::time::timeout(self.limits.patience, seated).await, Ok(Ok(()))) {
            self.too_long.fetch_add(1, Ordering::Relaxed);
            return Err(Refusal::TooLong);
        }
        place.seated = true;
        self.admitted.fetch_add(1, Ordering::Relaxed);
        Ok(Seat { gate: self, user: place.user.clone() })
    }

    /// How many requests are in work, and how many wait.
    pub(crate) fn occupancy(&self) -> (usize, usize) {
        let state = self.lock();
        (state.taken, state.waiting)
    }

    /// How many seats there are.
    pub(crate) fn seats(&self) -> usize {
        self.limits.concurrent
    }

    /// How many requests got a seat, found the queue full, and waited too long, since the start.
    pub(crate) fn totals(&self) -> [u64; 3] {
        [&self.admitted, &self.queue_full, &self.too_long].map(|total| total.load(Ordering::Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // counts are changed in infallible steps: a panic elsewhere leaves them right
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What becomes of a request that comes.
enum Entry {
    Seated(Arc<str>),
    Queued { user: Arc<str>, ticket: u64, seated: oneshot::Receiver<()> },
    Refused,
}

impl State {
    fn enter(&mut self, name: &str, limits: &RequestLimits) -> Entry {
        let key = match self.users.get_key_value(name) {
            Some((key, _)) => key.clone(),
            None => Arc::from(name),
        };
        let user = self.users.entry(key.clone()).or_default();
        if self.taken < limits.concurrent && user.taken < limits.concurrent_per_user && user.waiting.is_empty() {
            self.taken += 1;
            user.taken += 1;
            return Entry::Seated(key);
        }
        if self.waiting >= limits.queued || user.waiting.len() >= limits.queued_per_user {
            self.forget_idle(&key);
            return Entry::Refused;
        }
        let (sender, seated) = oneshot::channel();
        self.tickets += 1;
        self.waiting += 1;
        if user.waiting.is_empty() {
            self.turns.push_back(key.clone());
        }
        user.waiting.push_back((self.tickets, sender));
        Entry::Queued { user: key, ticket: self.tickets, seated }
    }

    /// Gives a seat back, and to whoever is next.
    fn leave(&mut self, key: &Arc<str>, limits: &RequestLimits) {
        self.taken -= 1;
        if let Some(user) = self.users.get_mut(key) {
            user.taken -= 1;
        }
        self.forget_idle(key);
        // those who have all the seats that one user may have are passed over, and keep their turn
        let mut passed_over = VecDeque::new();
        while self.taken < limits.concurrent
            && let Some(key) = self.turns.pop_front()
        {
            let Some(user) = self.users.get_mut(&key) else { continue };
            if user.taken >= limits.concurrent_per_user {
                passed_over.push_back(key);
                continue;
            }
            if let Some((_, seated)) = user.waiting.pop_front() {
                self.taken += 1;
                user.taken += 1;
                self.waiting -= 1;
                // if nobody hears it, the place gives the seat back when it is dropped
                let _ = seated.send(());
            }
            if !user.waiting.is_empty() {
                self.turns.push_back(key);
            }
        }
        while let Some(key) = passed_over.pop_back() {
            self.turns.push_front(key);
        }
    }

    /// Takes a request out of its queue; false if it is not there any more.
    fn withdraw(&mut self, key: &Arc<str>, ticket: u64) -> bool {
        let Some(user) = self.users.get_mut(key) else { return false };
        let Ok(at) = user.waiting.binary_search_by_key(&ticket, |(ticket, _)| *ticket) else { return false };
        user.waiting.remove(at);
        self.waiting -= 1;
        if user.waiting.is_empty() {
            self.turns.retain(|waiting| waiting != key);
        }
        self.forget_idle(key);
        true
    }

    fn forget_idle(&mut self, key: &Arc<str>) {
        if self.users.get(key).is_some_and(|user| user.taken == 0 && user.waiting.is_empty()) {
            self.users.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;
    use proptest::prelude::*;

    use super::*;

    fn limits() -> RequestLimits {
        RequestLimits {
            concurrent: 3,
            concurrent_per_user: 2,
            queued: 6,
            queued_per_user: 4,
            patience: Duration::from_secs(5),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn users_take_turns() {
        let gate = Gate::new(limits());
        let first = gate.admit("bulk").await.unwrap();
        let second = gate.admit("bulk").await.unwrap();
        let mut bulk: Vec<_> = (0..4).map(|_| Box::pin(gate.admit("bulk"))).collect();
        assert!(bulk.iter_mut().all(|waiting| waiting.now_or_never().is_none()), "its own two seats are taken");
        let other = gate.admit("other").await.unwrap();
        let mut third = Box::pin(gate.admit("other"));
        assert!((&mut third).now_or_never().is_none(), "all seats are taken");
        assert!(matches!(gate.admit("bulk").await, Err(Refusal::QueueFull)), "no more than four of one user wait");
        assert_eq!(gate.occupancy(), (3, 5));

        drop(first);
        let bulk_next = bulk.remove(0).now_or_never().expect("the first in the queue").unwrap();
        drop(bulk_next);
        let third = third.now_or_never().expect("then the other one's turn").unwrap();
        assert!(bulk[0].as_mut().now_or_never().is_none());
        drop((second, third, other));
        assert_eq!(gate.occupancy(), (2, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_of_one_user_do_not_delay_another() {
        let gate = Gate::new(RequestLimits { concurrent: 4, queued: 10_000, queued_per_user: 5_000, ..limits() });
        let mut flood: Vec<_> = (0..5_002).map(|_| Box::pin(gate.admit("bulk"))).collect();
        let mut seats: Vec<_> = flood.iter_mut().filter_map(futures::FutureExt::now_or_never).collect();
        assert_eq!((seats.len(), gate.occupancy()), (2, (2, 5_000)));
        for request in flood.iter_mut().skip(2).take(100) {
            let seat = gate.admit("other").now_or_never().expect("no wait").unwrap();
            drop(seat);
            // the flood moves on meanwhile, and gets no more than its share
            drop(seats.remove(0));
            seats.push(request.now_or_never().expect("the next one"));
            assert_eq!(gate.occupancy().0, 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_sent_away_and_forgotten() {
        let gate = Gate::new(RequestLimits { concurrent: 1, ..limits() });
        let seat = gate.admit("a").await.unwrap();
        assert!(matches!(gate.admit("b").await, Err(Refusal::TooLong)));
        assert_eq!((gate.occupancy(), gate.totals()), ((1, 0), [1, 0, 1]));
        // one that goes away while it waits, and one that goes away after it was given its seat
        let mut gone = Box::pin(gate.admit("b"));
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        let mut seated = Box::pin(gate.admit("b"));
        assert!((&mut seated).now_or_never().is_none());
        drop(seat);
        assert_eq!(gate.occupancy(), (1, 0));
        drop(seated);
        assert_eq!(gate.occupancy(), (0, 0));
        assert!(gate.lock().users.is_empty() && gate.lock().turns.is_empty());
    }

    proptest! {
        /// Whoever comes and goes in whatever order: limits hold, no seat is lost, and none is free while somebody
        /// waits who may have it.
        #[test]
        fn seats_are_neither_lost_nor_left_empty(steps in prop::collection::vec((0..4_usize, 0..3_usize), 1..200)) {
            let gate = Gate::new(limits());
            let names = ["a", "b", "c", "d"];
            let mut waiting = Vec::new();
            let mut seats = Vec::new();
            tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
                for (user, step) in steps {
                    match step {
                        0 => waiting.push((user, Box::pin(gate.admit(names[user])))),
                        1 if !seats.is_empty() => drop(seats.swap_remove(user % seats.len())),
                        2 if !waiting.is_empty() => drop(waiting.swap_remove(user % waiting.len())),
                        _ => {}
                    }
                    let mut still = Vec::new();
                    for (user, mut request) in std::mem::take(&mut waiting) {
                        match (&mut request).now_or_never() {
                            Some(Ok(seat)) => seats.push((user, seat)),
                            Some(Err(_)) => {}
                            None => still.push((user, request)),
                        }
                    }
                    waiting = still;
                    let of = |user: usize| seats.iter().filter(|(owner, _)| *owner == user).count();
                    assert_eq!(gate.occupancy(), (seats.len(), waiting.len()));
                    assert!(seats.len() <= 3 && (0..4).all(|user| of(user) <= 2));
                    assert!(seats.len() == 3 || waiting.iter().all(|(user, _)| of(*user) == 2));
                }
            });
        }
    }
}
