//! Requests to the subresources that a kind brings along.

use async_trait::async_trait;
use http::Response;
use serde_json::Value;

use super::path::Verb;
use super::query::WriteOptions;
use super::respond::Body;
use super::{Call, body, respond};
use crate::registry::{Edit, Freshness, Part, Write, decode_cached};
use crate::status::ApiError;
use crate::strategy::{Method, Mutation, SubresourceHandler, SubresourceRequest, Target};

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
            _ => return Err(self.method_not_allowed()),
        };
        if !handler.methods().contains(&method) {
            return Err(self.method_not_allowed());
        }
        let options = WriteOptions::parse(self.query)?;
        let body = if bytes.is_empty() {
            None
        } else {
            Some(body::object(self.headers, bytes, self.resource.protobuf)?.value)
        };
        let write = self.write(options);
        let name = &self.path.name;
        let target = StoredTarget { write, name };
        let request = SubresourceRequest {
            method,
            context: write.context(name),
            query: self.query.pairs(),
            body,
            target: &target,
        };
        let response = handler.handle(request).await?;
        Ok(respond::json(response.code, &response.body))
    }
}

/// The object that the subresource belongs to.
struct StoredTarget<'a> {
    write: Write<'a>,
    name: &'a str,
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
