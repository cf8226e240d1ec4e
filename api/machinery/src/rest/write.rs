//! Create, update and patch, of objects and of their status.

use http::Response;

use super::path::Verb;
use super::query::WriteOptions;
use super::respond::Body;
use super::{Call, body, field_manager, negotiate, respond};
use crate::audit::CreatedName;
use crate::decode::{self, Decoded};
use crate::meta;
use crate::patch::{APPLY_PATCH, JSON_PATCH, MERGE_PATCH, Patch, STRATEGIC_MERGE_PATCH};
use crate::registry::{Edit, Part};
use crate::status::ApiError;

impl Call<'_> {
    pub(super) async fn create(&self, bytes: &[u8]) -> Result<Response<Body>, ApiError> {
        let options = WriteOptions::parse(self.query)?;
        let form = negotiate::object_form(self.headers, false, self.query.get("includeObject"))?;
        let written = self.write(options).create(body::object(self.headers, bytes, self.resource.protobuf)?).await?;
        let name = CreatedName(meta::text(&written.object, "name").to_owned());
        let mut response = respond::written(201, self.resource, form, written.object, written.json);
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
        let media_type = body::media_type(self.headers);
        let (written, created) = match self.verb {
            Verb::Patch if media_type == APPLY_PATCH => {
                let force = field_manager::force(self.query)?;
                field_manager::require(self.query)?;
                write.apply(name, part, configuration(bytes)?, force).await?
            }
            Verb::Patch => {
                let patch = self.patch(media_type, bytes)?;
                field_manager::forbid_force(self.query)?;
                (write.update(name, part, Edit::Derive(&mut |old| patch.apply(old))).await?, false)
            }
            _ => {
                let body = body::object(self.headers, bytes, self.resource.protobuf)?;
                (write.update(name, part, Edit::Replace(body)).await?, false)
            }
        };
        let code = if created { 201 } else { 200 };
        let mut response = respond::written(code, self.resource, form, written.object, written.json);
        respond::warn(&mut response, &written.warnings);
        Ok(response)
    }

    pub(super) fn patch(&self, media_type: &str, bytes: &[u8]) -> Result<Patch, ApiError> {
        let parse: fn(serde_json::Value) -> Result<Patch, ApiError> = match media_type {
            JSON_PATCH => Patch::json,
            MERGE_PATCH => Patch::merge,
            // kubectl sends these for the kinds that are compiled into it, and for no others
            STRATEGIC_MERGE_PATCH if self.resource.description.nulls_are_absent => Patch::strategic,
            other => return Err(ApiError::unsupported_media_type(other, &[JSON_PATCH, MERGE_PATCH, APPLY_PATCH])),
        };
        let decoded = decode::json(bytes)
            .map_err(|error| ApiError::bad_request(format!("the patch cannot be decoded: {error}")))?;
        parse(decoded.value)
    }
}

/// A configuration to apply, as YAML. Most clients send JSON, which is YAML too and read faster.
fn configuration(bytes: &[u8]) -> Result<Decoded, ApiError> {
    if bytes.first() == Some(&b'{')
        && let Ok(decoded) = decode::json(bytes)
    {
        return Ok(decoded);
    }
    decode::yaml(bytes).map_err(|error| ApiError::bad_request(format!("error decoding YAML: {error}")))
}
