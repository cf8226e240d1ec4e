//! Get and list.

use std::sync::Arc;

use http::Response;

use super::query::ReadOptions;
use super::respond::Body;
use super::{Call, negotiate, respond};
use crate::cache::Object;
use crate::registry::optional;
use crate::selector::{BoundFieldSelector, LabelSelector};
use crate::status::ApiError;
use crate::storage::Revision;

/// Which objects of a kind a request is about.
pub(super) struct Filter {
    pub(super) labels: LabelSelector,
    pub(super) fields: BoundFieldSelector,
}

impl Filter {
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
        let options = ReadOptions::parse(self.query)?;
        let form = negotiate::object_form(self.headers, false, self.query.get("includeObject"))?;
        self.api.store.reach(options.freshness).await?;
        let found = self.api.store.cached(self.resource, &self.path.namespace, &self.path.name);
        respond::cached(self.resource, form, &*found.ok_or_else(|| self.not_found())?)
    }

    pub(super) async fn list(&self) -> Result<Response<Body>, ApiError> {
        let options = ReadOptions::parse(self.query)?;
        let form = negotiate::object_form(self.headers, true, self.query.get("includeObject"))?;
        let filter = self.filter()?;
        self.api.store.reach(options.freshness).await?;
        let (revision, objects) = self.selected(&filter)?;
        if let Some(exactly) = options.exactly
            && exactly != revision
        {
            return Err(ApiError::expired(format!(
                "The provided resource version {exactly} is not available: the list is at {revision}"
            )));
        }
        Ok(respond::list(self.resource.clone(), form, revision, objects))
    }

    /// The selected objects in the cache, and the revision at which they are so.
    pub(super) fn selected(&self, filter: &Filter) -> Result<(Revision, Vec<Arc<Object>>), ApiError> {
        let kind = self.api.store.kind(self.resource)?;
        let (revision, mut objects) = kind.list(optional(&self.path.namespace));
        objects.retain(|object| filter.matches(object));
        Ok((revision, objects))
    }
}
