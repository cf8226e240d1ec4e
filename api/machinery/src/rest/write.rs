//! Create, update and patch, of objects and of their status.

use http::Response;

use super::path::Verb;
use super::query::WriteOptions;
use super::respond::Body;
use super::{Call, body, negotiate, respond};
use crate::audit::CreatedName;
use crate::decode;
use crate::meta;
use crate::patch::{JSON_PATCH, MERGE_PATCH, Patch, STRATEGIC_MERGE_PATCH};
use crate::registry::{Edit, Part};
use crate::status::ApiError;

impl Call<'_> {
    pub(super) async fn create(&self, bytes: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(self.query)?;
        let form = negotiate::object_form(self.headers, false, self.query.get("includeObject"))?;
        let written = self.write(options).create(body::object(self.headers, bytes, self.resource.protobuf)?).await?;
        let name = CreatedName(meta::text(&written.object, "name").to_owned());
        let mut response = respond::written(201, self.resource, form, written.object);
        respond::warn(&mut response, &written.warnings);
        response.extensions_mut().insert(name);
        Ok(response)
    }

    /// PUT and PATCH, of the object or of its status.
    pub(super) async fn update(&self, bytes: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(self.query)?;
        let form = negotiate::object_form(self.headers, false, self.query.get("includeObject"))?;
        let part = if self.path.subresource == "status" { Part::Status } else { Part::Main };
        let write = self.write(options);
        let name = &self.path.name;
        let written = if self.verb == Verb::Patch {
            let patch = self.patch(bytes)?;
            write.update(name, part, Edit::Derive(&mut |old| patch.apply(old))).await?
        } else {
            write.update(name, part, Edit::Replace(body::object(self.headers, bytes, self.resource.protobuf)?)).await?
        };
        let mut response = respond::written(200, self.resource, form, written.object);
        respond::warn(&mut response, &written.warnings);
        Ok(response)
    }

    pub(super) fn patch(&self, bytes: &[u8]) -> Result<Patch, ApiError> {
        let parse: fn(serde_json::Value) -> Result<Patch, ApiError> = match body::media_type(self.headers) {
            JSON_PATCH => Patch::json,
            MERGE_PATCH => Patch::merge,
            // kubectl sends these for the kinds that are compiled into it, and for no others
            STRATEGIC_MERGE_PATCH if self.resource.description.nulls_are_absent => Patch::strategic,
            other => return Err(ApiError::unsupported_media_type(other, &[JSON_PATCH, MERGE_PATCH])),
        };
        let decoded = decode::json(bytes)
            .map_err(|error| ApiError::bad_request(format!("the patch cannot be decoded: {error}")))?;
        parse(decoded.value)
    }
}
