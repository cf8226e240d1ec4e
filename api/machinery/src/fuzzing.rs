//! The way in for fuzzing: a request straight into the REST layer, without TLS and HTTP framing, which are other people's
//! code. Only with the feature `fuzzing`.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};

use crate::server::ApiServer;

impl ApiServer {
    /// Answers a request of somebody without a certificate: the code, and the whole body.
    pub async fn answer(&self, request: Request<Bytes>) -> (u16, Bytes) {
        let (head, body) = self.api.clone().handle(request.map(Full::new), None).await.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        (head.status.as_u16(), body)
    }
}
