//! Get and list.

use std::sync::Arc;

use http::Response;
use serde_json::Value;

use super::continuation::Continuation;
use super::options::{ListOptions, State};
use super::respond::Body;
use super::{Call, negotiate, query, respond};
use crate::cache::{Cut, NoPast, Object, Page};
use crate::registry::{Freshness, failure, optional};
use crate::selector::{BoundFieldSelector, LabelSelector};
use crate::status::ApiError;
use crate::storage::Revision;

/// Which objects of a kind a request is about.
pub(super) struct Filter {
    pub(super) labels: LabelSelector,
    pub(super) fields: BoundFieldSelector,
}

impl Filter {
    /// Whether it leaves nothing out.
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Object) -> bool {
        (self.labels.is_empty() || self.labels.matches(|label| object.labels().get(label)))
            && (self.fields.is_empty()
                || self
                    .fields
                    .matches(object.namespace().unwrap_or_default(), object.name(), |field| object.fields().get(field)))
    }
}

impl Call<'_> {
    pub(super) fn filter(&self) -> Result<Filter, ApiError> {
        Ok(Filter { labels: self.selectors.labels.clone(), fields: self.selectors.bind(&self.resource.description)? })
    }

    pub(super) async fn get(&self) -> Result<Response<Body>, ApiError> {
        let freshness = query::freshness(self.query)?;
        let form = negotiate::object_form(self.headers, false, self.query.get("includeObject"))?;
        self.api.store.reach(freshness).await?;
        let found = self.api.store.cached(self.resource, &self.path.namespace, &self.path.name);
        respond::cached(self.resource, form, &*found.ok_or_else(|| self.not_found())?)
    }

    pub(super) async fn list(&self) -> Result<Response<Body>, ApiError> {
        let options = ListOptions::parse(self.query)?;
        let form = negotiate::object_form(self.headers, true, self.query.get("includeObject"))?;
        Ok(respond::list(self.resource.clone(), form, self.page(&options).await?))
    }

    /// The part of the selected objects that the options ask for.
    pub(super) async fn page(&self, options: &ListOptions) -> Result<Listed, ApiError> {
        let filter = self.filter()?;
        let store = &self.api.store;
        let at = match &options.state {
            State::Present(freshness) => {
                store.reach(*freshness).await?;
                None
            }
            State::At(revision) => {
                store.reach(Freshness::NotOlderThan(*revision)).await?;
                Some(*revision)
            }
        };
        let cut = Cut {
            namespace: optional(&self.path.namespace),
            at,
            after: &options.after,
            limit: options.limit,
            count: filter.is_empty(),
        };
        let page = store.cache.page(self.resource.prefix(), &cut, |object| filter.matches(object)).await;
        let Page { revision, objects, rest } = page.map_err(|error| past_gone(&error, options))?;
        let next = objects.last().filter(|_| rest > 0).map(|last| Continuation {
            at: Some(revision),
            after: match (last.namespace(), cut.namespace) {
                (Some(namespace), None) => format!("{namespace}/{}", last.name()),
                _ => last.name().to_owned(),
            },
        });
        let remaining = (next.is_some() && cut.count).then_some(rest);
        Ok(Listed { revision, objects, next, remaining })
    }
}

/// A list, or a page of one.
pub(super) struct Listed {
    pub(super) revision: Revision,
    pub(super) objects: Vec<Arc<Object>>,
    /// Where the next page begins, if there is one.
    pub(super) next: Option<Continuation>,
    /// How many objects follow, where that is known.
    pub(super) remaining: Option<usize>,
}

impl Listed {
    /// The list's `metadata`.
    pub(super) fn metadata(&self) -> Value {
        let mut metadata = respond::version_metadata(self.revision);
        if let Some(next) = &self.next {
            metadata["continue"] = next.encode().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// The answer where the state that is asked for is not kept any more.
fn past_gone(error: &NoPast, options: &ListOptions) -> ApiError {
    match error {
        NoPast::Gone if options.after.is_empty() => {
            ApiError::expired("The resourceVersion for the provided list is too old.")
        }
        NoPast::Gone => {
            let anyway = Continuation { at: None, after: options.after.clone() };
            ApiError::expired(CONTINUE_EXPIRED).with_continue(anyway.encode())
        }
        NoPast::Store(error) => failure::unavailable(error),
        NoPast::UnknownKind(_) => ApiError::internal(error),
    }
}

/// Kubernetes' words; clients look for some of them.
const CONTINUE_EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can \
    start a new list without the continue parameter, or use the continue token in this response to retrieve the \
    remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were \
    created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
