//! Reads a request's body within the limits and decodes it by its media type.

use std::fmt::Display;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body_util::BodyExt as _;

use crate::decode::{self, Decoded};
use crate::protobuf::{self, Message};
use crate::status::ApiError;

/// The largest body that is read, in bytes, as in Kubernetes.
pub(crate) const MAX_BODY: usize = 3 * 1024 * 1024;
/// Of a body that is too large, so much more is thrown away before the answer: a client that is still sending when the
/// connection is closed would never see it.
const MAX_DISCARDED: usize = 16 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The largest body in protobuf, in bytes: its values can take two bytes each.
const MAX_PROTOBUF: usize = 512 * 1024;

const MEDIA_TYPES: [&str; 2] = ["application/json", "application/yaml"];

/// Reads the whole body.
pub(crate) async fn read<B>(mut body: B) -> Result<Bytes, ApiError>
where
    B: http_body::Body + Unpin,
    B::Error: Display,
{
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("cannot read the request's body: {error}")))?;
        let Ok(mut data) = frame.into_data() else {
            continue;
        };
        if collected.len() + data.remaining() > MAX_BODY {
            drop(collected);
            discard(&mut body).await;
            return Err(ApiError::too_large(MAX_BODY));
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            collected.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
    }
    Ok(collected.freeze())
}

async fn discard<B: http_body::Body + Unpin>(body: &mut B) {
    let read = async {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.into_data().map_or(0, |data| data.remaining());
            if discarded > MAX_DISCARDED {
                return;
            }
        }
    };
    // whether it was all read or not, the answer is the same
    let _ = tokio::time::timeout(DISCARD_TIME, read).await;
}

/// The media type of the body without its parameters; empty if there is none.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    let full = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    full.split(';').next().unwrap_or_default().trim()
}

/// Decodes a body that holds an object. `message` is its protobuf message, for kinds that have one.
pub(crate) fn object(headers: &HeaderMap, bytes: &[u8], message: Option<Message>) -> Result<Decoded, ApiError> {
    let undecodable = |error: &dyn Display| ApiError::bad_request(format!("the body cannot be decoded: {error}"));
    match (media_type(headers), message) {
        ("" | "application/json", _) => decode::json(bytes).map_err(|error| undecodable(&error)),
        ("application/yaml", _) => decode::yaml(bytes).map_err(|error| undecodable(&error)),
        (protobuf::MEDIA_TYPE, Some(message)) => {
            if bytes.len() > MAX_PROTOBUF {
                return Err(ApiError::too_large(MAX_PROTOBUF));
            }
            let value = protobuf::decode(bytes, message).map_err(|error| undecodable(&error))?;
            Ok(Decoded { value, duplicates: Vec::new() })
        }
        (other, _) => Err(ApiError::unsupported_media_type(other, &MEDIA_TYPES)),
    }
}
