//! What watches must tell: every change once, in the order of the versions, from where the watch began; and bookmarks that
//! hold what they promise, that nothing up to their version is still to come.

use std::collections::{BTreeMap, BTreeSet};

use super::{Key, Version};

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is there now.
    Added,
    /// It is another now.
    Modified,
    /// It is gone.
    Deleted,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// The version that the object has after it.
    pub version: Version,
    /// The object.
    pub key: Key,
    /// What happened.
    pub change: Change,
}

/// What a client saw, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It listed: the list's version, and each object's.
    List(Version, BTreeMap<Key, Version>),
    /// It began to watch after this version.
    Watch(Version),
    /// An event came.
    Event(Event),
    /// A bookmark came.
    Bookmark(Version),
}

/// What all clients together know.
#[derive(Debug, Default)]
struct Known {
    events: BTreeSet<Event>,
    /// Writes that were acknowledged.
    written: BTreeMap<Version, Key>,
}

/// Checks what watchers saw against each other and against the writes that were acknowledged (version and key).
pub fn check(watchers: &[Vec<Seen>], written: &[(Version, Key)]) -> Result<(), String> {
    let mut known = Known { written: written.iter().cloned().collect(), ..Known::default() };
    for (name, seen) in watchers.iter().enumerate() {
        let runs = follow(seen).map_err(|problem| format!("watcher {name}: {problem}"))?;
        known.events.extend(runs.into_iter().flat_map(|run| run.events));
    }
    let mut versions = BTreeMap::new();
    for event in &known.events {
        if let Some(other) = versions.insert(event.version, event) {
            return Err(format!("watchers disagree: {other:?} and {event:?}"));
        }
    }
    for (name, seen) in watchers.iter().enumerate() {
        for run in follow(seen)? {
            complete(&run, &known).map_err(|problem| format!("watcher {name}: {problem}"))?;
        }
    }
    Ok(())
}

/// What a list must show: for each list that was seen, the state at its version as the events of `watcher` tell it.
pub fn check_list(watcher: &[Seen], version: Version, objects: &BTreeMap<Key, Version>) -> Result<(), String> {
    for run in follow(watcher)? {
        if !(run.from..=run.to).contains(&version) {
            continue;
        }
        let mut state = run.listed.clone();
        for event in run.events.iter().filter(|event| event.version <= version) {
            match event.change {
                Change::Added | Change::Modified => state.insert(event.key.clone(), event.version),
                Change::Deleted => state.remove(&event.key),
            };
        }
        if state != *objects {
            return Err(format!("a list at {version} shows {objects:?}; by the watch it is {state:?}"));
        }
    }
    Ok(())
}

/// What was seen without a gap: from a list, by as many watches as it took.
struct Run {
    from: Version,
    to: Version,
    listed: BTreeMap<Key, Version>,
    events: Vec<Event>,
}

/// Splits what a watcher saw at its lists, and checks what it alone can tell.
fn follow(seen: &[Seen]) -> Result<Vec<Run>, String> {
    let mut runs: Vec<Run> = Vec::new();
    let mut state = BTreeMap::new();
    for item in seen {
        if let Seen::List(version, objects) = item {
            if let Some(last) = runs.last()
                && last.to > *version
            {
                return Err(format!("a consistent list at {version} is older than {}, which was seen before", last.to));
            }
            if let Some((key, newer)) = objects.iter().find(|(_, object)| *object > version) {
                return Err(format!("a list at {version} holds {key} at {newer}"));
            }
            runs.push(Run { from: *version, to: *version, listed: objects.clone(), events: Vec::new() });
            state.clone_from(objects);
            continue;
        }
        let run = runs.last_mut().ok_or("it saw something before its first list")?;
        match item {
            Seen::List(..) => {}
            // a watch may begin where the last one ended, and nowhere else
            Seen::Watch(after) if *after == run.to => {}
            Seen::Watch(after) => return Err(format!("it went on after {after}, having come to {}", run.to)),
            Seen::Bookmark(version) if *version >= run.to => run.to = *version,
            Seen::Bookmark(version) => return Err(format!("a bookmark of {version} came after {}", run.to)),
            Seen::Event(event) => {
                if event.version <= run.to {
                    return Err(format!("{event:?} came after {}", run.to));
                }
                run.to = event.version;
                run.events.push(event.clone());
                let before = match event.change {
                    Change::Deleted => state.remove(&event.key),
                    _ => state.insert(event.key.clone(), event.version),
                };
                if before.is_some() == (event.change == Change::Added) {
                    return Err(format!("{event:?} came where there was {before:?}"));
                }
            }
        }
    }
    Ok(runs)
}

/// Between its list and the last that it saw, a watcher has seen what any other has, and what was acknowledged.
fn complete(run: &Run, known: &Known) -> Result<(), String> {
    let own: BTreeSet<&Event> = run.events.iter().collect();
    let inside = |version: Version| version > run.from && version <= run.to;
    if let Some(missed) = known.events.iter().find(|event| inside(event.version) && !own.contains(event)) {
        return Err(format!("between {} and {} it missed {missed:?}", run.from, run.to));
    }
    let told: BTreeSet<(Version, &Key)> = own.iter().map(|event| (event.version, &event.key)).collect();
    let missed = known.written.iter().find(|(version, key)| inside(**version) && !told.contains(&(**version, *key)));
    match missed {
        Some((version, key)) => {
            Err(format!("between {} and {} it missed the write of {key} at {version}", run.from, run.to))
        }
        None => Ok(()),
    }
}
