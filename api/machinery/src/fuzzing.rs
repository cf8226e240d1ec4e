//! The way in for fuzzing: a request straight into the REST layer, without TLS and HTTP framing, which are other people's
//! code; and what only a request leads to otherwise. Only with the feature `fuzzing`.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use crate::apply;
use crate::rest;
use crate::server::ApiServer;

/// Reads the token with which a client asks for the next page of a list. None if it is none of ours; else the token as the
/// server would give it out.
pub fn reissue_continuation(token: &str) -> Option<String> {
    rest::reissue_continuation(token)
}

/// Applies a configuration by force to an object whose `metadata.managedFields` may be anything. None if the configuration or the result
/// is refused.
pub fn apply(schema: &Value, live: &Value, configuration: &Value) -> Option<Value> {
    apply::by_force(schema, live, configuration)
}

/// Reads a field set in the format FieldsV1, and writes it. None if it is none.
pub fn rewrite_fields_v1(set: &Value) -> Option<Value> {
    apply::rewrite_fields_v1(set)
}

impl ApiServer {
    /// Answers a request of somebody without a certificate: the code, and the whole body.
    pub async fn answer(&self, request: Request<Bytes>) -> (u16, Bytes) {
        let (head, body) = self.api.clone().handle(request.map(Full::new), None).await.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        (head.status.as_u16(), body)
    }
}
