//! Questions: objects that are answered at once and stored nowhere.

use http::Response;

use super::negotiate::Form;
use super::query::WriteOptions;
use super::respond::Body;
use super::{Call, body, negotiate, respond};
use crate::registry::{admit, optional};
use crate::status::ApiError;
use crate::strategy::{Review, ReviewRequest};

impl Call<'_> {
    pub(super) fn review(&self, review: &dyn Review, bytes: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(self.query)?;
        let form = negotiate::object_form(self.headers, false, self.query.get("includeObject"))?;
        if form != Form::Object {
            // it has no metadata that could be shown
            return Err(ApiError::not_acceptable(&["application/json"]));
        }
        let description = self.resource.description();
        let question = body::object(self.headers, bytes, self.resource.protobuf)?;
        let mut admitted = admit(description, question, options.validation)?;
        let mut errors = admitted.errors;
        errors.extend(description.schema.validate(&admitted.object));
        if !errors.is_empty() {
            return Err(ApiError::invalid(&description.group, &description.kind, "", &errors));
        }
        let request = ReviewRequest {
            user: self.user,
            resource: description,
            namespace: optional(&self.path.namespace),
            authorizer: &*self.api.authorizer,
            lister: &self.api.store,
        };
        review.answer(&request, &mut admitted.object)?;
        let mut response = respond::written(201, self.resource, form, admitted.object, None);
        respond::warn(&mut response, &admitted.warnings);
        Ok(response)
    }
}
