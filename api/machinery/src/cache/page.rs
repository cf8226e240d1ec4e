//! A kind's objects as they are, or as they were at a revision of the recent past, whole or page by page.
//!
//! Only the present state is kept. A past one is made of it by taking back the changes in the history, so that a list
//! that is read in pages costs nothing between them, however many clients read one.

use std::{cmp::Ordering, collections::BTreeMap, iter, ops::Bound, sync::Arc};

use super::{Expired, KindCache, Object, history::History};
use crate::storage::Revision;

/// What part of a kind's objects is wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut<'a> {
    /// Of this namespace, or of all.
    pub namespace: Option<&'a str>,
    /// As they were at this revision; without, as they are.
    pub at: Option<Revision>,
    /// Those behind this place: a name, or `<namespace>/<name>` for all namespaces. Empty: from the first one on.
    pub after: &'a str,
    /// No more than so many.
    pub limit: Option<usize>,
    /// Tell how many follow, and not only whether any do.
    pub count: bool,
}

/// A part of a kind's objects, in the order of their keys.
#[derive(Debug)]
pub struct Page {
    /// The revision at which they are so.
    pub revision: Revision,
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// How many follow; if they were not to be counted, 1 stands for any number.
    pub rest: usize,
}

impl KindCache {
    /// The objects that match, of the part that is wanted. The cache must have come as far as its revision.
    ///
    /// # Errors
    /// [`Expired`] if the changes since then are not all kept.
    pub fn page(&self, cut: &Cut<'_>, matches: impl Fn(&Object) -> bool) -> Result<Page, Expired> {
        let prefix = cut.namespace.map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let place = format!("{prefix}{}", cut.after);
        let from = if cut.after.is_empty() { Bound::Included(place.as_str()) } else { Bound::Excluded(place.as_str()) };

        let state = self.read();
        let now = self.revision_of(&state);
        let revision = cut.at.unwrap_or(now).min(now);
        let otherwise = before_changes(state.history(), revision, cut.namespace)?;
        let present = state.objects().range::<str, _>((from, Bound::Unbounded));
        let past = otherwise.range::<str, _>((from, Bound::Unbounded));
        let all = merge(
            present.map(|(path, object)| (&**path, object)).take_while(|(path, _)| path.starts_with(&prefix)),
            past.map(|(path, object)| (path.as_str(), *object)).take_while(|(path, _)| path.starts_with(&prefix)),
        );
        let mut page = Page { revision, objects: Vec::new(), rest: 0 };
        for object in all.filter(|object| matches(object)) {
            if cut.limit.is_none_or(|limit| page.objects.len() < limit) {
                page.objects.push(object.clone());
                continue;
            }
            page.rest += 1;
            if !cut.count {
                break;
            }
        }
        Ok(page)
    }
}

/// What has changed since `revision`, by path, as it was then; nothing for what was not there.
fn before_changes<'a>(
    history: &'a History,
    revision: Revision,
    namespace: Option<&str>,
) -> Result<BTreeMap<String, Option<&'a Arc<Object>>>, Expired> {
    let mut states = BTreeMap::new();
    for event in history.changes_after(revision)? {
        if namespace.is_some() && namespace != event.namespace() {
            continue;
        }
        if let Some(object) = event.object() {
            // the first change tells what was there before all of them
            states.entry(object.path()).or_insert(event.previous.as_ref());
        }
    }
    Ok(states)
}

/// The present objects, with those of the past in the place of the present ones of the same path.
fn merge<'a>(
    present: impl Iterator<Item = (&'a str, &'a Arc<Object>)>,
    past: impl Iterator<Item = (&'a str, Option<&'a Arc<Object>>)>,
) -> impl Iterator<Item = &'a Arc<Object>> {
    let (mut present, mut past) = (present.peekable(), past.peekable());
    iter::from_fn(move || {
        loop {
            let order = match (present.peek(), past.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((present, _)), Some((past, _))) => present.cmp(past),
            };
            if order == Ordering::Less {
                return present.next().map(|(_, object)| object);
            }
            if order == Ordering::Equal {
                present.next();
            }
            if let Some((_, Some(object))) = past.next() {
                return Some(object);
            }
        }
    })
}
