//! The options in a request's query, parsed at the edge.

use std::time::Duration;

use crate::registry::{FieldValidation, Freshness};
use crate::selector::{FieldSelector, LabelSelector, SelectorError};
use crate::status::ApiError;
use crate::storage::Revision;

/// The query's parameters, decoded, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let query = query.unwrap_or_default().as_bytes();
        Self(form_urlencoded::parse(query).map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    pub(crate) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// The first value of `name`; the empty string if there is none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.has(name) && !matches!(self.get(name), "0" | "false")
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text
                .parse()
                .map(Some)
                .map_err(|_| ApiError::bad_request(format!("{name} must be an integer, not {text:?}"))),
        }
    }
}

fn selector_error(error: &SelectorError) -> ApiError {
    ApiError::bad_request(error.to_string())
}

/// Which objects, and how new: the options of list, watch and deletecollection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selectors {
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Selectors {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        let error = |error| selector_error(&error);
        Ok(Self {
            labels: LabelSelector::parse(query.get("labelSelector")).map_err(error)?,
            fields: FieldSelector::parse(query.get("fieldSelector")).map_err(error)?,
        })
    }

    /// The field selector for a kind.
    pub(crate) fn bind(
        &self,
        description: &crate::registry::ResourceDescription,
    ) -> Result<crate::selector::BoundFieldSelector, ApiError> {
        self.fields.bind(description).map_err(|error| selector_error(&error))
    }
}

fn revision(query: &Query) -> Result<Option<Revision>, ApiError> {
    match query.get("resourceVersion") {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("resourceVersion {text:?} is no resource version"))),
    }
}

/// How new a get or list must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadOptions {
    pub(crate) freshness: Freshness,
    /// The list must be of exactly this revision.
    pub(crate) exactly: Option<Revision>,
}

impl ReadOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        if !query.get("continue").is_empty() {
            return Err(ApiError::bad_request("continue key is not valid: this server answers lists whole"));
        }
        let revision = revision(query)?;
        let freshness = match revision {
            None => Freshness::Consistent,
            Some(Revision(0)) => Freshness::Any,
            Some(revision) => Freshness::NotOlderThan(revision),
        };
        let exactly = match (query.get("resourceVersionMatch"), revision) {
            ("", _) | ("NotOlderThan", Some(_)) => None,
            ("Exact", Some(Revision(0))) => {
                return Err(ApiError::bad_request("resourceVersionMatch Exact is forbidden for resourceVersion 0"));
            }
            ("Exact", Some(revision)) => Some(revision),
            ("NotOlderThan" | "Exact", None) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (other, _) => {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch {other:?} is not supported: use Exact or NotOlderThan"
                )));
            }
        };
        Ok(Self { freshness, exactly })
    }
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WatchStart {
    /// With the present state as ADDED events, at least as new as this.
    State(Freshness),
    /// With what happens from now on.
    Now,
    /// With what happened after this revision.
    After(Revision),
}

/// The options of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WatchOptions {
    pub(crate) start: WatchStart,
    pub(crate) bookmarks: bool,
    /// A bookmark tells the end of the initial state (`sendInitialEvents`).
    pub(crate) marks_initial_end: bool,
    pub(crate) timeout: Option<Duration>,
}

impl WatchOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        let revision = revision(query)?;
        let bookmarks = query.flag("allowWatchBookmarks");
        let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
        if initial.is_some() && query.get("resourceVersionMatch") != "NotOlderThan" {
            return Err(ApiError::bad_request(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if initial == Some(true) && !bookmarks {
            return Err(ApiError::bad_request("sendInitialEvents requires setting allowWatchBookmarks to true"));
        }
        let start = match (revision, initial) {
            (None, None | Some(true)) => WatchStart::State(Freshness::Consistent),
            (Some(Revision(0)), None | Some(true)) => WatchStart::State(Freshness::Any),
            (Some(revision), Some(true)) => WatchStart::State(Freshness::NotOlderThan(revision)),
            (None | Some(Revision(0)), Some(false)) => WatchStart::Now,
            (Some(revision), None | Some(false)) => WatchStart::After(revision),
        };
        let seconds = query.number("timeoutSeconds")?.and_then(|seconds| u64::try_from(seconds).ok());
        let timeout = seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs);
        Ok(Self { start, bookmarks, marks_initial_end: initial == Some(true), timeout })
    }
}

/// The options of every write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
}

impl WriteOptions {
    pub(crate) fn parse(query: &Query) -> Result<Self, ApiError> {
        let validation = match query.get("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                return Err(ApiError::bad_request(format!(
                    "fieldValidation {other:?} is not supported: use Ignore, Warn or Strict"
                )));
            }
        };
        Ok(Self { dry_run: dry_run(query.all("dryRun"))?, validation })
    }
}

/// Whether the values of `dryRun` (from the query or from DeleteOptions) ask for a dry run.
pub(crate) fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> Result<bool, ApiError> {
    let mut dry = false;
    for value in values {
        match value {
            "" => {}
            "All" => dry = true,
            other => {
                return Err(ApiError::bad_request(format!("dryRun {other:?} is not supported: use All")));
            }
        }
    }
    Ok(dry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(query: &str) -> Result<WatchOptions, ApiError> {
        WatchOptions::parse(&Query::parse(Some(query)))
    }

    #[test]
    fn a_watch_begins_where_it_is_told_to() {
        assert_eq!(watch("watch=1").unwrap().start, WatchStart::State(Freshness::Consistent));
        assert_eq!(watch("resourceVersion=0").unwrap().start, WatchStart::State(Freshness::Any));
        assert_eq!(watch("resourceVersion=7").unwrap().start, WatchStart::After(Revision(7)));
        let list = watch("sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan").unwrap();
        assert!(list.marks_initial_end);
        assert!(watch("sendInitialEvents=true").is_err());
        assert!(watch("resourceVersion=x").is_err());
    }

    #[test]
    fn reads() {
        let read = |query| ReadOptions::parse(&Query::parse(Some(query)));
        assert_eq!(read("").unwrap().freshness, Freshness::Consistent);
        assert_eq!(read("resourceVersion=0").unwrap().freshness, Freshness::Any);
        let exact = read("resourceVersion=5&resourceVersionMatch=Exact").unwrap();
        assert_eq!(exact.exactly, Some(Revision(5)));
        for bad in [
            "resourceVersionMatch=Exact",
            "resourceVersion=-1",
            "continue=x",
            "resourceVersion=1&resourceVersionMatch=y",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn writes() {
        let write = |query| WriteOptions::parse(&Query::parse(Some(query)));
        let options = write("dryRun=All&fieldValidation=Strict").unwrap();
        assert!(options.dry_run && options.validation == FieldValidation::Strict);
        assert!(write("dryRun=Some").is_err() && write("fieldValidation=x").is_err());
    }
}
