//! The options of lists and watches: what a client may ask for together, and what it then gets. The rules, and the words
//! in which they are told, are Kubernetes' (`ListOptions`, "semantics for get and list").

use std::time::Duration;

use serde_json::Value;

use super::continuation::Continuation;
use super::query::{Query, freshness, revision};
use crate::registry::Freshness;
use crate::status::{ApiError, FieldError, FieldPath};
use crate::storage::Revision;

const EXACT: &str = "Exact";
const NOT_OLDER_THAN: &str = "NotOlderThan";
const MATCH: &str = "resourceVersionMatch";

/// Which state a list shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// The present one, at least as new as this.
    Present(Freshness),
    /// That of a revision.
    At(Revision),
}

/// The options of list and deletecollection, apart from the selectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListOptions {
    pub(super) state: State,
    /// The place behind which the list begins; empty for the whole.
    pub(super) after: String,
    /// No more objects than so many.
    pub(super) limit: Option<usize>,
}

impl ListOptions {
    pub(super) fn parse(query: &Query) -> Result<Self, ApiError> {
        refuse(&list_errors(query))?;
        let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        let revision = revision(query)?;
        let token = query.get("continue");
        if !token.is_empty() {
            let Continuation { at, after } = Continuation::decode(token)?;
            if revision.is_some_and(|revision| revision > Revision(0)) {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            let state = at.map_or(State::Present(Freshness::Consistent), State::At);
            return Ok(Self { state, after, limit });
        }
        let state = match (revision, query.get(MATCH)) {
            (Some(revision), EXACT) => State::At(revision),
            // so it was before there was a resourceVersionMatch, and so it has to stay
            (Some(revision), "") if revision > Revision(0) && limit.is_some() => State::At(revision),
            _ => State::Present(freshness(query)?),
        };
        // whoever takes any state takes it whole: reflectors ask for pages, and are quicker without
        let limit = limit.filter(|_| state != State::Present(Freshness::Any));
        Ok(Self { state, after: String::new(), limit })
    }
}

fn list_errors(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let given = query.get(MATCH);
    if !given.is_empty() {
        if query.get("resourceVersion").is_empty() {
            errors.push(forbidden("resourceVersionMatch is forbidden unless resourceVersion is provided"));
        }
        if !query.get("continue").is_empty() {
            errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
        if ![EXACT, NOT_OLDER_THAN].contains(&given) {
            errors.push(not_supported(given, &[EXACT, NOT_OLDER_THAN, ""]));
        }
        if given == EXACT && query.get("resourceVersion") == "0" {
            errors.push(forbidden(r#"resourceVersionMatch "exact" is forbidden for resourceVersion "0""#));
        }
    }
    if query.has("sendInitialEvents") {
        let path = FieldPath::new("sendInitialEvents");
        errors.push(FieldError::forbidden(path, "sendInitialEvents is forbidden for list"));
    }
    errors
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WatchStart {
    /// With the present state as ADDED events, at least as new as this.
    State(Freshness),
    /// With what happens from now on.
    Now,
    /// With what happened after this revision.
    After(Revision),
}

/// The options of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WatchOptions {
    pub(super) start: WatchStart,
    pub(super) bookmarks: bool,
    /// A bookmark tells the end of the initial state (`sendInitialEvents`).
    pub(super) marks_initial_end: bool,
    pub(super) timeout: Option<Duration>,
}

impl WatchOptions {
    pub(super) fn parse(query: &Query) -> Result<Self, ApiError> {
        refuse(&watch_errors(query))?;
        let bookmarks = query.flag("allowWatchBookmarks");
        let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
        let start = match (revision(query)?, initial) {
            (None, None | Some(true)) => WatchStart::State(Freshness::Consistent),
            (Some(Revision(0)), None | Some(true)) => WatchStart::State(Freshness::Any),
            (Some(revision), Some(true)) => WatchStart::State(Freshness::NotOlderThan(revision)),
            (None | Some(Revision(0)), Some(false)) => WatchStart::Now,
            (Some(revision), None | Some(false)) => WatchStart::After(revision),
        };
        let seconds = query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        let timeout = seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        Ok(Self { start, bookmarks, marks_initial_end: bookmarks && initial == Some(true), timeout })
    }
}

fn watch_errors(query: &Query) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (given, initial) = (query.get(MATCH), query.has("sendInitialEvents"));
    if initial && given != NOT_OLDER_THAN {
        errors.push(forbidden("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"));
    }
    if !given.is_empty() {
        if !initial {
            errors.push(forbidden("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"));
        }
        if given != NOT_OLDER_THAN {
            errors.push(not_supported(given, &[NOT_OLDER_THAN]));
        }
        if !query.get("continue").is_empty() {
            errors.push(forbidden("resourceVersionMatch is forbidden when continue is provided"));
        }
    }
    errors
}

fn forbidden(why: &str) -> FieldError {
    FieldError::forbidden(FieldPath::new(MATCH), why)
}

fn not_supported(given: &str, supported: &[&str]) -> FieldError {
    let supported: Vec<String> = supported.iter().map(ToString::to_string).collect();
    FieldError::not_supported(FieldPath::new(MATCH), Value::from(given), &supported)
}

fn refuse(errors: &[FieldError]) -> Result<(), ApiError> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("meta.k8s.io", "ListOptions", "", errors)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(query: &str) -> Result<ListOptions, ApiError> {
        ListOptions::parse(&Query::parse(Some(query)))
    }

    fn watch(query: &str) -> Result<WatchOptions, ApiError> {
        WatchOptions::parse(&Query::parse(Some(query)))
    }

    #[test]
    fn the_table_of_semantics() {
        let present = |freshness| State::Present(freshness);
        for (query, state, limited) in [
            ("", present(Freshness::Consistent), false),
            ("limit=5", present(Freshness::Consistent), true),
            ("resourceVersion=0", present(Freshness::Any), false),
            ("resourceVersion=0&limit=5", present(Freshness::Any), false),
            ("resourceVersion=7", present(Freshness::NotOlderThan(Revision(7))), false),
            ("resourceVersion=7&limit=5", State::At(Revision(7)), true),
            ("resourceVersion=7&resourceVersionMatch=Exact", State::At(Revision(7)), false),
            ("resourceVersion=7&resourceVersionMatch=Exact&limit=5", State::At(Revision(7)), true),
            (
                "resourceVersion=7&resourceVersionMatch=NotOlderThan&limit=5",
                present(Freshness::NotOlderThan(Revision(7))),
                true,
            ),
            ("resourceVersion=0&resourceVersionMatch=NotOlderThan", present(Freshness::Any), false),
            ("limit=-1", present(Freshness::Consistent), false),
        ] {
            let options = list(query).unwrap();
            assert_eq!((options.state, options.limit.is_some()), (state, limited), "{query}");
        }
    }

    #[test]
    fn continuing() {
        let token = Continuation { at: Some(Revision(9)), after: "a".to_owned() }.encode();
        let options = list(&format!("continue={token}&limit=2")).unwrap();
        assert_eq!(options, ListOptions { state: State::At(Revision(9)), after: "a".to_owned(), limit: Some(2) });
        assert!(list(&format!("continue={token}&resourceVersion=0")).is_ok());
        let error = list(&format!("continue={token}&resourceVersion=9")).unwrap_err();
        assert_eq!(error.to_string(), "specifying resource version is not allowed when using continue");
        let anyway = Continuation { at: None, after: "a".to_owned() }.encode();
        let options = list(&format!("continue={anyway}")).unwrap();
        assert_eq!(options.state, State::Present(Freshness::Consistent));
        assert_eq!(list("continue=x").unwrap_err().code(), 400);
    }

    #[test]
    fn lists_are_refused_in_kubernetes_words() {
        for (query, message) in [
            (
                "resourceVersionMatch=Exact",
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            ),
            (
                "resourceVersion=0&resourceVersionMatch=Exact",
                r#"resourceVersionMatch: Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0""#,
            ),
            ("sendInitialEvents=true", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        ] {
            let error = list(query).unwrap_err();
            assert_eq!(error.code(), 422);
            assert!(error.to_string().ends_with(message), "{error}");
        }
        assert!(
            list("resourceVersion=1&resourceVersionMatch=y").unwrap_err().to_string().contains("Unsupported value")
        );
        assert_eq!(list("resourceVersion=-1").unwrap_err().code(), 400);
    }

    #[test]
    fn a_watch_begins_where_it_is_told_to() {
        assert_eq!(watch("watch=1").unwrap().start, WatchStart::State(Freshness::Consistent));
        assert_eq!(watch("resourceVersion=0").unwrap().start, WatchStart::State(Freshness::Any));
        assert_eq!(watch("resourceVersion=7").unwrap().start, WatchStart::After(Revision(7)));
        let streamed = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
        assert!(watch(&format!("{streamed}&allowWatchBookmarks=true")).unwrap().marks_initial_end);
        assert!(!watch(streamed).unwrap().marks_initial_end);
        for (query, message) in [
            ("sendInitialEvents=true", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
            (
                "resourceVersionMatch=NotOlderThan",
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ),
        ] {
            let error = watch(query).unwrap_err();
            assert_eq!(error.code(), 422);
            assert!(error.to_string().ends_with(&format!("resourceVersionMatch: Forbidden: {message}")), "{error}");
        }
        assert_eq!(watch("resourceVersion=x").unwrap_err().code(), 400);
    }
}
