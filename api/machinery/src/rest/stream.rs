//! Requests for the bytes that belong to objects.

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt as _;

use super::Call;
use super::path::Verb;
use super::query::WriteOptions;
use super::respond::Body;
use super::subresource::StoredTarget;
use crate::status::ApiError;
use crate::strategy::{Method, StreamError, StreamHandler, StreamRequest};

impl Call<'_> {
    pub(super) async fn transfer<B>(
        &self,
        handler: &dyn StreamHandler,
        method: &http::Method,
        body: B,
    ) -> Result<Response<Body>, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: std::fmt::Display + Send,
    {
        let asked = match self.verb {
            Verb::Get => Method::Get,
            Verb::Update => Method::Update,
            _ => return Err(self.method_not_allowed()),
        };
        if !handler.methods().contains(&asked) {
            return Err(self.method_not_allowed());
        }
        let write = self.write(WriteOptions::parse(self.query)?);
        if write.dry_run {
            return Err(ApiError::bad_request("bytes cannot be sent for a dry run"));
        }
        let name = &self.path.name;
        let request = StreamRequest {
            method,
            context: write.context(name),
            headers: self.headers,
            target: &StoredTarget { write, name },
            body: body.map_err(|error| StreamError::from(error.to_string())).boxed_unsync(),
        };
        handler.handle(request).await
    }
}
