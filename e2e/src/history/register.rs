//! Linearizability of one object: whether all operations on it can be put in one order that agrees with real time and in which
//! each answer is what a register with compare-and-swap gives.
//!
//! The search is Wing and Gong's with Lowe's memory of what was tried ("Testing for linearizability", 2017). An operation whose
//! answer was lost may have taken effect at any time since it was sent, or never.

use std::collections::{BTreeMap, HashSet};

use super::{Id, Key};

/// What was asked, with the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create; `false`: it exists already.
    Create(Id, Answer<bool>),
    /// Write over `expected`; `false`: that is not what there is.
    Update {
        /// What the writer had read.
        expected: Id,
        /// What it writes.
        id: Id,
        /// Whether it was written.
        answer: Answer<bool>,
    },
    /// Delete, whatever there is; `false`: there is nothing.
    Delete(Answer<bool>),
    /// A consistent read that was answered: what there is. (One that was not says nothing, and is in no history.)
    Read(Option<Id>),
}

/// What there is, if anything.
type State = Option<Id>;

/// An answer, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It was answered.
    Known(T),
    /// The answer was lost, or said that nobody knows.
    Unknown,
}

/// An operation on one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When it was sent, in any unit.
    pub sent: u64,
    /// When its answer had come; ignored where there was none.
    pub answered: u64,
    /// What it is.
    pub action: Action,
}

impl Operation {
    fn is_known(&self) -> bool {
        match self.action {
            Action::Create(_, answer) | Action::Update { answer, .. } | Action::Delete(answer) => {
                answer != Answer::Unknown
            }
            Action::Read(_) => true,
        }
    }

    /// What there is after it, if it can come next where there is `before`. One whose answer was lost comes only where it
    /// changes something: else it is the same as if it never came.
    fn step(&self, before: State) -> Option<State> {
        use Answer::{Known, Unknown};
        match self.action {
            Action::Create(id, Known(true) | Unknown) => before.is_none().then_some(Some(id)),
            Action::Create(_, Known(false)) => before.is_some().then_some(before),
            Action::Update { expected, id, answer: Known(true) | Unknown } => {
                (before == Some(expected)).then_some(Some(id))
            }
            Action::Update { expected, answer: Known(false), .. } => (before != Some(expected)).then_some(before),
            Action::Delete(Known(true) | Unknown) => before.is_some().then_some(None),
            Action::Delete(Known(false)) => before.is_none().then_some(None),
            Action::Read(found) => (before == found).then_some(before),
        }
    }

    /// It changes nothing where it is possible at all.
    fn only_looks(&self) -> bool {
        use Answer::Known;
        matches!(
            self.action,
            Action::Read(_)
                | Action::Create(_, Known(false))
                | Action::Update { answer: Known(false), .. }
                | Action::Delete(Known(false))
        )
    }
}

/// Checks each key by itself, which is enough: linearizability is local. All keys begin as absent.
pub fn check(histories: &BTreeMap<Key, Vec<Operation>>) -> Result<(), String> {
    histories.iter().try_for_each(|(key, history)| check_key(history).map_err(|problem| format!("{key}: {problem}")))
}

/// Which operations have been put in order, and what there is after them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Prefix {
    done: Vec<u64>,
    value: State,
}

impl Prefix {
    fn has(&self, at: usize) -> bool {
        self.done[at / 64] & (1 << (at % 64)) != 0
    }

    fn put(&mut self, at: usize, value: State) {
        self.done[at / 64] |= 1 << (at % 64);
        self.value = value;
    }
}

fn check_key(history: &[Operation]) -> Result<(), String> {
    let mut history = history.to_vec();
    history.sort_by_key(|operation| operation.sent);
    let mut tried = HashSet::new();
    let mut to_try = vec![Prefix { done: vec![0; history.len().div_ceil(64)], value: None }];
    let mut longest: Option<(usize, Prefix)> = None;
    while let Some(mut prefix) = to_try.pop() {
        let candidates = loop {
            let candidates = candidates(&history, &prefix);
            // what only looks, and sees what there is, may come at once: it takes no possibility away
            let mut looked = false;
            for &at in &candidates {
                if history[at].only_looks() && history[at].step(prefix.value).is_some() {
                    prefix.put(at, prefix.value);
                    looked = true;
                }
            }
            if !looked {
                break candidates;
            }
        };
        let left = (0..history.len()).filter(|&at| history[at].is_known() && !prefix.has(at)).count();
        if left == 0 {
            return Ok(());
        }
        if !tried.insert(prefix.clone()) {
            continue;
        }
        for at in candidates {
            if !prefix.has(at)
                && let Some(value) = history[at].step(prefix.value)
            {
                let mut longer = prefix.clone();
                longer.put(at, value);
                to_try.push(longer);
            }
        }
        if longest.as_ref().is_none_or(|(fewest, _)| left < *fewest) {
            longest = Some((left, prefix));
        }
    }
    let Some((left, prefix)) = longest else { return Ok(()) };
    let stuck: Vec<String> =
        candidates(&history, &prefix).into_iter().map(|at| format!("\n  {:?}", history[at])).collect();
    Err(format!(
        "{} of {} operations are explained; then there is {:?}, and none of these can come next:{}",
        history.len() - left,
        history.len(),
        prefix.value,
        stuck.concat()
    ))
}

/// The operations that may come next: those sent before any of those that are left was answered.
fn candidates(history: &[Operation], prefix: &Prefix) -> Vec<usize> {
    let left = || history.iter().enumerate().filter(|(at, _)| !prefix.has(*at));
    let horizon = left().filter(|(_, o)| o.is_known()).map(|(_, o)| o.answered).min().unwrap_or(u64::MAX);
    left().filter(|(_, operation)| operation.sent <= horizon).map(|(at, _)| at).collect()
}
