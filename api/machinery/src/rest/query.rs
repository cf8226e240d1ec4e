//! The options in a request's query, parsed at the edge; those of lists and watches stand in `options`.

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

    pub(super) fn has(&self, name: &str) -> bool {
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

    /// The same, for the one object of this name.
    pub(crate) fn named(query: &Query, name: &str) -> Result<Self, ApiError> {
        let Self { labels, fields } = Self::parse(query)?;
        Ok(Self { labels, fields: fields.named(name) })
    }

    /// The field selector for a kind.
    pub(crate) fn bind(
        &self,
        description: &crate::registry::ResourceDescription,
    ) -> Result<crate::selector::BoundFieldSelector, ApiError> {
        self.fields.bind(description).map_err(|error| selector_error(&error))
    }
}

pub(super) fn revision(query: &Query) -> Result<Option<Revision>, ApiError> {
    match query.get("resourceVersion") {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| ApiError::bad_request(format!("resourceVersion {text:?} is no resource version"))),
    }
}

/// How new what a get shows must be.
pub(crate) fn freshness(query: &Query) -> Result<Freshness, ApiError> {
    Ok(match revision(query)? {
        None => Freshness::Consistent,
        Some(Revision(0)) => Freshness::Any,
        Some(revision) => Freshness::NotOlderThan(revision),
    })
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

    #[test]
    fn gets() {
        let get = |query| freshness(&Query::parse(Some(query)));
        assert_eq!(get("").unwrap(), Freshness::Consistent);
        assert_eq!(get("resourceVersion=0").unwrap(), Freshness::Any);
        assert_eq!(get("resourceVersion=7").unwrap(), Freshness::NotOlderThan(Revision(7)));
        assert!(get("resourceVersion=-1").is_err());
    }

    #[test]
    fn writes() {
        let write = |query| WriteOptions::parse(&Query::parse(Some(query)));
        let options = write("dryRun=All&fieldValidation=Strict").unwrap();
        assert!(options.dry_run && options.validation == FieldValidation::Strict);
        assert!(write("dryRun=Some").is_err() && write("fieldValidation=x").is_err());
    }
}
