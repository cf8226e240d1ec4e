//! Requests to the subresources that a kind brings along.

use async_trait::async_trait;
use http::Response;
use serde_json::Value;

use super::path::Verb;
use super::query::WriteOptions;
use super::respond::Body;
use super::{Call, body, respond};
use crate::meta;
use crate::registry::{Edit, Freshness, Part, Write, decode_cached};
use crate::status::{ApiError, Reason};
use crate::strategy::{Method, Mutation, SubresourceHandler, SubresourceRequest, Target};

/// How often a patch is tried when other writers are faster.
const PATCH_ATTEMPTS: usize = 16;

impl Call<'_> {
    pub(super) async fn subresource(
        &self,
        handler: &dyn SubresourceHandler,
        bytes: &[u8],
    ) -> Result<Response<Body>, ApiError> {
        let method = match self.verb {
            Verb::Get => Method::Get,
            Verb::Create => Method::Create,
            Verb::Update => Method::Update,
            Verb::Patch => Method::Patch,
            _ => return Err(self.method_not_allowed()),
        };
        if !handler.methods().contains(&method) {
            return Err(self.method_not_allowed());
        }
        let options = WriteOptions::parse(self.query)?;
        let write = self.write(options);
        let name = &self.path.name;
        let target = StoredTarget { write, name };
        let request = |method, body| SubresourceRequest {
            method,
            context: write.context(name),
            query: self.query.pairs(),
            body,
            target: &target,
        };
        if method == Method::Patch {
            return self.patch_subresource(handler, bytes, &request).await;
        }
        let body = if bytes.is_empty() {
            None
        } else {
            Some(body::object(self.headers, bytes, self.resource.protobuf)?.value)
        };
        let response = handler.handle(request(method, body)).await?;
        Ok(respond::json(response.code, &response.body))
    }

    /// Patches what the handler shows. The patched object carries the resource version that was patched, so the update
    /// fails where somebody else was faster; then it is done again, unless the patch itself names a version.
    async fn patch_subresource<'r>(
        &self,
        handler: &dyn SubresourceHandler,
        bytes: &[u8],
        request: &(dyn Fn(Method, Option<Value>) -> SubresourceRequest<'r> + Sync),
    ) -> Result<Response<Body>, ApiError> {
        let patch = self.patch(body::media_type(self.headers), bytes)?;
        let mut attempts = PATCH_ATTEMPTS;
        loop {
            attempts -= 1;
            let shown = handler.handle(request(Method::Get, None)).await?.body;
            let patched = patch.apply(&shown)?;
            let same_version = meta::text(&patched, "resourceVersion") == meta::text(&shown, "resourceVersion");
            match handler.handle(request(Method::Update, Some(patched))).await {
                Err(error) if error.reason() == Reason::Conflict && same_version && attempts > 0 => {}
                response => {
                    let response = response?;
                    return Ok(respond::json(response.code, &response.body));
                }
            }
        }
    }
}

/// The object that the subresource belongs to.
pub(super) struct StoredTarget<'a> {
    pub(super) write: Write<'a>,
    pub(super) name: &'a str,
}

#[async_trait]
impl Target for StoredTarget<'_> {
    async fn get(&self) -> Result<Value, ApiError> {
        let Write { store, resource, attributes, .. } = self.write;
        store.reach(Freshness::Consistent).await?;
        let found = store.cached(resource, attributes.namespace, self.name);
        let found = found.ok_or_else(|| ApiError::not_found(attributes.group, attributes.resource, self.name))?;
        decode_cached(&found)
    }

    async fn update(&self, mutate: &mut Mutation<'_>) -> Result<Value, ApiError> {
        let mut derive = |old: &Value| {
            let mut object = old.clone();
            mutate(&mut object)?;
            Ok(object)
        };
        let written = self.write.update(self.name, Part::Whole, Edit::Derive(&mut derive)).await?;
        Ok(written.object)
    }
}
